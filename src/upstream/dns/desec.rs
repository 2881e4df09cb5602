//! `desec`: deSEC's API (<https://desec.readthedocs.io>), which keeps the values of a name as one set.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::StatusCode;
use http::header::AUTHORIZATION;
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::json;

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::provider::quoted;
use crate::upstream::dns::provider::within;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_json;
use crate::upstream::dns::web::with_query;

#[derive(Debug)]
struct Desec {
    base: String,
    token: Secret,
    ttl: u32,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["HTTP_TIMEOUT"]);
    let token = variables.required_secret("TOKEN", "an API token that may write the zone");
    let ttl = variables.ttl(3600, 60);
    Ok(Arc::new(Desec {
        base: "https://desec.io/api/v1".to_owned(),
        token: token?,
        ttl: ttl?,
    }))
}

#[derive(Deserialize)]
struct Domain {
    name: String,
}

#[derive(Deserialize)]
struct Set {
    records: Vec<String>,
}

#[async_trait]
impl Provider for Desec {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let name = record.name.trim_end_matches('.');
        let url = with_query(&format!("{}/domains/", self.base), &[("owns_qname", name)])?;
        let request = self.signed(web.request(Method::GET, &url));
        let domains: Vec<Domain> = web.send(request).await?.json()?;
        let Some(Domain { name: zone }) = domains.into_iter().next() else {
            return Err("the token knows no domain of this name".to_owned());
        };
        let subname = within(name, &zone);
        let sets = format!("{}/domains/{zone}/rrsets/", self.base);
        // The zone itself is written so in the path, and empty in a body.
        let in_path = if subname.is_empty() { "@" } else { subname };
        let set = format!("{sets}{in_path}/TXT/");
        let reply = web.send(self.signed(web.request(Method::GET, &set))).await?;
        let known = match reply.status {
            StatusCode::NOT_FOUND => None,
            _ => Some(reply.json::<Set>()?.records),
        };
        let is_new = known.is_none();
        let Some(values) = action.on(known.unwrap_or_default(), &quoted(&record.value)) else {
            return Ok(());
        };
        let request = match is_new {
            true => {
                let new = json!({ "subname": subname, "type": "TXT", "ttl": self.ttl, "records": values });
                with_json(web.request(Method::POST, &sets), &new)
            }
            // A set without a value is gone.
            false => with_json(web.request(Method::PATCH, &set), &json!({ "records": values })),
        };
        web.send(self.signed(request)).await?.success().map(drop)
    }
}

impl Desec {
    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(AUTHORIZATION, format!("Token {}", self.token.reveal()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    const SET: &str = "/domains/example.com/rrsets/_acme-challenge.www/TXT/";

    async fn api(records: Option<&'static [&'static str]>) -> (Api, Desec) {
        let answer = move |asked: &Asked| match (asked.line.as_str(), records) {
            ("GET /domains/?owns_qname=_acme-challenge.www.example.com", _) => (
                200,
                json!([{ "name": "example.com", "minimum_ttl": 3600 }]).to_string(),
            ),
            (line, Some(records)) if line == format!("GET {SET}") => {
                (200, json!({ "records": records, "ttl": 3600 }).to_string())
            }
            (line, None) if line.starts_with("GET") => (404, json!({ "detail": "Not found." }).to_string()),
            _ => (200, String::new()),
        };
        let api = Api::start(answer).await;
        let provider = Desec {
            base: api.url.clone(),
            token: Secret::new("token".to_owned()),
            ttl: 3600,
        };
        (api, provider)
    }

    #[tokio::test]
    async fn a_set_is_made_where_there_is_none() {
        let (api, provider) = api(None).await;
        present(&provider).await.unwrap();
        let asked = api.asked().pop().unwrap();
        assert_eq!(asked.line, "POST /domains/example.com/rrsets/");
        assert_eq!(asked.header("authorization"), "Token token");
        let set =
            json!({ "subname": "_acme-challenge.www", "type": "TXT", "ttl": 3600, "records": ["\"ours\""] });
        assert_eq!(asked.json(), set);
        withdraw(&provider).await.unwrap();
        assert!(
            api.lines().pop().unwrap().starts_with("GET"),
            "there is nothing to take back"
        );
    }

    #[tokio::test]
    async fn the_values_of_others_stay_in_the_set() {
        let (api, provider) = api(Some(&["\"theirs\"", "\"ours\""])).await;
        withdraw(&provider).await.unwrap();
        let asked = api.asked().pop().unwrap();
        assert_eq!(
            (asked.line.as_str(), asked.json()),
            (&*format!("PATCH {SET}"), json!({ "records": ["\"theirs\""] }))
        );
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let (_api, provider) = api(Some(&[])).await;
        let other = Desec {
            base: format!("{}/nothing", provider.base),
            ..provider
        };
        let error = present(&other).await.unwrap_err();
        assert!(error.starts_with("127.0.0.1 answers "), "{error}");
    }
}
