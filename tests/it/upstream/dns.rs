//! Records for the CA's challenges: at real Knot with TSIG, and at HTTP servers of the test's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use acme_proxy::acme::secret::Secret;
use acme_proxy::upstream::Error;
use acme_proxy::upstream::Says;
use acme_proxy::upstream::dns::Dns01;
use acme_proxy::upstream::dns::Publication;
use acme_proxy::upstream::dns::Record;
use acme_proxy::upstream::dns::Solver;
use acme_proxy::upstream::dns::known;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::routing::any;
use serde_json::Value;
use serde_json::json;

use crate::harness::process::free_address;
use crate::harness::zone::Zone;
use crate::upstream::knot::ALGORITHMS;
use crate::upstream::knot::Knot;
use crate::upstream::knot::SECRET;

const NAME: &str = "_acme-challenge.www.example.com";

pub(crate) fn settings(provider: &str, variables: &[(&str, &str)]) -> Dns01 {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())));
    known::read(provider, variables.collect())
        .unwrap()
        .settings
        .unwrap()
}

pub(crate) fn record(name: &str, token: &str) -> Record {
    Record::new(&name.parse().unwrap(), token, "thumbprint").unwrap()
}

/// Publishes until the records can be seen.
pub(crate) async fn visible(solver: &Solver, order: &str, records: &[Record]) {
    for _ in 0..60 {
        match solver.publish(order, records).await.unwrap() {
            Publication::Visible => return,
            Publication::Spreading(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    panic!("{records:?} do not become visible");
}

pub(crate) fn failure(outcome: Result<Publication, Error>) -> String {
    match outcome {
        // The CA has no part in it.
        Err(Error::Transient {
            detail,
            says: Says::Nothing,
            ..
        }) => detail,
        other => panic!("{other:?}"),
    }
}

fn sorted<const N: usize>(mut values: [&str; N]) -> [&str; N] {
    values.sort_unstable();
    values
}

/// A zone of an organisation, which has delegated a name's challenges and uses the place of another's itself.
struct Organisation {
    knot: Knot,
    _directory: tempfile::TempDir,
}

impl Organisation {
    fn start() -> Self {
        Self::at(free_address())
    }

    fn at(address: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let zones = [
            (
                "example.com",
                "@ NS ns\nns A 127.0.0.1\n_acme-challenge.www TXT \"theirs\"\n\
                 _acme-challenge.app CNAME app.challenges.example.net.\n",
            ),
            ("challenges.example.net", "@ NS ns.example.com.\n"),
        ];
        let knot = Knot::start(directory.path(), address, &zones).unwrap();
        Self {
            knot,
            _directory: directory,
        }
    }

    fn settings(&self, key: &str, algorithm: &str, secret: &str) -> Dns01 {
        let server = self.knot.address.to_string();
        let variables = [
            ("RFC2136_NAMESERVER", server.as_str()),
            ("RFC2136_TSIG_KEY", key),
            ("RFC2136_TSIG_ALGORITHM", algorithm),
            ("RFC2136_TSIG_SECRET", secret),
            ("RFC2136_TTL", "1"),
        ];
        Dns01 {
            servers: vec![self.knot.address],
            authority_port: self.knot.address.port(),
            ..settings("rfc2136", &variables)
        }
    }

    fn solver(&self) -> Solver {
        Solver::new(self.settings("hmac-sha256", "hmac-sha256", SECRET)).unwrap()
    }
}

#[tokio::test]
async fn a_wildcard_and_its_base_name_have_a_value_each_and_only_ours_are_taken_back() {
    let organisation = Organisation::start();
    let solver = organisation.solver();
    let (base, wildcard) = (
        record("www.example.com", "base"),
        record("www.example.com", "wildcard"),
    );
    visible(&solver, "order", &[base.clone(), wildcard.clone()]).await;
    let expected = sorted([&base.value, &wildcard.value, "theirs"]);
    assert_eq!(organisation.knot.texts(NAME).unwrap(), expected);
    solver.clean_up("order").await;
    assert_eq!(organisation.knot.texts(NAME).unwrap(), ["theirs"]);
}

#[tokio::test]
async fn two_orders_for_one_name_do_not_take_each_others_values_away() {
    let organisation = Organisation::start();
    let solver = organisation.solver();
    let (shared, own) = (
        record("www.example.com", "shared"),
        record("www.example.com", "own"),
    );
    let (first, second) = ([shared.clone(), own.clone()], [shared.clone()]);
    tokio::join!(
        visible(&solver, "first", &first),
        visible(&solver, "second", &second),
    );
    solver.clean_up("first").await;
    let expected = sorted([&shared.value, "theirs"]);
    assert_eq!(
        organisation.knot.texts(NAME).unwrap(),
        expected,
        "the second needs it still"
    );
    solver.clean_up("second").await;
    assert_eq!(organisation.knot.texts(NAME).unwrap(), ["theirs"]);
}

#[tokio::test]
async fn a_delegated_name_has_its_value_where_the_cname_leads() {
    let organisation = Organisation::start();
    let solver = organisation.solver();
    let record = record("app.example.com", "token");
    visible(&solver, "order", std::slice::from_ref(&record)).await;
    let target = "app.challenges.example.net";
    assert_eq!(organisation.knot.texts(target).unwrap(), [record.value.as_str()]);
    solver.clean_up("order").await;
    assert!(organisation.knot.texts(target).unwrap().is_empty());
}

#[tokio::test]
async fn updates_are_signed_with_every_algorithm_that_lego_has_but_md5() {
    let organisation = Organisation::start();
    for algorithm in ALGORITHMS {
        let solver = Solver::new(organisation.settings(algorithm, algorithm, SECRET)).unwrap();
        let record = record("sha.example.com", algorithm);
        visible(&solver, "order", std::slice::from_ref(&record)).await;
        solver.clean_up("order").await;
    }
    assert!(
        organisation
            .knot
            .texts("_acme-challenge.sha.example.com")
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_wrong_key_is_a_failure_that_names_the_server_and_the_key_and_not_the_secret() {
    let organisation = Organisation::start();
    let wrong = "d3JvbmctYnV0LWxvbmctZW5vdWdoLXRvLWJlLWEtc2VjcmV0";
    for (key, algorithm, secret, said) in [
        ("hmac-sha256", "hmac-sha256", wrong, "BadSig"),
        ("hmac-sha256", "hmac-sha512", SECRET, "BadKey"),
        ("another", "hmac-sha256", SECRET, "BadKey"),
    ] {
        let solver = Solver::new(organisation.settings(key, algorithm, secret)).unwrap();
        let error = failure(
            solver
                .publish("order", &[record("www.example.com", "token")])
                .await,
        );
        assert!(
            error.contains("rfc2136") && error.contains(&organisation.knot.address.to_string()),
            "{error}"
        );
        assert!(error.to_lowercase().contains(&said.to_lowercase()), "{error}");
        assert!(
            !error.contains(secret) && !format!("{solver:?}").contains(secret),
            "{error}"
        );
    }
    let server = organisation.knot.address.to_string();
    let unsigned = Dns01 {
        servers: vec![organisation.knot.address],
        ..settings("rfc2136", &[("RFC2136_NAMESERVER", &server)])
    };
    let solver = Solver::new(unsigned).unwrap();
    let error = failure(
        solver
            .publish("order", &[record("www.example.com", "token")])
            .await,
    );
    assert!(error.contains("refuses to update example.com"), "{error}");
    assert_eq!(organisation.knot.texts(NAME).unwrap(), ["theirs"]);
}

#[tokio::test]
async fn a_record_counts_once_every_authoritative_server_that_answers_has_it() {
    let port = free_address().port();
    let zone = "@ NS ns1\n@ NS ns2\n@ NS ns3\nns1 A 127.0.0.1\nns2 A 127.0.0.2\nns3 A 127.0.0.3\n";
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = [1, 2].map(|number: u8| {
        let address = SocketAddr::from(([127, 0, 0, number], port));
        let directory = directories[usize::from(number) - 1].path();
        Knot::start(directory, address, &[("example.com", zone)]).unwrap()
    });
    let solver = |server: &Knot| {
        let server = server.address.to_string();
        let variables = [
            ("RFC2136_NAMESERVER", server.as_str()),
            ("RFC2136_TSIG_KEY", "hmac-sha1"),
            ("RFC2136_TSIG_SECRET", SECRET),
        ];
        let settings = Dns01 {
            servers: vec![first.address],
            authority_port: port,
            ..settings("rfc2136", &variables)
        };
        Solver::new(settings).unwrap()
    };
    let records = [record("www.example.com", "token")];
    let (to_first, to_second) = (solver(&first), solver(&second));
    for _ in 0..2 {
        let publication = to_first.publish("order", &records).await.unwrap();
        assert!(
            matches!(publication, Publication::Spreading(_)),
            "the second has not got it yet"
        );
    }
    assert_eq!(first.texts(NAME).unwrap().len(), 1);
    // As a transfer of the zone would bring it there. The third server never answers.
    let publication = to_second.publish("order", &records).await.unwrap();
    assert_eq!(publication, Publication::Visible);
    assert_eq!(
        to_first.publish("order", &records).await.unwrap(),
        Publication::Visible
    );
}

#[tokio::test]
async fn records_that_stay_invisible_are_taken_back() {
    let organisation = Organisation::start();
    // The zone's authoritative server, as far as this resolver says, knows nothing of the record.
    let (directory, port) = (tempfile::tempdir().unwrap(), organisation.knot.address.port());
    let zone = [("example.com", "@ NS ns\nns A 127.0.0.2\n")];
    let elsewhere = Knot::start(directory.path(), SocketAddr::from(([127, 0, 0, 2], port)), &zone).unwrap();
    let solver = Solver::new(Dns01 {
        servers: vec![elsewhere.address],
        propagation_timeout: Duration::ZERO,
        ..organisation.settings("hmac-sha256", "hmac-sha256", SECRET)
    });
    let error = failure(
        solver
            .unwrap()
            .publish("order", &[record("www.example.com", "token")])
            .await,
    );
    assert!(error.contains("is not visible after 0 s"), "{error}");
    assert_eq!(organisation.knot.texts(NAME).unwrap(), ["theirs"]);
}

/// What an HTTP server was sent: path, credentials, body.
pub(crate) type Sent = Vec<(String, HeaderMap, Value)>;

/// A server that answers by the path, as the test says.
pub(crate) struct Web {
    pub(crate) url: String,
    sent: Arc<Mutex<Sent>>,
    /// What is asked whether the records have arrived.
    pub(crate) zone: Zone,
}

pub(crate) type Answers = BTreeMap<&'static str, (u16, Value)>;

impl Web {
    pub(crate) async fn start(answers: Answers) -> Self {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(any(answer))
            .with_state((Arc::new(answers), sent.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            sent,
            zone: Zone::start().await,
        }
    }

    pub(crate) fn sent(&self) -> Sent {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }

    pub(crate) fn solver(&self, provider: &str, variables: &[(&str, &str)]) -> Solver {
        Solver::new(Dns01 {
            servers: vec![self.zone.address],
            ..settings(provider, variables)
        })
        .unwrap()
    }
}

async fn answer(
    State((answers, sent)): State<(Arc<Answers>, Arc<Mutex<Sent>>)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    sent.lock().unwrap().push((uri.path().to_owned(), headers, value));
    let (status, body) = answers.get(uri.path()).cloned().unwrap_or((404, Value::Null));
    (StatusCode::from_u16(status).unwrap(), body.to_string())
}

#[tokio::test]
async fn httpreq_tells_a_server_of_ones_own() {
    let web = Web::start(BTreeMap::from([
        ("/dns/present", (200, Value::Null)),
        ("/dns/cleanup", (204, Value::Null)),
    ]))
    .await;
    let endpoint = format!("{}/dns/", web.url);
    let record = record("www.example.com", "token");
    let user = [("HTTPREQ_USERNAME", "user"), ("HTTPREQ_PASSWORD", "hunter22")];
    let plain = web.solver(
        "httpreq",
        &[&[("HTTPREQ_ENDPOINT", endpoint.as_str())][..], &user[..]].concat(),
    );
    plain
        .publish("order", std::slice::from_ref(&record))
        .await
        .unwrap();
    plain.clean_up("order").await;
    let sent = web.sent();
    let expected = json!({ "fqdn": record.name, "value": record.value });
    let bodies: Vec<_> = sent.iter().map(|(path, _, body)| (path.as_str(), body)).collect();
    assert_eq!(bodies, [("/dns/present", &expected), ("/dns/cleanup", &expected)]);
    assert_eq!(sent[0].1["authorization"], "Basic dXNlcjpodW50ZXIyMg==");

    let raw = web.solver(
        "httpreq",
        &[("HTTPREQ_ENDPOINT", endpoint.as_str()), ("HTTPREQ_MODE", "RAW")],
    );
    raw.publish("order", &[record]).await.unwrap();
    let sent = web.sent();
    let expected = json!({ "domain": "www.example.com", "token": "token", "keyAuth": "token.thumbprint" });
    assert_eq!((&sent[0].2, sent[0].1.get("authorization")), (&expected, None));
}

#[tokio::test]
async fn i9_what_a_server_says_is_told_without_the_secrets_that_it_repeats() {
    let web = Web::start(BTreeMap::from([(
        "/present",
        (403, json!("no user with hunter22\u{1b}[2J")),
    )]))
    .await;
    let variables = [
        ("HTTPREQ_ENDPOINT", web.url.as_str()),
        ("HTTPREQ_USERNAME", "user"),
        ("HTTPREQ_PASSWORD", "hunter22"),
    ];
    let solver = web.solver("httpreq", &variables);
    let error = failure(
        solver
            .publish("order", &[record("www.example.com", "token")])
            .await,
    );
    assert!(
        error.contains("403") && error.contains("no user with [redacted]"),
        "{error}"
    );
    assert!(!error.contains('\u{1b}'));
    let paths: Vec<_> = web.sent().into_iter().map(|(path, ..)| path).collect();
    assert_eq!(
        paths,
        ["/present", "/cleanup"],
        "it may have published all the same"
    );
    let nobody = format!("http://{}", free_address());
    let solver = web.solver("httpreq", &[("HTTPREQ_ENDPOINT", nobody.as_str())]);
    let error = failure(
        solver
            .publish("order", &[record("www.example.com", "token")])
            .await,
    );
    assert!(
        error.contains("127.0.0.1") && error.contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn acme_dns_registers_once_says_which_cname_is_wanted_and_then_updates() {
    let account = json!({
        "username": "user-1", "password": "password-1", "fulldomain": "sub-1.acme-dns.example", "subdomain": "sub-1",
        "allowfrom": ["192.0.2.0/24"],
    });
    let web = Web::start(BTreeMap::from([
        ("/register", (201, account.clone())),
        ("/update", (200, json!({ "txt": "" }))),
    ]))
    .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("acme-dns.json");
    // As lego keeps it, with something that we do not know.
    let known = json!({ "other.example.com": {
        "username": "user-2", "password": "password-2", "fulldomain": "sub-2.acme-dns.example", "subdomain": "sub-2",
        "allowfrom": [], "server_url": "https://auth.acme-dns.example",
    }});
    std::fs::write(&path, known.to_string()).unwrap();
    let variables = [
        ("ACME_DNS_API_BASE", web.url.as_str()),
        ("ACME_DNS_STORAGE_PATH", path.to_str().unwrap()),
        ("ACME_DNS_ALLOWLIST", "192.0.2.0/24"),
    ];
    let solver = web.solver("acme-dns", &variables);
    let wanted = record("www.example.com", "token");
    let error = failure(solver.publish("order", std::slice::from_ref(&wanted)).await);
    assert!(
        error.contains("_acme-challenge.www.example.com. CNAME sub-1.acme-dns.example."),
        "{error}"
    );
    let sent = web.sent();
    assert_eq!(
        (sent.len(), &sent[0].2),
        (1, &json!({ "allowfrom": ["192.0.2.0/24"] }))
    );
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept["www.example.com"], account);
    assert_eq!(kept["other.example.com"], known["other.example.com"]);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    // The CNAME is there now, as far as the operator says.
    let after_a_restart = web.solver("acme-dns", &variables);
    after_a_restart
        .publish("order", std::slice::from_ref(&wanted))
        .await
        .unwrap();
    after_a_restart.clean_up("order").await;
    let sent = web.sent();
    assert_eq!(sent.len(), 1, "there is nothing to take back at acme-dns");
    assert_eq!(
        (sent[0].0.as_str(), &sent[0].2),
        ("/update", &json!({ "subdomain": "sub-1", "txt": wanted.value }))
    );
    assert_eq!(sent[0].1["x-api-user"], "user-1");
    assert_eq!(sent[0].1["x-api-key"], "password-1");

    // Another name's CNAME leads to an account that is there: it is no new one.
    web.zone
        .set_alias("_acme-challenge.alias.example.com", "sub-2.acme-dns.example");
    let alias = record("alias.example.com", "token");
    web.zone.set_txt("sub-2.acme-dns.example", &[&alias.value]);
    visible(&after_a_restart, "order", std::slice::from_ref(&alias)).await;
    let sent = web.sent();
    assert_eq!(
        (sent.len(), &sent[0].2),
        (1, &json!({ "subdomain": "sub-2", "txt": alias.value }))
    );
}

#[tokio::test]
async fn acme_dns_accounts_may_be_kept_by_a_storage_server() {
    let account = json!({
        "username": "user-1", "password": "password-1", "fulldomain": "sub-1.acme-dns.example", "subdomain": "sub-1",
    });
    let web = Web::start(BTreeMap::from([
        ("/storage/www.example.com", (200, account)),
        ("/update", (200, json!({ "txt": "" }))),
    ]))
    .await;
    let storage = format!("{}/storage", web.url);
    let variables = [
        ("ACME_DNS_API_BASE", web.url.as_str()),
        ("ACME_DNS_STORAGE_BASE_URL", storage.as_str()),
    ];
    let solver = web.solver("acme-dns", &variables);
    solver
        .publish("order", &[record("www.example.com", "token")])
        .await
        .unwrap();
    assert_eq!(web.sent()[1].2["subdomain"], "sub-1");
}
