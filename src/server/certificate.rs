//! Certificates and revocation on the wire (RFC 8555 §7.4.2, §7.6).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use crate::acme::certificate::Leaf;
use crate::acme::problem::Problem;
use crate::acme::revocation::RevocationReason;
use crate::ra::certificate::Revoker;
use crate::server::Shared;
use crate::server::access_log::Downloaded;
use crate::server::order::parsed;
use crate::server::respond::Rejection;
use crate::server::signed::{ByAccountOrKey, PostAsGet};

#[derive(Deserialize)]
struct RevocationRequest {
    certificate: String,
    reason: Option<i64>,
}

/// POST-as-GET certificate.
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    signed: PostAsGet,
) -> Result<Response, Rejection> {
    chain(&shared, &signed, &id, 0).await
}

/// POST-as-GET of another chain for the same certificate.
pub(crate) async fn alternate(
    State(shared): State<Arc<Shared>>,
    Path((_, id, number)): Path<(String, String, String)>,
    signed: PostAsGet,
) -> Result<Response, Rejection> {
    let parsed = number.parse().ok();
    // One spelling only: the first chain has its own URL, and `01` is another resource than `1`.
    let known = parsed.filter(|parsed: &usize| *parsed > 0 && parsed.to_string() == number);
    chain(&shared, &signed, &id, known.ok_or_else(Problem::not_found)?).await
}

async fn chain(shared: &Shared, signed: &PostAsGet, id: &str, number: usize) -> Result<Response, Rejection> {
    let id = parsed(id)?;
    let (pem, chains) = shared.ra.certificate(&signed.account, id, number).await?;
    let downloaded = Leaf::of_pem(&pem).map(|leaf| Downloaded {
        leaf,
        provisioner: signed.account.provisioner().to_owned(),
    });
    let mut response = Response::new(Body::from(pem));
    if let Some(downloaded) = downloaded {
        response.extensions_mut().insert(downloaded);
    }
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/pem-certificate-chain"),
    );
    for other in (0..chains).filter(|other| *other != number) {
        let link = format!("<{}>;rel=\"alternate\"", signed.links.chain(id, other));
        if let Ok(link) = HeaderValue::from_str(&link) {
            headers.append(LINK, link);
        }
    }
    Ok(response)
}

/// POST revoke-cert.
pub(crate) async fn revoke(
    State(shared): State<Arc<Shared>>,
    signed: ByAccountOrKey,
) -> Result<Response, Rejection> {
    let request: RevocationRequest = signed.object()?;
    let reason = request.reason.map(RevocationReason::from_code).transpose()?;
    let leaf = URL_SAFE_NO_PAD
        .decode(request.certificate.trim_end_matches('='))
        .map_err(|_| Problem::malformed("the certificate is not base64url"))?;
    let revoker = match signed {
        ByAccountOrKey::Account(signed) => Revoker::Account(signed.account),
        ByAccountOrKey::Key(signed) => Revoker::Key(signed.key),
    };
    shared.ra.revoke(&revoker, leaf, reason).await?;
    Ok(StatusCode::OK.into_response())
}
