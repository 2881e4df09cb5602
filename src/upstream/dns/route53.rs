//! `route53`: Amazon Route 53. A change names the set of values that it replaces, so that nobody else's change is lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::provider::ancestors;
use crate::upstream::dns::provider::quoted;
use crate::upstream::dns::sigv4::Call;
use crate::upstream::dns::sigv4::Identity;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Reply;
use crate::upstream::dns::web::Web;

const API: &str = "/2013-04-01";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";

/// Somebody else may have changed the set in between.
const ATTEMPTS: usize = 3;

/// How long to wait for a change to reach all name servers, and how often to ask.
const ARRIVAL: Duration = Duration::from_secs(40);
const ARRIVAL_INTERVAL: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct Route53 {
    base: String,
    region: &'static str,
    identity: Identity,
    zone: Option<String>,
    private: bool,
    ttl: u32,
    /// Whether a record is there only when all name servers have it.
    patient: bool,
}

/// The values of a name, as Route 53 has them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    ttl: String,
    values: Vec<String>,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["MAX_RETRIES", "SDK_LOAD_CONFIG"]);
    let role = variables.unavailable(
        &["ASSUME_ROLE_ARN", "EXTERNAL_ID"],
        "write the keys of a user who may change the zone himself",
    );
    let region = variables.text("REGION").unwrap_or_default();
    // Route 53 is one service for all regions of a partition.
    let (base, region) = match region.as_str() {
        region if region.starts_with("cn-") => ("https://route53.amazonaws.com.cn", "cn-northwest-1"),
        region if region.starts_with("us-gov-") => ("https://route53.us-gov.amazonaws.com", "us-gov-west-1"),
        _ => ("https://route53.amazonaws.com", "us-east-1"),
    };
    let identity = identity(variables);
    let zone = variables.text("HOSTED_ZONE_ID");
    let private = variables.flag("PRIVATE_ZONE", false);
    let ttl = variables.ttl(10, 1);
    let patient = variables.flag("WAIT_FOR_RECORD_SETS_CHANGED", true);
    role?;
    Ok(Arc::new(Route53 {
        base: base.to_owned(),
        region,
        identity: identity?,
        zone: zone.map(|id| id.trim_start_matches("/hostedzone/").to_owned()),
        private: private?,
        ttl: ttl?,
        patient: patient?,
    }))
}

/// The keys, of their variables or of a file, in this order, as AWS's own programs use them.
fn identity(variables: &mut Variables) -> Result<Identity, Noted> {
    let file = variables.secret("SHARED_CREDENTIALS");
    let profile = variables.text("PROFILE").unwrap_or_else(|| "default".to_owned());
    let access_key = variables.text("ACCESS_KEY_ID");
    let secret_key = variables.secret("SECRET_ACCESS_KEY");
    let session_token = variables.secret("SESSION_TOKEN");
    if let (Some(file), None, None) = (&file, &access_key, &secret_key) {
        let value = |key| in_profile(file.reveal(), &profile, key).map(str::to_owned);
        let keys = (value("aws_access_key_id"), value("aws_secret_access_key"));
        let (Some(access_key), Some(secret_key)) = keys else {
            return Err(variables.wrong(
                "SHARED_CREDENTIALS_FILE",
                "has no aws_access_key_id and aws_secret_access_key in the profile that AWS_PROFILE names",
            ));
        };
        let secret_key = Secret::new(secret_key);
        let session_token = value("aws_session_token").map(Secret::new);
        variables.secrets.push(secret_key.clone());
        variables.secrets.extend(session_token.clone());
        return Ok(Identity {
            access_key,
            secret_key,
            session_token,
        });
    }
    let access_key = access_key
        .ok_or_else(|| variables.wrong("ACCESS_KEY_ID", "is missing; write the id of an access key"));
    let secret_key = secret_key.ok_or_else(|| {
        variables.wrong(
            "SECRET_ACCESS_KEY",
            "is missing; write the secret of the access key",
        )
    });
    Ok(Identity {
        access_key: access_key?,
        secret_key: secret_key?,
        session_token,
    })
}

/// `[profile]`, then `key = value`.
fn in_profile<'f>(file: &'f str, profile: &str, key: &str) -> Option<&'f str> {
    let header = |line: &str| {
        let name = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
        name.map(|name| name.trim() == profile)
    };
    let mut lines = file.lines().map(str::trim);
    lines.by_ref().find(|line| header(line) == Some(true))?;
    let section = lines.take_while(|line| header(line).is_none());
    let pairs = section.filter_map(|line| line.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim() == key);
    values.next().map(|(_, value)| value.trim())
}

