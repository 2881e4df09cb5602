//! `azuredns`: Azure DNS, with a service principal's secret. The zone is found through Azure Resource Graph, and a change
//! holds only if nobody else has changed the set of values in between.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use http::StatusCode;
use http::header::IF_MATCH;
use http::header::IF_NONE_MATCH;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::provider::ancestors;
use crate::upstream::dns::provider::within;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_form;
use crate::upstream::dns::web::with_json;

/// Name, where tokens come from, where resources are managed.
const ENVIRONMENTS: [(&str, &str, &str); 3] = [
    (
        "public",
        "https://login.microsoftonline.com",
        "https://management.azure.com",
    ),
    (
        "usgovernment",
        "https://login.microsoftonline.us",
        "https://management.usgovcloudapi.net",
    ),
    (
        "china",
        "https://login.chinacloudapi.cn",
        "https://management.chinacloudapi.cn",
    ),
];

/// Somebody else may have changed the set in between.
const ATTEMPTS: usize = 3;

#[derive(Debug)]
struct AzureDns {
    login: String,
    management: String,
    tenant: String,
    client: String,
    secret: Secret,
    subscription: Option<String>,
    group: Option<String>,
    zone: Option<String>,
    private: bool,
    ttl: u32,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["AUTH_MSI_TIMEOUT"]);
    let filter = variables.unavailable(
        &["CLIENT_CERTIFICATE_PATH", "SERVICEDISCOVERY_FILTER"],
        "write AZURE_CLIENT_SECRET, and AZURE_SUBSCRIPTION_ID and AZURE_RESOURCE_GROUP to choose the zone",
    );
    let method = match variables.text("AUTH_METHOD").as_deref() {
        None | Some("env") => Ok(()),
        Some(_) => Err(variables.wrong("AUTH_METHOD", "is not available in this version; write \"env\"")),
    };
    let environment = variables
        .text("ENVIRONMENT")
        .unwrap_or_else(|| "public".to_owned());
    let environment = environment.to_ascii_lowercase();
    let place = ENVIRONMENTS.iter().find(|(name, ..)| *name == environment);
    let place = place.ok_or_else(|| {
        variables.wrong(
            "ENVIRONMENT",
            "is unknown; write \"public\", \"usgovernment\" or \"china\"",
        )
    });
    let tenant = plain(variables, "TENANT_ID").and_then(|tenant| {
        tenant.ok_or_else(|| variables.wrong("TENANT_ID", "is missing; write the id of the tenant"))
    });
    let client = variables.required(
        "CLIENT_ID",
        "the id of a service principal that may change the zone",
    );
    let secret = variables.required_secret("CLIENT_SECRET", "the secret of the service principal");
    let subscription = plain(variables, "SUBSCRIPTION_ID");
    let group = plain(variables, "RESOURCE_GROUP");
    let zone = plain(variables, "ZONE_NAME");
    let private = variables.flag("PRIVATE_ZONE", false);
    let ttl = variables.ttl(60, 1);
    filter?;
    method?;
    let (_, login, management) = place?;
    Ok(Arc::new(AzureDns {
        login: (*login).to_owned(),
        management: (*management).to_owned(),
        tenant: tenant?,
        client: client?,
        secret: secret?,
        subscription: subscription?,
        group: group?,
        zone: zone?,
        private: private?,
        ttl: ttl?,
    }))
}

/// A value that stands in URLs and in queries.
fn plain(variables: &mut Variables, suffix: &str) -> Result<Option<String>, Noted> {
    let value = variables.text(suffix);
    let plain = |c: char| c.is_alphanumeric() || "-_.()".contains(c);
    match value.as_ref().is_none_or(|value| value.chars().all(plain)) {
        true => Ok(value),
        false => Err(variables.wrong(suffix, "has characters that Azure's names do not have")),
    }
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[derive(Deserialize)]
struct Zones {
    data: Vec<Zone>,
}

#[derive(Deserialize)]
struct Zone {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Set {
    etag: Option<String>,
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "TTL", alias = "ttl", default)]
    ttl: Option<u32>,
    #[serde(rename = "TXTRecords", alias = "txtRecords", default)]
    records: Vec<Txt>,
}

#[derive(Deserialize)]
struct Txt {
    value: Vec<String>,
}

