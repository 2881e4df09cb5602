//! `cloudflare`: Cloudflare's API, version 4, with an API token, or with an account's e-mail address and global key.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::json;

use crate::acme::secret::Secret;
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
    // lego takes the key, too, where both are given.
    let credentials = match (records, email, key) {
        (_, Some(email), Some(key)) => Credentials::GlobalKey { email, key },
        (Some(records), ..) => Credentials::Tokens {
            zones: zones.unwrap_or_else(|| records.clone()),
            records,
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    fn answer(asked: &Asked) -> (u16, String) {
        let result = match asked.line.as_str() {
            "GET /zones?name=example.com" => json!([{ "id": "zone-1", "name": "example.com" }]),
            line if line.starts_with(
                "GET /zones/zone-1/dns_records?type=TXT&name=_acme-challenge.www.example.com&",
            ) =>
            {
                json!([{ "id": "a", "content": "\"theirs\"" }, { "id": "b", "content": "\"ours\"" }])
            }
            line if line.starts_with("GET /zones?name=") => json!([]),
            _ => json!({ "id": "b" }),
        };
        (
            200,
            json!({ "success": true, "errors": [], "result": result }).to_string(),
        )
    }

    async fn api(credentials: Credentials) -> (Api, Cloudflare) {
        let api = Api::start(answer).await;
        let base = api.url.clone();
        let provider = Cloudflare {
            base,
            credentials,
            ttl: 120,
        };
        (api, provider)
    }

    #[tokio::test]
    async fn our_own_record_alone_is_deleted_and_one_that_is_there_is_not_made_again() {
        let records = Secret::new("edits".to_owned());
        let zones = Secret::new("reads".to_owned());
        let (api, provider) = api(Credentials::Tokens { records, zones }).await;
        withdraw(&provider).await.unwrap();
        let asked = api.asked();
        let lines: Vec<_> = asked.iter().map(|asked| asked.line.as_str()).collect();
        assert_eq!(lines[0], "GET /zones?name=_acme-challenge.www.example.com");
        assert_eq!(lines[2], "GET /zones?name=example.com");
        assert_eq!(lines[4..], ["DELETE /zones/zone-1/dns_records/b"]);
        assert_eq!(asked[2].header("authorization"), "Bearer reads");
        assert_eq!(asked[4].header("authorization"), "Bearer edits");
        present(&provider).await.unwrap();
        assert!(api.lines().iter().all(|line| line.starts_with("GET ")));
    }

    #[tokio::test]
    async fn a_record_is_made_with_the_global_key() {
        let credentials = Credentials::GlobalKey {
            email: "admin@example.com".to_owned(),
            key: Secret::new("key".to_owned()),
        };
        let (api, provider) = api(credentials).await;
        let mut record = crate::upstream::dns::scripted::record();
        record.value = "new".to_owned();
        let web = Web::new(None).unwrap();
        provider.apply(Action::Present, &record, &web).await.unwrap();
        let asked = api.asked().pop().unwrap();
        assert_eq!(asked.line, "POST /zones/zone-1/dns_records");
        assert_eq!(
            (asked.header("x-auth-email"), asked.header("x-auth-key")),
            ("admin@example.com", "key")
        );
        let name = "_acme-challenge.www.example.com";
        assert_eq!(
            asked.json(),
            json!({ "type": "TXT", "name": name, "content": "\"new\"", "ttl": 120 })
        );
    }
}