#[async_trait]
impl Provider for Route53 {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let zone = match &self.zone {
            Some(zone) => zone.clone(),
            None => self.zone_of(&record.name, web).await?,
        };
        let path = format!("{API}/hostedzone/{zone}/rrset");
        let mut refusal = String::new();
        for _ in 0..ATTEMPTS {
            let old = self.set(&path, &record.name, web).await?;
            let values = old.as_ref().map(|set| set.values.clone()).unwrap_or_default();
            let Some(values) = action.on(values, &quoted(&record.value)) else {
                return Ok(());
            };
            let ttl = old.as_ref().map_or(self.ttl.to_string(), |set| set.ttl.clone());
            let mut changes = String::new();
            if let Some(old) = &old {
                changes.push_str(&change("DELETE", &record.name, old));
            }
            if !values.is_empty() {
                changes.push_str(&change("CREATE", &record.name, &Set { ttl, values }));
            }
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
                 <ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\"><ChangeBatch><Changes>{changes}</Changes>\
                 </ChangeBatch></ChangeResourceRecordSetsRequest>"
            );
            let reply = self
                .call(Method::POST, &format!("{path}/"), &[], &body, web)
                .await?;
            if reply.status == StatusCode::BAD_REQUEST && reply.text().contains("InvalidChangeBatch") {
                refusal = reply.refusal();
                continue;
            }
            let taken_on = reply.success()?.text();
            if action == Action::Present && self.patient {
                // The record's servers are looked at in any case.
                let arrival = tokio::time::timeout(ARRIVAL, self.arrival(taken_on, web)).await;
                arrival.unwrap_or(Ok(()))?;
            }
            return Ok(());
        }
        Err(refusal)
    }
}

impl Route53 {
    /// Waits until a change has reached all of Route 53's name servers, as lego does.
    async fn arrival(&self, mut change: String, web: &Web) -> Result<(), String> {
        while element(&change, "Status") == "PENDING" {
            let id = element(&change, "Id");
            let path = format!("{API}/change/{}", id.trim_start_matches("/change/"));
            let reply = self.call(Method::GET, &path, &[], "", web).await?;
            change = reply.success()?.text();
            if element(&change, "Status") == "PENDING" {
                tokio::time::sleep(ARRIVAL_INTERVAL).await;
            }
        }
        Ok(())
    }

    async fn zone_of(&self, name: &str, web: &Web) -> Result<String, String> {
        for zone in ancestors(name) {
            let query = [("dnsname", zone), ("maxitems", "20")];
            let path = format!("{API}/hostedzonesbyname");
            let listed = self
                .call(Method::GET, &path, &query, "", web)
                .await?
                .success()?
                .text();
            let private = if self.private { "true" } else { "false" };
            let found = elements(&listed, "HostedZone").into_iter().find(|found| {
                element(found, "Name").trim_end_matches('.') == zone
                    && element(found, "PrivateZone") == private
            });
            if let Some(found) = found {
                return Ok(element(found, "Id").trim_start_matches("/hostedzone/").to_owned());
            }
        }
        Err("the keys know no hosted zone of this name".to_owned())
    }

    /// The TXT records of the name.
    async fn set(&self, path: &str, name: &str, web: &Web) -> Result<Option<Set>, String> {
        let query = [("maxitems", "1"), ("name", name), ("type", "TXT")];
        let listed = self
            .call(Method::GET, path, &query, "", web)
            .await?
            .success()?
            .text();
        // The list begins at the name, or behind it where there is none.
        let found = elements(&listed, "ResourceRecordSet").into_iter().find(|set| {
            element(set, "Name").trim_end_matches('.') == name.trim_end_matches('.')
                && element(set, "Type") == "TXT"
        });
        let Some(found) = found else {
            return Ok(None);
        };
        if found.contains("<SetIdentifier>") {
            return Err("the name has records with a routing policy, which can not be added to".to_owned());
        }
        Ok(Some(Set {
            ttl: element(found, "TTL"),
            values: elements(found, "Value").into_iter().map(unescaped).collect(),
        }))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: &str,
        web: &Web,
    ) -> Result<Reply, String> {
        let (_, host) = self.base.split_once("://").unwrap_or_default();
        let call = Call {
            method: method.as_str(),
            host,
            path,
            query,
            body,
            region: self.region,
            service: "route53",
        };
        let mut url = format!("{}{path}", self.base);
        if !query.is_empty() {
            url = format!("{url}?{}", call.query_string());
        }
        let mut request = web.request(method.clone(), &url);
        for (name, value) in call.headers(&self.identity, web.now()) {
            request = request.header(name, value);
        }
        if !body.is_empty() {
            request = request
                .header(CONTENT_TYPE, "application/xml")
                .body(body.to_owned());
        }
        web.send(request).await
    }
}

