//! The directory and new-nonce (RFC 8555 §7.1.1, §7.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Serialize;

use crate::acme::problem::Problem;
use crate::server::Shared;
use crate::server::link::Links;
use crate::server::respond::{self, Rejection};
use crate::server::signed::PostAsGet;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Directory<'a> {
    new_nonce: String,
    new_account: String,
    new_order: String,
    revoke_cert: String,
    key_change: String,
    renewal_info: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<DirectoryMeta<'a>>,
}

#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct DirectoryMeta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    terms_of_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    website: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    caa_identities: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    external_account_required: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    profiles: BTreeMap<String, String>,
}

/// GET directory.
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Extension(links): Extension<Links>,
    Path(provisioner): Path<String>,
) -> Result<Response, Rejection> {
    let meta = shared
        .settings
        .provisioners
        .iter()
        .find(|known| known.name == provisioner);
    let meta = meta.ok_or_else(Problem::not_found)?;
    let meta = DirectoryMeta {
        terms_of_service: meta.terms_of_service.as_deref(),
        website: meta.website.as_deref(),
        caa_identities: &meta.caa_identities,
        external_account_required: meta.external_account_required,
        profiles: shared.ra.profiles(&provisioner).await?,
    };
    let empty = DirectoryMeta {
        terms_of_service: None,
        website: None,
        caa_identities: &[],
        external_account_required: false,
        profiles: BTreeMap::new(),
    };
    let directory = Directory {
        new_nonce: links.to("new-nonce"),
        new_account: links.to("new-account"),
        new_order: links.to("new-order"),
        revoke_cert: links.to("revoke-cert"),
        key_change: links.to("key-change"),
        renewal_info: links.to("renewal-info"),
        meta: (meta != empty).then_some(meta),
    };
    respond::json(StatusCode::OK, [], &directory)
}

/// POST-as-GET directory (RFC 8555 §6.3 lets clients do that).
pub(crate) async fn post(
    state: State<Arc<Shared>>,
    links: Extension<Links>,
    provisioner: Path<String>,
    _: PostAsGet,
) -> Result<Response, Rejection> {
    get(state, links, provisioner).await
}

/// HEAD new-nonce. The nonce itself is added to the answer like to any other.
pub(crate) async fn nonce_head() -> Response {
    StatusCode::OK.into_response()
}

/// GET new-nonce.
pub(crate) async fn nonce_get() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// POST-as-GET new-nonce.
pub(crate) async fn nonce_post(_: PostAsGet) -> Response {
    StatusCode::OK.into_response()
}
