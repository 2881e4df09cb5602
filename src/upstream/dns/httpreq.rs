//! `httpreq`: an HTTP server of the operator's own, by the contract of lego's provider of this name: `POST
//! ENDPOINT/present` and `POST ENDPOINT/cleanup` with `{"fqdn", "value"}`, or `{"domain", "token", "keyAuth"}` in the mode
//! `RAW`.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::header::ACCEPT;
use serde_json::json;

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::variables::basic;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_json;

#[derive(Debug)]
struct HttpReq {
    endpoint: String,
    raw: bool,
    user: Option<(String, Secret)>,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["HTTP_TIMEOUT"]);
    let endpoint = variables.endpoint("ENDPOINT");
    let raw = match variables.text("MODE").as_deref() {
        None => Ok(false),
        Some("RAW") => Ok(true),
        Some(_) => Err(variables.wrong("MODE", "is no mode; write \"RAW\" or nothing")),
    };
    let user = match (variables.text("USERNAME"), variables.secret("PASSWORD")) {
        (Some(name), Some(password)) => {
            variables.secrets.push(basic(&name, &password));
            Ok(Some((name, password)))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(variables.wrong("PASSWORD", "is missing; write both, or none")),
        (None, Some(_)) => Err(variables.wrong("USERNAME", "is missing; write both, or none")),
    };
    Ok(Arc::new(HttpReq {
        endpoint: endpoint?,
        raw: raw?,
        user: user?,
    }))
}

#[async_trait]
impl Provider for HttpReq {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let action = match action {
            Action::Present => "present",
            Action::Withdraw => "cleanup",
        };
        let body = match self.raw {
            false => json!({ "fqdn": record.name, "value": record.value }),
            true => json!({
                "domain": record.domain,
                "token": record.token,
                "keyAuth": record.key_authorization,
            }),
        };
        let mut request = web.request(Method::POST, &format!("{}/{action}", self.endpoint));
        if let Some((name, password)) = &self.user {
            request = request.basic_auth(name, Some(password.reveal()));
        }
        let request = request.header(ACCEPT, "application/json");
        web.send(with_json(request, &body)).await?.success().map(drop)
    }
}
