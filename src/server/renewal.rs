//! Renewal information on the wire (RFC 9773 §4.2): anybody may ask, and the answer is in the store.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::Serialize;

use crate::acme::problem::Problem;
use crate::acme::renewal::{CertificateId, InvalidCertificateId};
use crate::server::Shared;
use crate::server::order::wire_time;
use crate::server::respond::{self, Rejection};

/// When a client may ask again, in seconds: 6 hours, as at Let's Encrypt.
const RETRY_AFTER_SECONDS: u32 = 6 * 3600;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfoObject<'a> {
    suggested_window: WindowObject,
    #[serde(rename = "explanationURL", skip_serializing_if = "Option::is_none")]
    explanation_url: Option<&'a str>,
}

#[derive(Serialize)]
struct WindowObject {
    start: String,
    end: String,
}

/// GET renewal-info.
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path((provisioner, id)): Path<(String, String)>,
) -> Result<Response, Rejection> {
    let id: CertificateId = id
        .parse()
        .map_err(|error: InvalidCertificateId| Problem::malformed(error.to_string()))?;
    let renewal = shared.ra.renewal(&provisioner, &id).await?;
    let object = RenewalInfoObject {
        suggested_window: WindowObject {
            start: wire_time(renewal.start()),
            end: wire_time(renewal.end()),
        },
        explanation_url: renewal.explanation(),
    };
    let headers = [(RETRY_AFTER, RETRY_AFTER_SECONDS.to_string())];
    respond::json(StatusCode::OK, headers, &object)
}