#[async_trait]
impl Provider for AzureDns {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let token = self.token(web).await?;
        let zone = self.zone_of(&record.name, &token, web).await?;
        let name = match within(&record.name, &zone.name) {
            "" => "@",
            name => name,
        };
        let (version, ttl, records) = match self.private {
            false => ("2018-05-01", "TTL", "TXTRecords"),
            true => ("2018-09-01", "ttl", "txtRecords"),
        };
        let url = format!("{}{}/TXT/{name}?api-version={version}", self.management, zone.id);
        let mut refusal = String::new();
        for _ in 0..ATTEMPTS {
            let reply = web
                .send(web.request(Method::GET, &url).bearer_auth(&token))
                .await?;
            let old = match reply.status {
                StatusCode::NOT_FOUND => None,
                _ => Some(reply.json::<Set>()?),
            };
            let values = old.iter().flat_map(|set| &set.properties.records);
            let values = values.map(|txt| txt.value.concat()).collect();
            let Some(values) = action.on(values, &record.value) else {
                return Ok(());
            };
            let method = match values.is_empty() {
                true => Method::DELETE,
                false => Method::PUT,
            };
            let mut request = web.request(method.clone(), &url).bearer_auth(&token);
            request = match old.as_ref().map(|set| set.etag.as_deref()) {
                Some(etag) => request.header(IF_MATCH, etag.unwrap_or("*")),
                None => request.header(IF_NONE_MATCH, "*"),
            };
            if method == Method::PUT {
                let seconds = old.and_then(|set| set.properties.ttl).unwrap_or(self.ttl);
                let texts: Vec<Value> = values
                    .iter()
                    .map(|value| json!({ "value": chunks(value) }))
                    .collect();
                request = with_json(
                    request,
                    &json!({ "properties": { ttl: seconds, records: texts } }),
                );
            }
            let reply = web.send(request).await?;
            if reply.status != StatusCode::PRECONDITION_FAILED {
                return reply.success().map(drop);
            }
            refusal = reply.refusal();
        }
        Err(refusal)
    }
}

/// A string of a TXT record holds 255 bytes; others' values may be longer.
fn chunks(value: &str) -> Vec<String> {
    let mut chunks = vec![String::new()];
    for c in value.chars() {
        match chunks.last_mut() {
            Some(last) if last.len().saturating_add(c.len_utf8()) <= 255 => last.push(c),
            _ => chunks.push(c.to_string()),
        }
    }
    chunks
}

