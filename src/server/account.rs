//! Accounts on the wire (RFC 8555 §7.1.2, §7.3).

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::StatusCode;
use http::header::{LINK, LOCATION};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::acme::account::Account;
use crate::acme::external_account::Binding;
use crate::acme::id::{AccountName, OrderId};
use crate::acme::problem::Problem;
use crate::jose::eab;
use crate::ra::account::{AccountUpdate, NewAccount};
use crate::server::Shared;
use crate::server::link::Links;
use crate::server::peers::Peer;
use crate::server::respond::{self, Rejection};
use crate::server::signed::{ByAccount, ByKey, PostAsGet};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewAccountRequest {
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_of_service_agreed: bool,
    #[serde(default)]
    only_return_existing: bool,
    external_account_binding: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct UpdateRequest {
    contact: Option<Vec<String>>,
    status: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountObject<'a> {
    status: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contact: Vec<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    terms_of_service_agreed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_account_binding: Option<&'a RawValue>,
    orders: String,
}

#[derive(Serialize)]
struct OrdersObject {
    orders: Vec<String>,
}

pub(crate) fn object(status: StatusCode, account: &Account, links: &Links) -> Result<Response, Rejection> {
    let object = AccountObject {
        status: account.status().to_string(),
        contact: account.contact().iter().map(|contact| contact.as_str()).collect(),
        terms_of_service_agreed: account.terms_of_service_agreed(),
        external_account_binding: account.binding().and_then(reflected),
        orders: links.orders(&account.name()),
    };
    respond::json(status, [(LOCATION, links.account(&account.name()))], &object)
}

/// The binding as the client sent it: it was JSON then.
fn reflected(binding: &Binding) -> Option<&RawValue> {
    serde_json::from_str(binding.jws()).ok()
}

/// POST new-account.
pub(crate) async fn new(
    State(shared): State<Arc<Shared>>,
    peer: Option<Extension<Peer>>,
    signed: ByKey,
) -> Result<Response, Rejection> {
    let request: NewAccountRequest = signed.object()?;
    let binding = request.external_account_binding;
    let request = NewAccount {
        contact: request.contact,
        terms_of_service_agreed: request.terms_of_service_agreed,
        only_return_existing: request.only_return_existing,
        binding: binding.map(|json| eab::Unverified::parse(json.get(), &signed.url, &signed.key)),
        address: peer.map(|Extension(Peer(address))| address),
    };
    let (account, is_new) = shared
        .ra
        .register(&signed.provisioner, signed.key, request)
        .await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    object(status, &account, &signed.links)
}

/// POST account: read, change or deactivate it.
pub(crate) async fn post(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    signed: ByAccount,
) -> Result<Response, Rejection> {
    require_own(&signed.account, &id)?;
    if signed.is_post_as_get() {
        return object(StatusCode::OK, &signed.account, &signed.links);
    }
    let request: UpdateRequest = signed.object()?;
    let deactivate = match request.status.as_deref() {
        Some("deactivated") => true,
        Some("valid") | None => false,
        Some(_) => {
            return Err(Problem::malformed("the only status that a client can set is deactivated").into());
        }
    };
    let update = AccountUpdate {
        contact: request.contact,
        deactivate,
    };
    let account = shared.ra.update_account(&signed.account, update).await?;
    object(StatusCode::OK, &account, &signed.links)
}

/// POST-as-GET account/…/orders (RFC 8555 §7.1.2.1).
pub(crate) async fn orders(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    signed: PostAsGet,
) -> Result<Response, Rejection> {
    require_own(&signed.account, &id)?;
    let after = query.as_deref().map(page_after).transpose()?;
    let page = shared.ra.orders(&signed.account, after).await?;
    let links = &signed.links;
    let object = OrdersObject {
        orders: page.orders.into_iter().map(|order| links.order(order)).collect(),
    };
    match page.next {
        None => respond::json(StatusCode::OK, [], &object),
        Some(next) => {
            let next = format!(
                "<{}?cursor={next}>;rel=\"next\"",
                links.orders(&signed.account.name())
            );
            respond::json(StatusCode::OK, [(LINK, next)], &object)
        }
    }
}

/// The order after which a page starts: the only queries are those of our own `next` links.
fn page_after(query: &str) -> Result<OrderId, Problem> {
    let cursor = query.strip_prefix("cursor=").and_then(|id| id.parse().ok());
    cursor.ok_or_else(Problem::not_found)
}

/// An account may only look at itself; others' accounts and none at all give the same answer.
fn require_own(account: &Account, id: &str) -> Result<(), Rejection> {
    let name: Option<AccountName> = id.parse().ok();
    match name == Some(account.name()) {
        true => Ok(()),
        false => Err(Problem::unauthorized("the account is not the one that signed the request").into()),
    }
}