fn change(action: &str, name: &str, set: &Set) -> String {
    let values = set.values.iter().map(|value| {
        format!(
            "<ResourceRecord><Value>{}</Value></ResourceRecord>",
            escaped(value)
        )
    });
    format!(
        "<Change><Action>{action}</Action><ResourceRecordSet><Name>{name}</Name><Type>TXT</Type><TTL>{}</TTL>\
         <ResourceRecords>{}</ResourceRecords></ResourceRecordSet></Change>",
        set.ttl,
        values.collect::<String>()
    )
}

/// The contents of the elements of this name, which Route 53 writes without attributes and never nests.
fn elements<'x>(xml: &'x str, name: &str) -> Vec<&'x str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let behind = xml.split(open.as_str()).skip(1);
    behind
        .filter_map(|rest| rest.split_once(close.as_str()).map(|(content, _)| content))
        .collect()
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> String {
    elements(xml, name)
        .first()
        .map(|text| unescaped(text))
        .unwrap_or_default()
}

fn unescaped(text: &str) -> String {
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"");
    text.replace("&#34;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dns::scripted::Api;
    use crate::upstream::dns::scripted::Asked;
    use crate::upstream::dns::scripted::present;
    use crate::upstream::dns::scripted::withdraw;

    const ZONES: &str = r#"<?xml version="1.0"?>
        <ListHostedZonesByNameResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HostedZones>
        <HostedZone><Id>/hostedzone/Z0PRIVATE</Id><Name>example.com.</Name><Config><PrivateZone>true</PrivateZone></Config></HostedZone>
        <HostedZone><Id>/hostedzone/Z1PUBLIC</Id><Name>example.com.</Name><Config><PrivateZone>false</PrivateZone></Config></HostedZone>
        </HostedZones><IsTruncated>false</IsTruncated></ListHostedZonesByNameResponse>"#;

    fn sets(values: &[&str]) -> String {
        let values = values
            .iter()
            .map(|v| format!("<ResourceRecord><Value>&quot;{v}&quot;</Value></ResourceRecord>"));
        format!(
            "<ListResourceRecordSetsResponse><ResourceRecordSets><ResourceRecordSet>\
             <Name>_acme-challenge.www.example.com.</Name><Type>TXT</Type><TTL>77</TTL><ResourceRecords>{}\
             </ResourceRecords></ResourceRecordSet></ResourceRecordSets></ListResourceRecordSetsResponse>",
            values.collect::<String>()
        )
    }

    fn info(status: &str) -> String {
        format!("<ChangeInfo><Id>/change/C1</Id><Status>{status}</Status></ChangeInfo>")
    }

    async fn api(values: &'static [&'static str], change: u16) -> (Api, Route53) {
        let answer = move |asked: &Asked| match asked.line.as_str() {
            line if line.contains("/hostedzonesbyname?dnsname=example.com&") => (200, ZONES.to_owned()),
            line if line.contains("/hostedzonesbyname?") => (200, "<HostedZones></HostedZones>".to_owned()),
            "GET /2013-04-01/change/C1" => (200, info("INSYNC")),
            line if line.starts_with("GET") && values.is_empty() => {
                (200, "<ResourceRecordSets></ResourceRecordSets>".to_owned())
            }
            line if line.starts_with("GET") => (200, sets(values)),
            _ if change == 200 => (200, info("PENDING")),
            _ => (
                change,
                "<InvalidChangeBatch><Message>it was not found</Message>".to_owned(),
            ),
        };
        let api = Api::start(answer).await;
        let provider = Route53 {
            base: api.url.clone(),
            region: "us-east-1",
            identity: Identity {
                access_key: "AKID".to_owned(),
                secret_key: Secret::new("secret".to_owned()),
                session_token: Some(Secret::new("session".to_owned())),
            },
            zone: None,
            private: false,
            ttl: 10,
            patient: true,
        };
        (api, provider)
    }

    #[tokio::test]
    async fn a_value_joins_those_of_others_in_one_change_that_names_what_it_replaces() {
        let (api, provider) = api(&["theirs"], 200).await;
        present(&provider).await.unwrap();
        let asked = api.asked();
        assert!(
            asked[3]
                .line
                .starts_with("GET /2013-04-01/hostedzone/Z1PUBLIC/rrset?maxitems=1&name=_acme-challenge.")
        );
        let [.., changed, arrived] = asked.as_slice() else {
            panic!("{asked:?}");
        };
        assert_eq!(arrived.line, "GET /2013-04-01/change/C1");
        assert_eq!(changed.line, "POST /2013-04-01/hostedzone/Z1PUBLIC/rrset/");
        let (deleted, created) = changed.body.split_once("<Action>CREATE</Action>").unwrap();
        assert!(
            deleted.contains("<Action>DELETE</Action>") && !deleted.contains("ours"),
            "{deleted}"
        );
        assert!(
            created.contains("\"theirs\"") && created.contains("\"ours\""),
            "{created}"
        );
        assert!(created.contains("<TTL>77</TTL>"));
        let authorization = changed.header("authorization");
        assert!(
            authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"),
            "{authorization}"
        );
        assert!(
            authorization.contains(
                "/us-east-1/route53/aws4_request, SignedHeaders=host;x-amz-date;x-amz-security-token"
            )
        );
        assert_eq!(changed.header("x-amz-security-token"), "session");
    }

    #[tokio::test]
    async fn the_last_value_takes_the_set_with_it() {
        let (api, provider) = api(&["ours"], 200).await;
        withdraw(&provider).await.unwrap();
        let changed = api.asked().pop().unwrap();
        assert!(changed.body.contains("<Action>DELETE</Action>") && !changed.body.contains("CREATE"));
    }

    #[tokio::test]
    async fn a_set_that_changes_in_between_is_read_again() {
        let (api, provider) = api(&[], 400).await;
        let error = present(&provider).await.unwrap_err();
        assert!(error.contains("it was not found"), "{error}");
        let changes = api
            .lines()
            .into_iter()
            .filter(|line| line.starts_with("POST"))
            .count();
        assert_eq!(changes, ATTEMPTS);
    }

    #[tokio::test]
    async fn a_request_too_many_is_no_change_by_somebody_else() {
        let answer = |asked: &Asked| match asked.line.as_str() {
            line if line.starts_with("GET") => (200, "<ResourceRecordSets></ResourceRecordSets>".to_owned()),
            _ => (
                400,
                "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>".to_owned(),
            ),
        };
        let (_, provider) = api(&[], 200).await;
        let busy = Api::start(answer).await;
        let provider = Route53 {
            base: busy.url.clone(),
            zone: Some("Z1".to_owned()),
            ..provider
        };
        let web = Web::new(None).unwrap();
        let record = crate::upstream::dns::scripted::record();
        provider.apply(Action::Present, &record, &web).await.unwrap_err();
        assert_eq!(busy.lines().len(), 2);
        assert!(web.told_to_wait().is_some());
    }

    #[test]
    fn the_variables_go_before_the_file() {
        let values = [
            (
                "AWS_SHARED_CREDENTIALS",
                "[default]\naws_access_key_id=A\naws_secret_access_key=B\naws_session_token=C\n",
            ),
            ("AWS_ACCESS_KEY_ID", "D"),
            ("AWS_SECRET_ACCESS_KEY", "E"),
        ];
        let read = |values: &[(&str, &str)]| {
            let values = values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())));
            let mut variables = Variables::new(&["AWS_"], values.collect());
            let identity = identity(&mut variables).unwrap();
            (identity.access_key, variables.secrets)
        };
        let (key, _) = read(&values);
        assert_eq!(key, "D");
        let (key, secrets) = read(&values[..1]);
        assert_eq!(key, "A");
        assert!(secrets.iter().any(|secret| secret.reveal() == "C"));
    }

    #[test]
    fn a_profile_of_a_credentials_file_is_found() {
        let file = "[default]\naws_access_key_id=A\n\n[ proxy ]\naws_access_key_id = B\naws_secret_access_key = C=\n[x]\n";
        assert_eq!(in_profile(file, "default", "aws_access_key_id"), Some("A"));
        assert_eq!(in_profile(file, "proxy", "aws_secret_access_key"), Some("C="));
        assert_eq!(in_profile(file, "default", "aws_secret_access_key"), None);
        assert_eq!(in_profile(file, "nobody", "aws_access_key_id"), None);
    }
}
