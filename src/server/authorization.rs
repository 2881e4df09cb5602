//! Authorizations and challenges on the wire (RFC 8555 §7.1.4, §7.1.5, §7.5).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::header::{LINK, LOCATION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::acme::challenge::{Challenge, ChallengeState};
use crate::acme::id::{AuthorizationId, ChallengeId};
use crate::acme::order::Order;
use crate::acme::problem::{NamedIdentifier, Problem};
use crate::server::Shared;
use crate::server::link::Links;
use crate::server::order::wire_time;
use crate::server::respond::{self, Rejection};
use crate::server::signed::{ByAccount, Empty};

/// How long a client waits between two looks at a validation, in seconds.
const RETRY_AFTER_SECONDS: u16 = 3;

#[derive(Deserialize)]
struct DeactivationRequest {
    status: String,
}

#[derive(Serialize)]
struct AuthorizationObject {
    identifier: NamedIdentifier,
    status: String,
    expires: String,
    challenges: Vec<ChallengeObject>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    wildcard: bool,
}

#[derive(Serialize)]
struct ChallengeObject {
    #[serde(rename = "type")]
    kind: &'static str,
    url: String,
    status: &'static str,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    validated: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

fn challenge_object(
    id: AuthorizationId,
    of: &Authorization,
    challenge: &Challenge,
    links: &Links,
) -> ChallengeObject {
    let (validated, error) = match challenge.state() {
        ChallengeState::Pending => (None, None),
        ChallengeState::Processing { problem, .. } => (None, problem.clone()),
        ChallengeState::Valid(at) => (Some(wire_time(*at)), None),
        ChallengeState::Invalid(problem) => (None, Some(problem.clone())),
    };
    ChallengeObject {
        kind: challenge.kind().name(),
        url: links.challenge(ChallengeId {
            authorization: id,
            kind: challenge.kind(),
        }),
        status: challenge.status(),
        token: of.token().as_str().to_owned(),
        validated,
        error,
    }
}

/// POST authz: read or deactivate it (RFC 8555 §7.5, §7.5.2).
pub(crate) async fn post(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    signed: ByAccount,
) -> Result<Response, Rejection> {
    let id: AuthorizationId = id.parse().map_err(|_| Problem::not_found())?;
    let order = if signed.is_post_as_get() {
        shared.ra.authorization(&signed.account, id).await?
    } else {
        let DeactivationRequest { status } = signed.object()?;
        if status != "deactivated" {
            let detail = "the only status that a client can set is deactivated";
            return Err(Problem::malformed(detail).into());
        }
        shared.ra.deactivate_authorization(&signed.account, id).await?
    };
    object(id, &order, &signed.links, shared.ra.clock().now())
}

fn object(id: AuthorizationId, order: &Order, links: &Links, now: Timestamp) -> Result<Response, Rejection> {
    let authorization = order.authorization(id).ok_or_else(Problem::not_found)?;
    let status = authorization.status(order.expires(), now);
    let object = AuthorizationObject {
        // RFC 8555 §7.1.4: for a wildcard the identifier is the name without "*.", and `wildcard` is true.
        identifier: NamedIdentifier::from(&authorization.identifier().without_wildcard()),
        status: status.to_string(),
        expires: wire_time(order.expires()),
        challenges: authorization
            .challenges()
            .map(|challenge| challenge_object(id, authorization, challenge, links))
            .collect(),
        wildcard: authorization.identifier().is_wildcard(),
    };
    let location = [(LOCATION, links.authorization(id))];
    let mut response = respond::json(StatusCode::OK, location, &object)?;
    let validating = authorization
        .challenges()
        .any(|c| matches!(c.state(), ChallengeState::Processing { .. }));
    if validating && status == AuthorizationStatus::Pending {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    Ok(response)
}

/// POST challenge: an object starts the validation, POST-as-GET only looks (RFC 8555 §7.5.1).
pub(crate) async fn challenge(
    State(shared): State<Arc<Shared>>,
    Path((_, authorization, kind)): Path<(String, String, String)>,
    signed: ByAccount,
) -> Result<Response, Rejection> {
    let id = ChallengeId {
        authorization: authorization.parse().map_err(|_| Problem::not_found())?,
        kind: kind.parse().map_err(|_| Problem::not_found())?,
    };
    let order: Order = if signed.is_post_as_get() {
        shared.ra.challenge(&signed.account, id).await?
    } else {
        let Empty {} = signed.object()?;
        shared.ra.accept_challenge(&signed.account, id).await?
    };
    let authorization = order
        .authorization(id.authorization)
        .ok_or_else(Problem::not_found)?;
    let challenge = authorization.challenge(id.kind).ok_or_else(Problem::not_found)?;
    let object = challenge_object(id.authorization, authorization, challenge, &signed.links);
    let up = format!("<{}>;rel=\"up\"", signed.links.authorization(id.authorization));
    let headers = [(LINK, up), (LOCATION, signed.links.challenge(id))];
    let mut response = respond::json(StatusCode::OK, headers, &object)?;
    let status = authorization.status(order.expires(), shared.ra.clock().now());
    if matches!(challenge.state(), ChallengeState::Processing { .. })
        && status == AuthorizationStatus::Pending
    {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    Ok(response)
}
