//! `digitalocean`: DigitalOcean's API, version 2.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::upstream::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::provider::ancestors;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_json;
use crate::upstream::dns::web::with_query;

#[derive(Debug)]
struct DigitalOcean {
    base: String,
    token: Secret,
    ttl: u32,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["HTTP_TIMEOUT"]);
    let base = variables.https("API_URL", "https://api.digitalocean.com");
    let token = variables.required_secret("AUTH_TOKEN", "an API token with write access");
    let ttl = variables.ttl(30, 30);
    Ok(Arc::new(DigitalOcean {
        base: base?,
        token: token?,
        ttl: ttl?,
    }))
}

#[derive(Deserialize)]
struct Listed {
    domain_records: Vec<Txt>,
}

#[derive(Deserialize)]
struct Txt {
    id: u64,
    data: String,
}

#[async_trait]
impl Provider for DigitalOcean {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let name = record.name.trim_end_matches('.');
        let query = [("type", "TXT"), ("name", name), ("per_page", "200")];
        for zone in ancestors(name) {
            let records = format!("{}/v2/domains/{zone}/records", self.base);
            let request = web.request(Method::GET, &with_query(&records, &query)?);
            let reply = web.send(request.bearer_auth(self.token.reveal())).await?;
            if reply.status == StatusCode::NOT_FOUND {
                continue;
            }
            let known: Listed = reply.json()?;
            let ours = known.domain_records.iter().find(|txt| txt.data == record.value);
            let request = match (action, ours) {
                (Action::Present, Some(_)) | (Action::Withdraw, None) => return Ok(()),
                (Action::Present, None) => {
                    let txt = json!({
                        "type": "TXT", "name": record.name, "data": record.value, "ttl": self.ttl,
                    });
                    with_json(web.request(Method::POST, &records), &txt)
                }
                (Action::Withdraw, Some(txt)) => {
                    web.request(Method::DELETE, &format!("{records}/{}", txt.id))
                }
            };
            let reply = web.send(request.bearer_auth(self.token.reveal())).await?;
            return reply.success().map(drop);
        }
        Err("the token knows no domain of this name".to_owned())
    }
}
