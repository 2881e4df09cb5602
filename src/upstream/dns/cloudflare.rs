//! `cloudflare`: Cloudflare's API, version 4, with an API token, or with an account's e-mail address and global key.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::json;

use crate::upstream::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::provider::ancestors;
use crate::upstream::dns::provider::quoted;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_json;
use crate::upstream::dns::web::with_query;

#[derive(Debug)]
struct Cloudflare {
    base: String,
    credentials: Credentials,
    ttl: u32,
}

#[derive(Debug)]
enum Credentials {
    Tokens {
        records: Secret,
        /// Finds the zone, where the other token may not.
        zones: Secret,
    },
    GlobalKey {
        email: String,
        key: Secret,
    },
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["HTTP_TIMEOUT"]);
    let base = variables.https("BASE_URL", "https://api.cloudflare.com/client/v4");
    let ttl = variables.ttl(120, 60);
    let email = variables.text("EMAIL").or_else(|| variables.text("API_EMAIL"));
    let key = variables.secret("API_KEY");
    let records = variables.secret("DNS_API_TOKEN");
    let zones = variables.secret("ZONE_API_TOKEN");
    let credentials = match (records, email, key) {
        (Some(records), ..) => Credentials::Tokens {
            zones: zones.unwrap_or_else(|| records.clone()),
            records,
        },
        (None, Some(email), Some(key)) => Credentials::GlobalKey { email, key },
        (None, Some(_), None) => {
            return Err(variables.wrong(
                "API_KEY",
                "is missing; write the key that belongs to the e-mail address",
            ));
        }
        (None, None, Some(_)) => {
            return Err(variables.wrong(
                "EMAIL",
                "is missing; write the e-mail address that the key belongs to",
            ));
        }
        (None, None, None) => {
            return Err(variables.wrong(
                "DNS_API_TOKEN",
                "is missing; write an API token that may edit the zone's DNS (CF_DNS_API_TOKEN is the same)",
            ));
        }
    };
    Ok(Arc::new(Cloudflare {
        base: base?,
        credentials,
        ttl: ttl?,
    }))
}

#[derive(Deserialize)]
struct Listed<T> {
    result: Vec<T>,
}

#[derive(Deserialize)]
struct Zone {
    id: String,
}

#[derive(Deserialize)]
struct Txt {
    id: String,
    content: String,
}

#[async_trait]
impl Provider for Cloudflare {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let zone = self.zone(record, web).await?;
        let name = record.name.trim_end_matches('.');
        let records = format!("{}/zones/{zone}/dns_records", self.base);
        let query = [("type", "TXT"), ("name", name), ("per_page", "100")];
        let request = web.request(Method::GET, &with_query(&records, &query)?);
        let known: Listed<Txt> = web.send(self.signed(request)).await?.json()?;
        let ours = |txt: &&Txt| txt.content.trim_matches('"') == record.value;
        match (action, known.result.iter().find(ours)) {
            (Action::Present, Some(_)) | (Action::Withdraw, None) => Ok(()),
            (Action::Present, None) => {
                let txt = json!({
                    "type": "TXT", "name": name, "content": quoted(&record.value), "ttl": self.ttl,
                });
                let request = with_json(web.request(Method::POST, &records), &txt);
                web.send(self.signed(request)).await?.success().map(drop)
            }
            (Action::Withdraw, Some(txt)) => {
                let request = web.request(Method::DELETE, &format!("{records}/{}", txt.id));
                web.send(self.signed(request)).await?.success().map(drop)
            }
        }
    }
}

impl Cloudflare {
    async fn zone(&self, record: &Record, web: &Web) -> Result<String, String> {
        for name in ancestors(&record.name) {
            let url = with_query(&format!("{}/zones", self.base), &[("name", name)])?;
            let request = web.request(Method::GET, &url);
            let request = match &self.credentials {
                Credentials::Tokens { zones, .. } => request.bearer_auth(zones.reveal()),
                Credentials::GlobalKey { .. } => self.signed(request),
            };
            let zones: Listed<Zone> = web.send(request).await?.json()?;
            if let Some(zone) = zones.result.into_iter().next() {
                return Ok(zone.id);
            }
        }
        Err("the credentials know no zone of this name".to_owned())
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials::Tokens { records, .. } => request.bearer_auth(records.reveal()),
            Credentials::GlobalKey { email, key } => request
                .header("X-Auth-Email", email)
                .header("X-Auth-Key", key.reveal()),
        }
    }
}
