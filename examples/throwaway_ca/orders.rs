//! The throwaway CA's orders (RFC 8555 §7.4).

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::http_server::json as reply;
use super::jws;
use super::pki::Flaw;
use super::problem::Problem;
use super::protocol::{Ca, Verified, add, set};
use super::state::{
    Authorization, AuthorizationStatus, Certificate, Identifier, Order, Phase, Terms, lock, random_text,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<Identifier>,
    #[serde(flatten)]
    terms: Terms,
}

#[derive(Deserialize)]
struct Finalize {
    csr: String,
}

impl Ca {
    /// RFC 8555 §7.4, and §5 of RFC 9773 for `replaces`.
    pub(crate) fn new_order(&self, request: &Verified) -> Result<Response, Problem> {
        let account = request.account()?;
        let wanted: NewOrder = request.json()?;
        self.check_terms(account, &wanted.terms)?;
        if wanted.identifiers.is_empty() {
            return Err(Problem::malformed("an order needs an identifier"));
        }
        let status = match self.options.prevalidated {
            true => AuthorizationStatus::Valid,
            false => AuthorizationStatus::Pending,
        };
        let mut authorizations = Vec::with_capacity(wanted.identifiers.len());
        for identifier in wanted.identifiers {
            authorizations.push(Authorization {
                identifier: normalised(identifier)?,
                token: random_text(),
                status,
            });
        }
        let open = match self.options.orders_reused {
            true => self
                .memory
                .open_order(account, &authorizations, &wanted.terms.profile),
            false => None,
        };
        let order = open.unwrap_or_else(|| self.memory.open(account, authorizations, wanted.terms));
        Ok(self.order_reply(StatusCode::CREATED, &lock(&order)))
    }

    fn check_terms(&self, account: usize, terms: &Terms) -> Result<(), Problem> {
        let dated = terms.not_before.or(terms.not_after).is_some();
        if dated && !self.options.lifetimes {
            return Err(Problem::malformed("notBefore and notAfter are not offered here"));
        }
        if let Some(profile) = &terms.profile
            && !self.options.profiles.contains_key(profile)
        {
            let why = format!("there is no profile {profile}");
            return Err(Problem::new(400, "invalidProfile", why));
        }
        match &terms.replaces {
            Some(replaced) if self.options.renewal_info => self.memory.may_replace(account, replaced),
            Some(_) | None => Ok(()),
        }
    }

    /// RFC 8555 §7.1.3.
    pub(crate) fn show_order(&self, request: &Verified, id: &str) -> Result<Response, Problem> {
        let order = self.memory.order(request.account()?, id)?;
        Ok(self.order_reply(StatusCode::OK, &lock(&order)))
    }

    fn order_reply(&self, status: StatusCode, order: &Order) -> Response {
        let id = order.id;
        let authz = |index| self.url(format_args!("authz/{id}/{index}"));
        let identifiers: Vec<&Identifier> = order
            .authorizations
            .iter()
            .map(|authz| &authz.identifier)
            .collect();
        let shown = order.status();
        let mut body = json!({
            "status": shown,
            "identifiers": identifiers,
            "authorizations": (0..order.authorizations.len()).map(authz).collect::<Vec<_>>(),
            "finalize": self.url(format_args!("order/{id}/finalize")),
        });
        if let (Some(members), Ok(terms)) = (body.as_object_mut(), serde_json::to_value(&order.terms)) {
            members.extend(terms.as_object().cloned().unwrap_or_default());
        }
        let mut wait = Duration::ZERO;
        if let Phase::Issued { visible, serial } = &order.phase {
            if shown == "valid" {
                set(
                    &mut body,
                    "certificate",
                    self.url(format_args!("certificate/{serial}")),
                );
            }
            wait = visible.saturating_duration_since(Instant::now());
        }
        let mut response = reply(status, &body);
        add(
            response.headers_mut(),
            LOCATION,
            &self.url(format_args!("order/{id}")),
        );
        if shown == "processing" {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            add(response.headers_mut(), RETRY_AFTER, &seconds.to_string());
        }
        response
    }

    /// RFC 8555 §7.4: only a `ready` order, and it issues once however many requests arrive at the same time.
    pub(crate) fn finalize(
        &self,
        request: &Verified,
        id: &str,
        flaw: Option<&Flaw>,
    ) -> Result<Response, Problem> {
        let account = request.account()?;
        let order = self.memory.order(account, id)?;
        let csr = request.json::<Finalize>()?.csr;
        lock(&order).csrs.push(csr.clone());
        let (names, terms) = self.begin_finalize(&order)?;
        let issued = jws::decode(csr.trim_end_matches('=')).and_then(|csr| {
            self.pki
                .issue_as(&csr, &names, (terms.not_before, terms.not_after), flaw)
        });
        let leaf = match issued {
            Ok(leaf) => leaf,
            Err(problem) => {
                let mut order = lock(&order);
                order.refused += 1;
                order.phase = Phase::Open;
                return Err(problem);
            }
        };
        let certificate = Certificate {
            account,
            chain: leaf.chain,
            alternates: leaf.alternates,
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            revoked: false,
            replaced: false,
        };
        if let Some(replaced) = &terms.replaces {
            self.memory.replace(replaced);
        }
        lock(&self.memory.certificates).insert(leaf.serial.clone(), certificate);
        let mut order = lock(&order);
        order.finalizes += 1;
        order.phase = Phase::Issued {
            visible: Instant::now() + self.options.processing,
            serial: leaf.serial,
        };
        Ok(self.order_reply(StatusCode::OK, &order))
    }

    fn begin_finalize(&self, order: &Mutex<Order>) -> Result<(Vec<String>, Terms), Problem> {
        let mut order = lock(order);
        match order.status() {
            "ready" => {
                order.phase = Phase::Issuing;
                Ok((order.names(), order.terms.clone()))
            }
            status => {
                order.refused += 1;
                Err(Problem::new(
                    403,
                    "orderNotReady",
                    format!("the order is {status}"),
                ))
            }
        }
    }
}

/// One spelling for each name. Single labels such as `localhost` are welcome here.
fn normalised(identifier: Identifier) -> Result<Identifier, Problem> {
    let value = match identifier.kind.as_str() {
        "dns" => identifier.value.to_ascii_lowercase(),
        "ip" => match identifier.value.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => return Err(Problem::malformed("not an address")),
        },
        _ => return Err(Problem::new(400, "unsupportedIdentifier", "dns and ip only")),
    };
    Ok(Identifier {
        kind: identifier.kind,
        value,
    })
}
