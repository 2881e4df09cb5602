//! `infoblox`: the Web API (WAPI) of an Infoblox grid manager.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::json;

use crate::acme::secret::Secret;
use crate::upstream::SetupError;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::variables::basic;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_json;
use crate::upstream::dns::web::with_query;
use crate::upstream::transport::roots_in;

#[derive(Debug)]
struct Infoblox {
    base: String,
    username: String,
    password: Secret,
    view: String,
    ttl: u32,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["HTTP_TIMEOUT"]);
    let host = variables.required("HOST", "the grid manager's host name");
    let port = variables.number("PORT", 443, 1..=65_535, "port");
    let version = variables
        .text("WAPI_VERSION")
        .unwrap_or_else(|| "2.11".to_owned());
    let username = variables.required("USERNAME", "the name of a user who may write TXT records");
    let password = variables.required_secret("PASSWORD", "that user's password");
    let view = variables
        .text("DNS_VIEW")
        .unwrap_or_else(|| "External".to_owned());
    let ttl = variables.ttl(120, 1);
    variables.roots = variables.text("CA_CERTIFICATE").map(Into::into);
    let trusted = match variables.roots.as_deref().map(roots_in).transpose() {
        Ok(_) => Ok(()),
        Err(SetupError::Roots { path, why }) => {
            let path = path.display();
            Err(variables.wrong(
                "CA_CERTIFICATE",
                format!("names {path}, which can not be used: {why}; write the full path of a PEM file"),
            ))
        }
        Err(other) => Err(variables.wrong("CA_CERTIFICATE", other.to_string())),
    };
    let verified = match variables.flag("SSL_VERIFY", true) {
        Ok(false) => Err(variables.wrong(
            "SSL_VERIFY",
            "can not be \"false\": the password would go to anybody; write INFOBLOX_CA_CERTIFICATE, the full path of a \
             PEM file with the appliance's certificate",
        )),
        outcome => outcome,
    };
    let base = format!("https://{}:{}/wapi/v{version}", host?, port?);
    verified?;
    trusted?;
    let (username, password) = (username?, password?);
    variables.secrets.push(basic(&username, &password));
    Ok(Arc::new(Infoblox {
        base: variables.url("HOST", &base, &["https"])?,
        username,
        password,
        view,
        ttl: ttl?,
    }))
}

#[derive(Deserialize)]
struct Txt {
    #[serde(rename = "_ref")]
    reference: String,
}

#[async_trait]
impl Provider for Infoblox {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let name = record.name.trim_end_matches('.');
        let records = format!("{}/record:txt", self.base);
        let query = [
            ("name", name),
            ("text", record.value.as_str()),
            ("view", self.view.as_str()),
        ];
        let request = self.signed(web.request(Method::GET, &with_query(&records, &query)?));
        let known: Vec<Txt> = web.send(request).await?.json()?;
        let request = match (action, known.first()) {
            (Action::Present, Some(_)) | (Action::Withdraw, None) => return Ok(()),
            (Action::Present, None) => {
                let txt = json!({
                    "name": name, "text": record.value, "view": self.view, "ttl": self.ttl, "use_ttl": true,
                    "comment": "acme-proxy",
                });
                with_json(web.request(Method::POST, &records), &txt)
            }
            (Action::Withdraw, Some(txt)) => {
                web.request(Method::DELETE, &format!("{}/{}", self.base, txt.reference))
            }
        };
        web.send(self.signed(request)).await?.success().map(drop)
    }
}

impl Infoblox {
    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        request.basic_auth(&self.username, Some(self.password.reveal()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    const REFERENCE: &str = "record:txt/ZG5zLmJpbmRfdHh0:_acme-challenge.www.example.com/External";

    async fn api(is_there: bool) -> (Api, Infoblox) {
        let answer = move |asked: &Asked| match asked.line.split(' ').next().unwrap() {
            "GET" if is_there => (200, json!([{ "_ref": REFERENCE }]).to_string()),
            "GET" => (200, "[]".to_owned()),
            "POST" => (201, json!(REFERENCE).to_string()),
            _ => (200, json!(REFERENCE).to_string()),
        };
        let api = Api::start(answer).await;
        let provider = Infoblox {
            base: format!("{}/wapi/v2.11", api.url),
            username: "user".to_owned(),
            password: Secret::new("hunter22".to_owned()),
            view: "External".to_owned(),
            ttl: 120,
        };
        (api, provider)
    }

    #[tokio::test]
    async fn a_record_is_looked_for_by_its_value_then_made() {
        let (api, provider) = api(false).await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        let query = "name=_acme-challenge.www.example.com&text=ours&view=External";
        assert_eq!(asked[0].line, format!("GET /wapi/v2.11/record:txt?{query}"));
        assert_eq!(asked[1].line, "POST /wapi/v2.11/record:txt");
        assert_eq!(asked[1].header("authorization"), "Basic dXNlcjpodW50ZXIyMg==");
        let made = asked[1].json();
        assert_eq!(
            (&made["text"], &made["view"], &made["ttl"]),
            (&json!("ours"), &json!("External"), &json!(120))
        );
        withdraw(&provider).await.unwrap();
        assert_eq!(api.lines().len(), 1, "there is nothing to take back");
    }

    #[tokio::test]
    async fn our_own_record_alone_is_deleted() {
        let (api, provider) = api(true).await;
        withdraw(&provider).await.unwrap();
        assert_eq!(api.lines()[1], format!("DELETE /wapi/v2.11/{REFERENCE}"));
    }
}
