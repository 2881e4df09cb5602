//! The throwaway CA's authorizations and challenges (RFC 8555 §7.5).

use axum::response::Response;
use http::StatusCode;
use http::header::LINK;
use serde_json::{Value, json};

use super::http_server::json as reply;
use super::problem::Problem;
use super::protocol::{Ca, Verified, add, set};
use super::state::{Authorization, AuthorizationStatus, Identifier, lock};

impl Ca {
    /// RFC 8555 §7.5.
    pub(crate) fn show_authorization(
        &self,
        request: &Verified,
        id: &str,
        index: &str,
    ) -> Result<Response, Problem> {
        let order = self.memory.order(request.account()?, id)?;
        let order = lock(&order);
        let authz = index
            .parse()
            .ok()
            .and_then(|index: usize| order.authorizations.get(index));
        let authz = authz.ok_or_else(Problem::not_found)?;
        let base_name = authz.identifier.value.strip_prefix("*.");
        // RFC 8555 §8.3: a wildcard is not proved by http-01. RFC 8738 §7: nor is an address by dns-01.
        let unfit = match (base_name, authz.identifier.kind.as_str()) {
            (Some(_), _) => "http-01",
            (None, "ip") => "dns-01",
            (None, _) => "",
        };
        let identifier = Identifier {
            kind: authz.identifier.kind.clone(),
            value: base_name.unwrap_or(&authz.identifier.value).to_owned(),
        };
        let offered = self.options.challenges.iter().filter(|kind| *kind != unfit);
        let challenges: Vec<Value> = offered
            .map(|kind| self.challenge(id, index, kind, authz))
            .collect();
        let mut body = json!({
            "status": authz.status.as_str(),
            "identifier": identifier,
            "challenges": challenges,
        });
        if base_name.is_some() {
            set(&mut body, "wildcard", true);
        }
        Ok(reply(StatusCode::OK, &body))
    }

    fn challenge(&self, id: &str, index: &str, kind: &str, authz: &Authorization) -> Value {
        let mut challenge = json!({
            "type": kind,
            "url": self.url(format_args!("challenge/{id}/{index}/{kind}")),
            "token": authz.token,
            "status": authz.status.as_str(),
        });
        if authz.status == AuthorizationStatus::Invalid {
            let error = json!({
                "type": "urn:ietf:params:acme:error:unauthorized",
                "status": 403,
                "detail": "this throwaway CA was told to fail challenges",
            });
            set(&mut challenge, "error", error);
        }
        challenge
    }

    /// RFC 8555 §7.5.1. The answer is not looked at: the outcome is an option.
    pub(crate) fn accept_challenge(
        &self,
        request: &Verified,
        id: &str,
        index: &str,
        kind: &str,
    ) -> Result<Response, Problem> {
        let order = self.memory.order(request.account()?, id)?;
        let mut order = lock(&order);
        let authz = index
            .parse()
            .ok()
            .and_then(|index: usize| order.authorizations.get_mut(index));
        let authz = authz.filter(|_| self.options.challenges.iter().any(|offered| offered == kind));
        let authz = authz.ok_or_else(Problem::not_found)?;
        // POST-as-GET only looks (§6.3); `{}` says that the answer stands.
        if authz.status == AuthorizationStatus::Pending && !request.payload.is_empty() {
            authz.status = match self.options.challenges_succeed {
                true => AuthorizationStatus::Valid,
                false => AuthorizationStatus::Invalid,
            };
        }
        let mut response = reply(StatusCode::OK, &self.challenge(id, index, kind, authz));
        let up = format!("<{}>;rel=\"up\"", self.url(format_args!("authz/{id}/{index}")));
        add(response.headers_mut(), LINK, &up);
        Ok(response)
    }
}
