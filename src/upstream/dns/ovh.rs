//! `ovh`: OVH's API, with an application's key, an OAuth2 client, or an access token.
//!
//! lego's users give the key no more than POST and DELETE below `/domain/zone/`. So zones are found by trying, and a
//! record's id is remembered from when it was made. A key that may GET, too, finds records again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use async_trait::async_trait;
use aws_lc_rs::digest;
use http::Method;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::json;

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::provider::ancestors;
use crate::upstream::dns::provider::within;
use crate::upstream::dns::sigv4::hex;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Reply;
use crate::upstream::dns::web::Web;
use crate::upstream::dns::web::with_form;

/// Name, API, where OAuth2 tokens come from.
const ENDPOINTS: [(&str, &str, &str); 7] = [
    (
        "ovh-eu",
        "https://eu.api.ovh.com/1.0",
        "https://www.ovh.com/auth/oauth2/token",
    ),
    (
        "ovh-ca",
        "https://ca.api.ovh.com/1.0",
        "https://ca.ovh.com/auth/oauth2/token",
    ),
    (
        "ovh-us",
        "https://api.us.ovhcloud.com/1.0",
        "https://us.ovhcloud.com/auth/oauth2/token",
    ),
    ("kimsufi-eu", "https://eu.api.kimsufi.com/1.0", ""),
    ("kimsufi-ca", "https://ca.api.kimsufi.com/1.0", ""),
    ("soyoustart-eu", "https://eu.api.soyoustart.com/1.0", ""),
    ("soyoustart-ca", "https://ca.api.soyoustart.com/1.0", ""),
];

#[derive(Debug)]
struct Ovh {
    base: String,
    credentials: Credentials,
    ttl: u32,
    /// Zone and id of what has been made, by name and value.
    made: Mutex<HashMap<(String, String), (String, u64)>>,
}

#[derive(Debug)]
enum Credentials {
    Application {
        key: Secret,
        secret: Secret,
        consumer: Secret,
    },
    Client {
        id: String,
        secret: Secret,
        token_url: String,
    },
    AccessToken(Secret),
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["HTTP_TIMEOUT"]);
    let endpoint = variables.text("ENDPOINT").unwrap_or_else(|| "ovh-eu".to_owned());
    let ttl = variables.ttl(120, 60);
    let Some((_, base, token_url)) = ENDPOINTS.iter().find(|(name, ..)| *name == endpoint) else {
        let known: Vec<_> = ENDPOINTS.iter().map(|(name, ..)| *name).collect();
        return Err(variables.wrong(
            "ENDPOINT",
            format!("is unknown; write one of {}", known.join(", ")),
        ));
    };
    let application = ["APPLICATION_KEY", "APPLICATION_SECRET", "CONSUMER_KEY"];
    let [key, secret, consumer] = application.map(|suffix| variables.secret(suffix));
    let (id, client_secret) = (variables.text("CLIENT_ID"), variables.secret("CLIENT_SECRET"));
    let token = variables.secret("ACCESS_TOKEN");
    let several = "excludes OVH_APPLICATION_KEY and the others; remove one of them";
    let credentials = match (key, secret, consumer, id, client_secret, token) {
        (Some(key), Some(secret), Some(consumer), None, None, None) => Credentials::Application {
            key,
            secret,
            consumer,
        },
        (None, None, None, Some(id), Some(secret), None) if !token_url.is_empty() => Credentials::Client {
            id,
            secret,
            token_url: (*token_url).to_owned(),
        },
        (None, None, None, Some(_), Some(_), None) => {
            return Err(variables.wrong(
                "CLIENT_ID",
                "is of no use at this endpoint; write OVH_APPLICATION_KEY",
            ));
        }
        (None, None, None, None, None, Some(token)) => Credentials::AccessToken(token),
        (None, None, None, Some(_), None, None) => {
            return Err(variables.wrong(
                "CLIENT_SECRET",
                "is missing; write the secret of the OAuth2 client",
            ));
        }
        (None, None, None, None, Some(_), None) => {
            return Err(variables.wrong("CLIENT_ID", "is missing; write the id of the OAuth2 client"));
        }
        (key, secret, consumer, None, None, None) => {
            let present = [key, secret, consumer];
            for (suffix, _) in application
                .iter()
                .zip(present)
                .filter(|(_, value)| value.is_none())
            {
                variables.wrong(
                    suffix,
                    "is missing; write all three of OVH_APPLICATION_KEY, OVH_APPLICATION_SECRET and OVH_CONSUMER_KEY",
                );
            }
            return Err(Noted);
        }
        (.., Some(_)) => return Err(variables.wrong("ACCESS_TOKEN", several)),
        (..) => return Err(variables.wrong("CLIENT_ID", several)),
    };
    Ok(Arc::new(Ovh {
        base: (*base).to_owned(),
        credentials,
        ttl: ttl?,
        made: Mutex::default(),
    }))
}