impl AzureDns {
    async fn token(&self, web: &Web) -> Result<String, String> {
        let url = format!("{}/{}/oauth2/v2.0/token", self.login, self.tenant);
        let scope = format!("{}/.default", self.management);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.client.as_str()),
            ("client_secret", self.secret.reveal()),
            ("scope", scope.as_str()),
        ];
        let request = with_form(web.request(Method::POST, &url), &form);
        let token: Token = web.send(request).await?.json()?;
        Ok(web.hide(token.access_token))
    }

    async fn zone_of(&self, name: &str, token: &str, web: &Web) -> Result<Zone, String> {
        let kind = match self.private {
            false => "microsoft.network/dnszones",
            true => "microsoft.network/privatednszones",
        };
        let mut candidates: Vec<&str> = ancestors(name).collect();
        if let Some(zone) = &self.zone {
            candidates.retain(|name| name.eq_ignore_ascii_case(zone.trim_end_matches('.')));
            if candidates.is_empty() {
                return Err(format!("is not in the zone {zone}, which AZURE_ZONE_NAME names"));
            }
        }
        let named: Vec<_> = candidates.iter().map(|name| format!("\"{name}\"")).collect();
        let mut query = format!(
            "resources | where type =~ \"{kind}\" | where name in~ ({})",
            named.join(", ")
        );
        for (column, value) in [
            ("subscriptionId", &self.subscription),
            ("resourceGroup", &self.group),
        ] {
            if let Some(value) = value {
                query.push_str(&format!(" | where {column} =~ \"{value}\""));
            }
        }
        query.push_str(" | project id, name");
        let url = format!(
            "{}/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01",
            self.management
        );
        let body = json!({ "query": query, "options": { "resultFormat": "objectArray" } });
        let request = with_json(web.request(Method::POST, &url), &body).bearer_auth(token);
        let zones: Zones = web.send(request).await?.json()?;
        let longest = zones.data.iter().map(|zone| zone.name.len()).max();
        let mut found = zones
            .data
            .into_iter()
            .filter(|zone| Some(zone.name.len()) == longest);
        match (found.next(), found.next()) {
            (Some(zone), None) if zone.id.starts_with('/') => Ok(zone),
            (Some(_), Some(_)) => {
                Err("there are several zones of this name: write AZURE_RESOURCE_GROUP".to_owned())
            }
            (Some(_) | None, _) => Err("the service principal knows no zone of this name".to_owned()),
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

    const ZONE: &str =
        "/subscriptions/s-1/resourceGroups/dns/providers/Microsoft.Network/dnszones/example.com";

    async fn api(values: &'static [&'static str], change: u16) -> (Api, AzureDns) {
        let answer = move |asked: &Asked| match asked.line.as_str() {
            "POST /tenant/oauth2/v2.0/token" => (200, json!({ "access_token": "fresh" }).to_string()),
            line if line.contains("/Microsoft.ResourceGraph/") => (
                200,
                json!({ "totalRecords": 1, "data": [{ "id": ZONE, "name": "example.com" }] }).to_string(),
            ),
            line if line.starts_with("GET") && values.is_empty() => (404, "{}".to_owned()),
            line if line.starts_with("GET") => {
                let records: Vec<_> = values.iter().map(|value| json!({ "value": [value] })).collect();
                let properties = json!({ "TTL": 77, "TXTRecords": records });
                (
                    200,
                    json!({ "etag": "tag-1", "properties": properties }).to_string(),
                )
            }
            _ => (change, json!({ "code": "PreconditionFailed" }).to_string()),
        };
        let api = Api::start(answer).await;
        let provider = AzureDns {
            login: api.url.clone(),
            management: api.url.clone(),
            tenant: "tenant".to_owned(),
            client: "client".to_owned(),
            secret: Secret::new("hunter22".to_owned()),
            subscription: None,
            group: Some("dns".to_owned()),
            zone: None,
            private: false,
            ttl: 60,
        };
        (api, provider)
    }

    #[tokio::test]
    async fn a_set_is_made_only_if_there_is_none() {
        let (api, provider) = api(&[], 201).await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        assert!(asked[0].body.contains("client_secret=hunter22&scope=http"));
        let query = asked[1].json()["query"].as_str().unwrap().to_owned();
        assert!(query.contains(
            "name in~ (\"_acme-challenge.www.example.com\", \"www.example.com\", \"example.com\")"
        ));
        assert!(query.contains("resourceGroup =~ \"dns\""), "{query}");
        let made = asked.last().unwrap();
        assert_eq!(
            made.line,
            format!("PUT {ZONE}/TXT/_acme-challenge.www?api-version=2018-05-01")
        );
        assert_eq!(
            (made.header("if-none-match"), made.header("authorization")),
            ("*", "Bearer fresh")
        );
        assert_eq!(
            made.json(),
            json!({ "properties": { "TTL": 60, "TXTRecords": [{ "value": ["ours"] }] } })
        );
    }

    #[tokio::test]
    async fn the_values_of_others_stay_and_the_last_takes_the_set_with_it() {
        let (both, provider) = api(&["theirs", "ours"], 200).await;
        withdraw(&provider).await.unwrap();
        let changed = both.asked().pop().unwrap();
        assert_eq!(changed.header("if-match"), "tag-1");
        assert_eq!(
            changed.json(),
            json!({ "properties": { "TTL": 77, "TXTRecords": [{ "value": ["theirs"] }] } })
        );
        let (alone, provider) = api(&["ours"], 200).await;
        withdraw(&provider).await.unwrap();
        let deleted = alone.asked().pop().unwrap();
        assert!(deleted.line.starts_with("DELETE ") && deleted.body.is_empty());
        assert_eq!(deleted.header("if-match"), "tag-1");
    }

    #[tokio::test]
    async fn a_set_that_changes_in_between_is_read_again() {
        let (api, provider) = api(&["theirs"], 412).await;
        assert!(
            present(&provider)
                .await
                .unwrap_err()
                .contains("PreconditionFailed")
        );
        assert_eq!(
            api.lines()
                .into_iter()
                .filter(|line| line.starts_with("PUT"))
                .count(),
            ATTEMPTS
        );
    }

    #[tokio::test]
    async fn a_name_outside_of_the_zone_that_is_named_is_not_put_into_it() {
        let (api, mut provider) = api(&[], 201).await;
        for zone in ["ww.example.com", "e.com", "other.example"] {
            provider.zone = Some(zone.to_owned());
            let error = present(&provider).await.unwrap_err();
            assert!(error.contains(zone), "{error}");
        }
        assert!(api.lines().iter().all(|line| line.ends_with("/token")));
        provider.zone = Some("Example.com.".to_owned());
        present(&provider).await.unwrap();
    }

    #[test]
    fn a_long_value_of_somebody_elses_keeps_its_strings_short() {
        let lengths: Vec<_> = chunks(&"x".repeat(600)).iter().map(String::len).collect();
        assert_eq!(lengths, [255, 255, 90]);
    }
}
