//! `gcloud`: Google Cloud DNS, with the key of a service account. A change names the set of values that it replaces, so
//! that nobody else's change is lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use http::StatusCode;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::Serialize;
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
use crate::upstream::dns::web::with_form;
use crate::upstream::dns::web::with_json;
use crate::upstream::dns::web::with_query;

const SCOPE: &str = "https://www.googleapis.com/auth/ndev.clouddns.readwrite";

/// Somebody else may have changed the set in between.
const ATTEMPTS: usize = 3;

/// How long to wait for a change to reach all name servers, and how often to ask.
const ARRIVAL: Duration = Duration::from_secs(40);
const ARRIVAL_INTERVAL: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct GCloud {
    base: String,
    project: String,
    email: String,
    token_url: String,
    /// PKCS #8, DER.
    key: Secret<Vec<u8>>,
    zone: Option<String>,
    private: bool,
    ttl: u32,
}

/// The file that Google gives out.
#[derive(Deserialize)]
struct ServiceAccount {
    #[serde(default)]
    project_id: String,
    client_email: String,
    private_key: String,
    token_uri: String,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    let role = variables.unavailable(
        &["IMPERSONATE_SERVICE_ACCOUNT"],
        "write the key of a service account that may change the zone itself",
    );
    let text = variables.required_secret(
        "SERVICE_ACCOUNT",
        "the JSON of a service account's key, or its path as GCE_SERVICE_ACCOUNT_FILE; no others are looked for",
    );
    let project = variables.text("PROJECT");
    let zone = variables.text("ZONE_ID");
    let private = variables.flag("ALLOW_PRIVATE_ZONE", false);
    let ttl = variables.ttl(120, 1);
    let Ok(account) = serde_json::from_str::<ServiceAccount>(text?.reveal()) else {
        return Err(variables.wrong("SERVICE_ACCOUNT", "is not the JSON of a service account's key"));
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(account.private_key.as_bytes());
    let key = key.ok().map(|key| key.secret_pkcs8_der().to_vec());
    let Some(key) = key.filter(|key| RsaKeyPair::from_pkcs8(key).is_ok()) else {
        return Err(variables.wrong("SERVICE_ACCOUNT", "holds no RSA key in PEM as private_key"));
    };
    let project = project.unwrap_or(account.project_id);
    if project.is_empty() {
        return Err(variables.wrong(
            "PROJECT",
            "is missing, and the service account's key does not tell it",
        ));
    }
    role?;
    Ok(Arc::new(GCloud {
        base: "https://dns.googleapis.com/dns/v1".to_owned(),
        project,
        email: account.client_email,
        token_url: variables.url("SERVICE_ACCOUNT", &account.token_uri, &["https"])?,
        key: Secret::new(key),
        zone,
        private: private?,
        ttl: ttl?,
    }))
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Zones {
    #[serde(default)]
    managed_zones: Vec<Zone>,
}

#[derive(Deserialize)]
struct Zone {
    name: String,
    #[serde(default)]
    visibility: String,
}

#[derive(Deserialize)]
struct Sets {
    #[serde(default)]
    rrsets: Vec<Set>,
}

/// A change that has been taken on.
#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    id: String,
    #[serde(default)]
    status: String,
}

/// The values of a name.
#[derive(Clone, Serialize, Deserialize)]
struct Set {
    name: String,
    r#type: String,
    ttl: u32,
    rrdatas: Vec<String>,
}

#[async_trait]
impl Provider for GCloud {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let token = self.token(web).await?;
        let zones = format!("{}/projects/{}/managedZones", self.base, self.project);
        let zone = match &self.zone {
            Some(zone) => zone.clone(),
            None => self.zone_of(&record.name, &zones, &token, web).await?,
        };
        let query = [("name", record.name.as_str()), ("type", "TXT")];
        let sets = with_query(&format!("{zones}/{zone}/rrsets"), &query)?;
        let mut refusal = String::new();
        for _ in 0..ATTEMPTS {
            let request = web.request(Method::GET, &sets).bearer_auth(&token);
            let old: Sets = web.send(request).await?.json()?;
            let old = old.rrsets.into_iter().next();
            let values = old.as_ref().map(|set| set.rrdatas.clone()).unwrap_or_default();
            let Some(values) = action.on(values, &quoted(&record.value)) else {
                return Ok(());
            };
            let new = Set {
                name: record.name.clone(),
                r#type: "TXT".to_owned(),
                ttl: old.as_ref().map_or(self.ttl, |set| set.ttl),
                rrdatas: values,
            };
            let new = Some(new).filter(|set| !set.rrdatas.is_empty());
            let change = json!({
                "deletions": old.into_iter().collect::<Vec<_>>(),
                "additions": new.into_iter().collect::<Vec<_>>(),
            });
            let request = web.request(Method::POST, &format!("{zones}/{zone}/changes"));
            let reply = web.send(with_json(request, &change).bearer_auth(&token)).await?;
            match reply.status {
                StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => refusal = reply.refusal(),
                _ if action == Action::Withdraw => return reply.success().map(drop),
                _ => {
                    let change = format!("{zones}/{zone}/changes");
                    let arrival = arrival(reply.json()?, &change, &token, web);
                    // The record's servers are looked at in any case.
                    return tokio::time::timeout(ARRIVAL, arrival).await.unwrap_or(Ok(()));
                }
            }
        }
        Err(refusal)
    }
}