#[derive(Deserialize)]
struct Made {
    id: u64,
}

#[derive(Deserialize)]
struct Txt {
    target: String,
}

/// Where a record is.
enum Found {
    /// In this zone, under this id.
    Record(String, u64),
    /// It is not in this zone, where it belongs.
    Zone(String),
    /// The key may not look.
    Nothing,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[async_trait]
impl Provider for Ovh {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let key = (record.name.clone(), record.value.clone());
        let known = self.made().get(&key).cloned();
        let found = match known {
            Some((zone, id)) => Found::Record(zone, id),
            None => self.find(record, web).await?,
        };
        let zone = match (action, found) {
            (Action::Withdraw, Found::Zone(_) | Found::Nothing) => return Ok(()),
            (Action::Withdraw, Found::Record(zone, id)) => {
                let path = format!("/domain/zone/{zone}/record/{id}");
                let reply = self.call(Method::DELETE, &path, "", web).await?;
                if reply.status != StatusCode::NOT_FOUND {
                    reply.success()?;
                }
                zone
            }
            // Made before, when the answer was lost or the zone could not be refreshed.
            (Action::Present, Found::Record(zone, id)) => {
                self.made().insert(key.clone(), (zone.clone(), id));
                zone
            }
            (Action::Present, found) => {
                let zones = match &found {
                    Found::Zone(zone) => vec![zone.as_str()],
                    Found::Record(..) | Found::Nothing => ancestors(&record.name).collect(),
                };
                let (zone, id) = self.create(record, &zones, web).await?;
                self.made().insert(key.clone(), (zone.clone(), id));
                zone
            }
        };
        let path = format!("/domain/zone/{zone}/refresh");
        self.call(Method::POST, &path, "", web).await?.success()?;
        if action == Action::Withdraw {
            self.made().remove(&key);
        }
        Ok(())
    }
}

