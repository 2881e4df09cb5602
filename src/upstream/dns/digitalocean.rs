//! `digitalocean`: DigitalOcean's API, version 2.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::acme::secret::Secret;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    async fn api(values: &'static [&'static str]) -> (Api, DigitalOcean) {
        let answer = move |asked: &Asked| match asked.line.as_str() {
            line if line.starts_with("GET /v2/domains/example.com/records?") => {
                let records = values
                    .iter()
                    .zip(7..)
                    .map(|(value, id)| json!({ "id": id, "data": value }));
                (
                    200,
                    json!({ "domain_records": records.collect::<Vec<_>>() }).to_string(),
                )
            }
            line if line.starts_with("GET") => (404, json!({ "id": "not_found" }).to_string()),
            line if line.starts_with("POST") => (201, String::new()),
            _ => (204, String::new()),
        };
        let api = Api::start(answer).await;
        let provider = DigitalOcean {
            base: api.url.clone(),
            token: Secret::new("token".to_owned()),
            ttl: 30,
        };
        (api, provider)
    }

    #[tokio::test]
    async fn a_record_is_made_in_the_domain_that_there_is() {
        let (api, provider) = api(&["theirs"]).await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        assert!(
            asked[0]
                .line
                .starts_with("GET /v2/domains/_acme-challenge.www.example.com/records?")
        );
        let made = asked.last().unwrap();
        assert_eq!(made.line, "POST /v2/domains/example.com/records");
        assert_eq!(made.header("authorization"), "Bearer token");
        let name = "_acme-challenge.www.example.com.";
        assert_eq!(
            made.json(),
            json!({ "type": "TXT", "name": name, "data": "ours", "ttl": 30 })
        );
    }

    #[tokio::test]
    async fn our_own_record_alone_is_deleted() {
        let (api, provider) = api(&["theirs", "ours"]).await;
        withdraw(&provider).await.unwrap();
        assert_eq!(
            api.lines().pop().unwrap(),
            "DELETE /v2/domains/example.com/records/8"
        );
        present(&provider).await.unwrap();
        assert!(
            api.lines().pop().unwrap().starts_with("GET"),
            "it is there already"
        );
    }
}