/// Waits until a change has reached all of Google's name servers, as lego does.
async fn arrival(mut change: Change, changes: &str, token: &str, web: &Web) -> Result<(), String> {
    while change.status == "pending" {
        let request = web.request(Method::GET, &format!("{changes}/{}", change.id));
        change = web.send(request.bearer_auth(token)).await?.json()?;
        if change.status == "pending" {
            tokio::time::sleep(ARRIVAL_INTERVAL).await;
        }
    }
    Ok(())
}

impl GCloud {
    async fn zone_of(&self, name: &str, zones: &str, token: &str, web: &Web) -> Result<String, String> {
        for zone in ancestors(name) {
            let url = with_query(zones, &[("dnsName", &format!("{zone}."))])?;
            let request = web.request(Method::GET, &url).bearer_auth(token);
            let found: Zones = web.send(request).await?.json()?;
            let usable = |zone: &Zone| self.private || zone.visibility != "private";
            if let Some(zone) = found.managed_zones.into_iter().find(usable) {
                return Ok(zone.name);
            }
        }
        Err("the project has no zone of this name".to_owned())
    }

    /// An access token for a signed statement of who we are (RFC 7523 §2.1).
    async fn token(&self, web: &Web) -> Result<String, String> {
        let now = web.now().as_second();
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_url,
            "iat": now,
            "exp": now.saturating_add(600),
        });
        let header = json!({ "alg": "RS256", "typ": "JWT" });
        let part = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let unusable = "the service account's key can not sign";
        let key = RsaKeyPair::from_pkcs8(self.key.reveal()).map_err(|_| unusable)?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .map_err(|_| unusable)?;
        let assertion = web.hide(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)));
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion.as_str()),
        ];
        let request = with_form(web.request(Method::POST, &self.token_url), &form);
        let token: Token = web.send(request).await?.json()?;
        Ok(web.hide(token.access_token))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::KeyPair as _;
    use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
    use aws_lc_rs::signature::UnparsedPublicKey;

    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    async fn api(values: &'static [&'static str], change: u16) -> (Api, GCloud, RsaKeyPair) {
        let answer = move |asked: &Asked| match asked.line.as_str() {
            "POST /token" => (200, json!({ "access_token": "fresh" }).to_string()),
            line if line.ends_with("/managedZones?dnsName=example.com.") => {
                let zones = json!([
                    { "name": "inside", "visibility": "private" }, { "name": "outside", "visibility": "public" },
                ]);
                (200, json!({ "managedZones": zones }).to_string())
            }
            line if line.contains("/rrsets?") && !values.is_empty() => {
                let name = "_acme-challenge.www.example.com.";
                let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                let set = json!({ "name": name, "type": "TXT", "ttl": 77, "rrdatas": values, "kind": "x" });
                (200, json!({ "rrsets": [set] }).to_string())
            }
            line if line.ends_with("/changes/7") => (200, json!({ "id": "7", "status": "done" }).to_string()),
            line if line.starts_with("GET") => (200, "{}".to_owned()),
            _ if change == 200 => (200, json!({ "id": "7", "status": "pending" }).to_string()),
            _ => (change, json!({ "error": "precondition" }).to_string()),
        };
        let api = Api::start(answer).await;
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().unwrap();
        let provider = GCloud {
            base: api.url.clone(),
            project: "project".to_owned(),
            email: "proxy@project.iam".to_owned(),
            token_url: format!("{}/token", api.url),
            key: Secret::new(pkcs8.as_ref().to_vec()),
            zone: None,
            private: false,
            ttl: 120,
        };
        (api, provider, key)
    }

    #[tokio::test]
    async fn the_token_is_asked_for_with_a_statement_that_the_key_has_signed() {
        let (api, provider, key) = api(&[], 200).await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        let (_, assertion) = asked[0].body.split_once("assertion=").unwrap();
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        public
            .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
            .unwrap();
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(
            (&claims["iss"], &claims["scope"]),
            (&json!("proxy@project.iam"), &json!(SCOPE))
        );
        assert_eq!(
            claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
            600
        );
        let [.., made, arrived] = asked.as_slice() else {
            panic!("{asked:?}");
        };
        assert_eq!(
            arrived.line,
            "GET /projects/project/managedZones/outside/changes/7"
        );
        assert_eq!(made.line, "POST /projects/project/managedZones/outside/changes");
        assert_eq!(made.header("authorization"), "Bearer fresh");
        let name = "_acme-challenge.www.example.com.";
        let set = json!({ "name": name, "type": "TXT", "ttl": 120, "rrdatas": ["\"ours\""] });
        assert_eq!(made.json(), json!({ "deletions": [], "additions": [set] }));
    }

    #[tokio::test]
    async fn the_values_of_others_stay_in_the_set_and_its_time_to_live() {
        let (api, provider, _) = api(&["theirs", "ours"], 200).await;
        withdraw(&provider).await.unwrap();
        let change = api.asked().pop().unwrap().json();
        assert_eq!(
            change["deletions"][0]["rrdatas"],
            json!(["\"theirs\"", "\"ours\""])
        );
        assert_eq!(change["additions"][0]["rrdatas"], json!(["\"theirs\""]));
        assert_eq!(change["additions"][0]["ttl"], 77);
    }

    #[tokio::test]
    async fn a_set_that_changes_in_between_is_read_again() {
        let (api, provider, _) = api(&["theirs"], 412).await;
        assert!(present(&provider).await.unwrap_err().contains("precondition"));
        let changes = api
            .lines()
            .into_iter()
            .filter(|line| line.ends_with("/changes"))
            .count();
        assert_eq!(changes, ATTEMPTS);
    }
}
