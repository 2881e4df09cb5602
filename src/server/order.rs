//! Orders on the wire (RFC 8555 §7.1.3, §7.4).

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::certificate::IssuedCertificate;
use crate::acme::id::{AuthorizationId, OrderId};
use crate::acme::order::{Order, OrderStatus, Wishes};
use crate::acme::problem::{NamedIdentifier, Problem};
use crate::acme::renewal::InvalidCertificateId;
use crate::ra::order::NewOrder;
use crate::server::Shared;
use crate::server::access_log::RequestId;
use crate::server::link::Links;
use crate::server::peers::Peer;
use crate::server::respond::{self, Rejection};
use crate::server::signed::{ByAccount, PostAsGet};

/// How long a client waits between two looks at a processing order, in seconds.
const RETRY_AFTER_SECONDS: u16 = 5;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrderRequest {
    identifiers: Vec<NamedIdentifier>,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    profile: Option<String>,
    replaces: Option<String>,
}

#[derive(Deserialize)]
struct FinalizeRequest {
    csr: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderObject {
    status: String,
    expires: String,
    identifiers: Vec<NamedIdentifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
    authorizations: Vec<String>,
    finalize: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

fn object(status: StatusCode, order: &Order, links: &Links, now: Timestamp) -> Result<Response, Rejection> {
    // Once there is a certificate its validity is what counts, whatever was asked for.
    let (certificate, wishes) = (order.certificate(), order.wishes());
    let authorizations = (0_u16..).zip(order.authorizations());
    let object = OrderObject {
        status: order.status(now).to_string(),
        expires: wire_time(order.expires()),
        identifiers: order.identifiers().map(NamedIdentifier::from).collect(),
        not_before: certificate
            .map(IssuedCertificate::not_before)
            .or(wishes.not_before)
            .map(wire_time),
        not_after: certificate
            .map(IssuedCertificate::not_after)
            .or(wishes.not_after)
            .map(wire_time),
        profile: wishes.profile.clone(),
        replaces: wishes.replaces.as_ref().map(ToString::to_string),
        error: order.problem(now),
        authorizations: authorizations
            .map(|(index, _)| {
                links.authorization(AuthorizationId {
                    order: order.id(),
                    index,
                })
            })
            .collect(),
        finalize: links.finalize(order.id()),
        certificate: certificate.map(|_| links.certificate(order.id())),
    };
    let mut response = respond::json(status, [(LOCATION, links.order(order.id()))], &object)?;
    if order.status(now) == OrderStatus::Processing {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    Ok(response)
}

/// A time as RFC 3339 with whole seconds, which every client can read.
pub(crate) fn wire_time(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

/// POST new-order.
pub(crate) async fn new(
    State(shared): State<Arc<Shared>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    peer: Option<Extension<Peer>>,
    signed: ByAccount,
) -> Result<Response, Rejection> {
    let request: NewOrderRequest = signed.object()?;
    let replaces = request.replaces.as_deref().map(str::parse).transpose();
    let replaces = replaces.map_err(|error: InvalidCertificateId| {
        Problem::malformed(format!("replaces names no certificate: {error}"))
    });
    let request = NewOrder {
        identifiers: request.identifiers,
        wishes: Wishes {
            not_before: request.not_before,
            not_after: request.not_after,
            profile: request.profile,
            replaces: replaces?,
            at_most_days: None,
        },
        request_id: Some(request_id),
        address: peer.map(|Extension(Peer(address))| address),
    };
    let order = shared.ra.new_order(&signed.account, request).await?;
    object(
        StatusCode::CREATED,
        &order,
        &signed.links,
        shared.ra.clock().now(),
    )
}

/// POST-as-GET order.
pub(crate) async fn get(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    signed: PostAsGet,
) -> Result<Response, Rejection> {
    let order = shared.ra.order(&signed.account, parsed(&id)?).await?;
    object(StatusCode::OK, &order, &signed.links, shared.ra.clock().now())
}

/// POST order/…/finalize.
pub(crate) async fn finalize(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    peer: Option<Extension<Peer>>,
    signed: ByAccount,
) -> Result<Response, Rejection> {
    let id = parsed(&id)?;
    let request: FinalizeRequest = signed.object()?;
    // Synology's client and others pad; step-ca takes it, so their users rely on it.
    let csr = URL_SAFE_NO_PAD
        .decode(request.csr.trim_end_matches('='))
        .map_err(|_| Problem::malformed("the csr is not base64url"))?;
    let address = peer.map(|Extension(Peer(address))| address);
    let order = shared.ra.finalize(&signed.account, id, csr, address).await?;
    object(StatusCode::OK, &order, &signed.links, shared.ra.clock().now())
}

pub(crate) fn parsed(id: &str) -> Result<OrderId, Problem> {
    id.parse().map_err(|_| Problem::not_found())
}