impl Ovh {
    fn made(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), (String, u64)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a record whose id is not known, because the answer was lost or this process was not there.
    async fn find(&self, record: &Record, web: &Web) -> Result<Found, String> {
        for zone in ancestors(&record.name) {
            let records = format!("/domain/zone/{zone}/record");
            let name = within(&record.name, zone);
            let path = format!("{records}?fieldType=TXT&subDomain={name}");
            let reply = self.call(Method::GET, &path, "", web).await?;
            if matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
                continue;
            }
            for id in reply.json::<Vec<u64>>()? {
                let reply = self
                    .call(Method::GET, &format!("{records}/{id}"), "", web)
                    .await?;
                let txt: Txt = reply.json()?;
                if txt.target.trim_matches('"') == record.value {
                    return Ok(Found::Record(zone.to_owned(), id));
                }
            }
            return Ok(Found::Zone(zone.to_owned()));
        }
        Ok(Found::Nothing)
    }

    async fn create(&self, record: &Record, zones: &[&str], web: &Web) -> Result<(String, u64), String> {
        let mut refusal = "there is no zone of this name".to_owned();
        for zone in zones {
            let txt = json!({
                "fieldType": "TXT",
                "subDomain": within(&record.name, zone),
                "target": record.value,
                "ttl": self.ttl,
            });
            let path = format!("/domain/zone/{zone}/record");
            let reply = self.call(Method::POST, &path, &txt.to_string(), web).await?;
            match reply.status {
                // Keys are often good for one zone only.
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => refusal = reply.refusal(),
                _ => return Ok(((*zone).to_owned(), reply.json::<Made>()?.id)),
            }
        }
        Err(refusal)
    }

    async fn call(&self, method: Method, path: &str, body: &str, web: &Web) -> Result<Reply, String> {
        let url = format!("{}{path}", self.base);
        let mut request = web.request(method.clone(), &url);
        if !body.is_empty() {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_owned());
        }
        let request = match &self.credentials {
            Credentials::Application {
                key,
                secret,
                consumer,
            } => {
                // The server's own time: its clock need not be ours.
                let time = web.request(Method::GET, &format!("{}/auth/time", self.base));
                let time: u64 = web.send(time).await?.json()?;
                let (secret, consumer) = (secret.reveal(), consumer.reveal());
                let signed = format!("{secret}+{consumer}+{method}+{url}+{body}+{time}");
                let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, signed.as_bytes());
                request
                    .header("X-Ovh-Application", key.reveal())
                    .header("X-Ovh-Consumer", consumer)
                    .header("X-Ovh-Timestamp", time)
                    .header("X-Ovh-Signature", format!("$1${}", hex(digest.as_ref())))
            }
            Credentials::Client {
                id,
                secret,
                token_url,
            } => {
                let form = [
                    ("grant_type", "client_credentials"),
                    ("client_id", id),
                    ("client_secret", secret.reveal()),
                    ("scope", "all"),
                ];
                let token = with_form(web.request(Method::POST, token_url), &form);
                let token: Token = web.send(token).await?.json()?;
                request.bearer_auth(web.hide(token.access_token))
            }
            Credentials::AccessToken(token) => request.bearer_auth(token.reveal()),
        };
        web.send(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    async fn api(credentials: impl FnOnce(&str) -> Credentials) -> (Api, Ovh) {
        let answer = |asked: &Asked| match asked.line.as_str() {
            "GET /1.0/auth/time" => (200, "1457018875".to_owned()),
            "POST /auth/oauth2/token" => (
                200,
                json!({ "access_token": "fresh", "expires_in": 3600 }).to_string(),
            ),
            "POST /1.0/domain/zone/example.com/record" => {
                (200, json!({ "id": 4711, "fieldType": "TXT" }).to_string())
            }
            line if line.ends_with("/record") || line.contains("/record?") => {
                (403, json!({ "message": "not granted" }).to_string())
            }
            _ => (200, "null".to_owned()),
        };
        let api = Api::start(answer).await;
        let provider = Ovh {
            base: format!("{}/1.0", api.url),
            credentials: credentials(&api.url),
            ttl: 120,
            made: Mutex::default(),
        };
        (api, provider)
    }

    #[tokio::test]
    async fn a_record_is_made_by_a_key_that_may_do_no_more_than_post_and_delete() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let (api, provider) = api(|_| Credentials::Application {
            key: secret("AK"),
            secret: secret("EXEgWIz07P0HYwtQDs7cNIqCiQaWSuHF"),
            consumer: secret("MtSwSrPpNjqfVSmJhLbPyr2i45lSwPU1"),
        })
        .await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        let calls: Vec<_> = asked
            .iter()
            .filter(|asked| !asked.line.starts_with("GET "))
            .collect();
        let lines: Vec<_> = calls.iter().map(|asked| asked.line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "POST /1.0/domain/zone/_acme-challenge.www.example.com/record",
                "POST /1.0/domain/zone/www.example.com/record",
                "POST /1.0/domain/zone/example.com/record",
                "POST /1.0/domain/zone/example.com/refresh",
            ]
        );
        let txt =
            json!({ "fieldType": "TXT", "subDomain": "_acme-challenge.www", "target": "ours", "ttl": 120 });
        assert_eq!(calls[2].json(), txt);
        assert_eq!(calls[2].header("x-ovh-timestamp"), "1457018875");
        // Computed here by another implementation of SHA-1.
        let signed = format!(
            "EXEgWIz07P0HYwtQDs7cNIqCiQaWSuHF+MtSwSrPpNjqfVSmJhLbPyr2i45lSwPU1+POST+{}/1.0/domain/zone/example.com/record+{}+1457018875",
            api.url, calls[2].body
        );
        let digest = sha1sum(&signed);
        assert_eq!(calls[2].header("x-ovh-signature"), format!("$1${digest}"));
        withdraw(&provider).await.unwrap();
        let lines = api.lines();
        assert_eq!(lines[1], "DELETE /1.0/domain/zone/example.com/record/4711");
        withdraw(&provider).await.unwrap();
        assert!(
            api.lines().iter().all(|line| line.starts_with("GET ")),
            "it is gone"
        );
    }

    #[tokio::test]
    async fn a_record_whose_id_was_never_received_is_found_and_not_made_again() {
        let answer = |asked: &Asked| match asked.line.as_str() {
            "GET /1.0/domain/zone/example.com/record?fieldType=TXT&subDomain=_acme-challenge.www" => {
                (200, "[1, 2]".to_owned())
            }
            "GET /1.0/domain/zone/example.com/record/1" => {
                (200, json!({ "target": "\"theirs\"" }).to_string())
            }
            "GET /1.0/domain/zone/example.com/record/2" => (200, json!({ "target": "\"ours\"" }).to_string()),
            line if line.starts_with("GET ") => (404, "null".to_owned()),
            _ => (200, "null".to_owned()),
        };
        let api = Api::start(answer).await;
        let provider = Ovh {
            base: format!("{}/1.0", api.url),
            credentials: Credentials::AccessToken(Secret::new("token".to_owned())),
            ttl: 120,
            made: Mutex::default(),
        };
        let changes = || {
            let lines = api.lines().into_iter();
            lines.filter(|line| !line.starts_with("GET ")).collect::<Vec<_>>()
        };
        present(&provider).await.unwrap();
        let refresh = "POST /1.0/domain/zone/example.com/refresh";
        assert_eq!(changes(), [refresh]);
        let after_a_restart = Ovh {
            made: Mutex::default(),
            ..provider
        };
        withdraw(&after_a_restart).await.unwrap();
        assert_eq!(
            changes(),
            ["DELETE /1.0/domain/zone/example.com/record/2", refresh]
        );
    }

    #[tokio::test]
    async fn a_records_id_is_known_until_the_zone_is_refreshed_without_it() {
        let answer = |asked: &Asked| match asked.line.as_str() {
            line if line.ends_with("/refresh") => (500, "null".to_owned()),
            _ => (200, "null".to_owned()),
        };
        let api = Api::start(answer).await;
        let key = (crate::upstream::dns::scripted::record().name, "ours".to_owned());
        let provider = Ovh {
            base: format!("{}/1.0", api.url),
            credentials: Credentials::AccessToken(Secret::new("token".to_owned())),
            ttl: 120,
            made: Mutex::new(HashMap::from([(key, ("example.com".to_owned(), 7))])),
        };
        for _ in 0..2 {
            withdraw(&provider).await.unwrap_err();
            assert_eq!(api.lines()[0], "DELETE /1.0/domain/zone/example.com/record/7");
        }
    }

    fn sha1sum(text: &str) -> String {
        use std::io::Write as _;
        let mut child = std::process::Command::new("sha1sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = child.wait_with_output().unwrap().stdout;
        String::from_utf8(said)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    }

    #[tokio::test]
    async fn an_oauth2_client_fetches_a_token() {
        let (api, provider) = api(|url| Credentials::Client {
            id: "id".to_owned(),
            secret: Secret::new("hunter22".to_owned()),
            token_url: format!("{url}/auth/oauth2/token"),
        })
        .await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        assert_eq!(
            asked[0].body,
            "grant_type=client_credentials&client_id=id&client_secret=hunter22&scope=all"
        );
        assert_eq!(asked[1].header("authorization"), "Bearer fresh");
    }
}
