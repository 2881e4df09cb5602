//! Key changes on the wire (RFC 8555 §7.3.5).

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use crate::acme::problem::Problem;
use crate::jose::jws::JwsError;
use crate::jose::key_change::KeyChange;
use crate::ra::key_change::KeyChanged;
use crate::server::Shared;
use crate::server::account;
use crate::server::respond::Rejection;
use crate::server::signed::ByAccount;

/// POST key-change.
pub(crate) async fn post(
    State(shared): State<Arc<Shared>>,
    signed: ByAccount,
) -> Result<Response, Rejection> {
    let change = KeyChange::verify(signed.payload(), &signed.url).map_err(of_inner)?;
    // RFC 8555 §7.3.5: "Check that the "account" field of the keyChange object contains the URL for the account matching
    // the old key (i.e., the "kid" field in the outer JWS)."
    if change.account != signed.kid {
        return Err(Problem::malformed("the account in the inner JWS is not the one in kid").into());
    }
    match shared.ra.change_key(&signed.account, change).await? {
        KeyChanged::Done(account) => {
            tracing::info!(
                audit = true, account.id = %account.id(), account.key = account.key().thumbprint(),
                account.old_key = signed.account.key().thumbprint(), "account key changed"
            );
            account::object(StatusCode::OK, &account, &signed.links)
        }
        // "If there is an existing account with the new key provided, then the server SHOULD use status code 409
        // (Conflict) and provide the URL of that account in the Location header field." Only who has signed with that
        // key reads it.
        KeyChanged::Taken(holder) => {
            let problem = Problem::malformed("the new key is another account's").with_status(409);
            let mut response = Rejection::from(problem).into_response();
            if let Ok(url) = HeaderValue::from_str(&signed.links.account(&holder)) {
                response.headers_mut().insert(LOCATION, url);
            }
            Ok(response)
        }
    }
}

/// The detail says which of the two JWS is meant.
fn of_inner(error: JwsError) -> Rejection {
    match error {
        JwsError::Malformed(detail) => Problem::malformed(format!("in the inner JWS: {detail}")).into(),
        error @ (JwsError::Algorithm | JwsError::Key(_)) => error.into(),
    }
}
