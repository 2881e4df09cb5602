//! Each path that the Go program serves, on a running server: what it answers here, and that nothing signs but ACME.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::compat::assert_covers;
use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET, Order};
use crate::harness::csr;
use crate::harness::key::{Key, b64};
use crate::harness::server::{Daemon, Plan};

/// The rows of docs/COMPATIBILITY.md that `each_acme_path_answers_below_both_prefixes` goes through.
const ACME: [&str; 14] = [
    "H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "H9", "H10", "H11", "H12", "H13", "H14",
];

/// The rows of the other tests here.
const OTHERS: [&str; 11] = [
    "H15", "H16", "H17", "H18", "H19", "H20", "H21", "H22", "H23", "H24", "H25",
];

#[test]
fn each_row_of_the_documented_paths_has_its_test() {
    assert_covers('H', ACME.into_iter().chain(OTHERS));
}

/// The same path below `/2.0`.
fn below_2_0(url: &str) -> String {
    url.replace("/acme/acme/", "/2.0/acme/acme/")
}

#[tokio::test]
async fn each_acme_path_answers_below_both_prefixes_and_links_lead_to_the_first() {
    let daemon = Daemon::start().await;
    let directory = daemon.site.get("/acme/acme/directory").await.expect(200).json();
    for at in [str::to_owned as fn(&str) -> String, below_2_0] {
        let url = |path: &str| at(&daemon.site.url(path));
        let get = async |method: &str, path: &str| {
            let url = url(path);
            daemon
                .site
                .request(method, daemon.site.path_of(&url), &[], b"")
                .await
        };
        assert_eq!(get("GET", "directory").await.expect(200).json(), directory);
        get("HEAD", "directory").await.expect(200);
        get("HEAD", "new-nonce").await.expect(200).nonce();
        get("GET", "new-nonce").await.expect(204).nonce();

        let newcomer = Client::stranger(&daemon.site);
        let made = newcomer.post(&url("new-account"), json!({})).await.expect(201);
        let account = made.location();
        assert!(account.starts_with(&daemon.site.url("account/")), "{account}");
        let again = newcomer.post(&url("new-account"), json!({})).await.expect(200);
        assert_eq!(again.location(), account);
        // The account goes by either URL, whichever the request is for.
        for kid in [account.clone(), below_2_0(&account)] {
            let client = Client::new(&daemon.site, newcomer.key.clone(), Some(kid));
            let found = client.post(&at(&account), GET).await.expect(200);
            assert_eq!(found.location(), account);
        }
        let client = Client::new(&daemon.site, newcomer.key.clone(), Some(at(&account)));
        let identifiers = json!({ "identifiers": [{ "type": "dns", "value": "www.example.com" }] });
        let order = client.post(&url("new-order"), identifiers).await.expect(201);
        let order = Order::of(&order);
        assert!(order.url.starts_with(&daemon.site.url("order/")), "{}", order.url);
        let orders = client.post(&at(&format!("{account}/orders")), GET).await;
        assert_eq!(orders.expect(200).json()["orders"], json!([order.url]));
        let found = client.post(&at(&order.url), GET).await.expect(200);
        assert_eq!(found.location(), order.url);
        let authorization = client.post(&at(&order.authorizations[0]), GET).await.expect(200);
        assert_eq!(authorization.location(), order.authorizations[0]);
        assert_eq!(authorization.json()["status"], "pending");
        let challenge = client.publish(&daemon, &order.authorizations[0]).await;
        let answered = client.post(&at(&challenge), json!({})).await.expect(200);
        assert_eq!(answered.location(), challenge);
        assert_eq!(answered.link("up").as_ref(), Some(&order.authorizations[0]));
        client.until(&at(&order.url), "ready").await;
        let csr = json!({ "csr": b64(csr::plain(&Key::new(), &["www.example.com"])) });
        let finalized = client.post(&at(&order.finalize), csr).await.expect(200);
        assert_eq!(finalized.location(), order.url);
        let valid = client.until(&at(&order.url), "valid").await;
        let certificate = valid["certificate"].as_str().unwrap();
        let chain = client.post(&at(certificate), GET).await.expect(200);
        assert_eq!(
            chain.header("content-type"),
            Some("application/pem-certificate-chain")
        );
        let leaf = CertificateDer::from_pem_slice(&chain.body).unwrap();
        let revocation = json!({ "certificate": b64(leaf), "reason": 4 });
        client.post(&url("revoke-cert"), revocation).await.expect(200);

        let successor = Key::new();
        let inner = json!({ "account": client.kid(), "oldKey": client.key.jwk });
        let header = json!({ "alg": "ES256", "jwk": successor.jwk, "url": url("key-change") });
        let inner = successor.envelope(header.to_string().as_bytes(), inner.to_string().as_bytes());
        client.post(&url("key-change"), inner).await.expect(200);
    }
}

#[tokio::test]
async fn a_url_that_was_signed_for_one_prefix_is_not_taken_below_the_other() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let here = client.kid().to_owned();
    for (signed, sent) in [(here.clone(), below_2_0(&here)), (below_2_0(&here), here.clone())] {
        let body = client.signed(&signed, &client.nonce().await, GET);
        client.post_body(&sent, &body).await.problem(403, "unauthorized");
    }
    for prefix in ["/1.0/acme", "/3.0/acme", "/2.0/2.0/acme"] {
        let elsewhere = here.replacen("/acme/", &format!("{prefix}/"), 1);
        let liar = Client::new(&daemon.site, client.key.clone(), Some(elsewhere.clone()));
        liar.post(&here, GET).await.problem(400, "accountDoesNotExist");
        let path = daemon.site.path_of(&elsewhere);
        daemon
            .site
            .request("POST", path, &[], b"{}")
            .await
            .problem(404, "malformed");
    }
}

#[tokio::test]
async fn a_provisioner_that_is_not_there_is_a_problem_below_both_prefixes() {
    let daemon = Daemon::start().await;
    for prefix in ["/acme", "/2.0/acme"] {
        let path = format!("{prefix}/nobody/directory");
        daemon.site.get(&path).await.problem(404, "malformed");
    }
}

/// A daemon with a root, two of them federated; their certificates.
async fn with_roots(provisioner: Value) -> (Daemon, TempDir, Vec<CertificateDer<'static>>) {
    let directory = TempDir::new().unwrap();
    let mut certificates = Vec::new();
    let mut paths = Vec::new();
    for name in ["root", "federated", "other"] {
        let root = rcgen::generate_simple_self_signed([format!("{name}.example.com")]).unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, root.cert.pem()).unwrap();
        certificates.push(root.cert.der().clone());
        paths.push(path);
    }
    let plan = Plan {
        provisioner: Some(provisioner),
        more: Some(json!({ "root": paths[0], "federatedRoots": paths[1..] })),
        ..Plan::default()
    };
    (Daemon::start_with(plan).await, directory, certificates)
}

fn certificates_in(answer: &Answer) -> Vec<CertificateDer<'static>> {
    let list = answer.json();
    let crts = list["crts"].as_array().unwrap().iter();
    crts.map(|pem| CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes()).unwrap())
        .collect()
}

#[tokio::test]
async fn the_paths_for_operations_answer_at_both_places() {
    let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    let provisioner = json!({
        "termsOfService": "https://example.com/terms", "requireEAB": true,
        "eabKeys": [{ "kid": "team", "hmacKey": secret }],
    });
    let (daemon, _directory, roots) = with_roots(provisioner).await;
    for prefix in ["", "/1.0"] {
        let get = async |path: &str| daemon.site.get(&format!("{prefix}{path}")).await;
        for path in [
            "/health",
            "/version",
            "/roots",
            "/roots.pem",
            "/federation",
            "/provisioners",
        ] {
            let head = daemon
                .site
                .request("HEAD", &format!("{prefix}{path}"), &[], b"")
                .await;
            assert_eq!(head.status, get(path).await.status, "{path}");
            let post = daemon
                .site
                .request("POST", &format!("{prefix}{path}"), &[], b"{}")
                .await;
            post.problem(405, "malformed");
        }
        assert!(get("/health").await.expect(200).json()["status"].is_string());
        let version = get("/version").await.expect(200).json();
        assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(certificates_in(&get("/roots").await.expect(201)), roots[..1]);
        assert_eq!(certificates_in(&get("/federation").await.expect(201)), roots);
        let pem = get("/roots.pem").await.expect(200);
        assert_eq!(pem.header("content-type"), Some("application/x-pem-file"));
        assert_eq!(CertificateDer::from_pem_slice(&pem.body).unwrap(), roots[0]);
        for root in &roots {
            let sha = acme_proxy::acme::certificate::Fingerprint::of(root).to_string();
            for sha in [
                sha.to_ascii_uppercase(),
                format!("{}-{}", &sha[..8], &sha[8..]),
                sha,
            ] {
                let found = get(&format!("/root/{sha}")).await.expect(200).json();
                let pem = found["ca"].as_str().unwrap().as_bytes();
                assert_eq!(CertificateDer::from_pem_slice(pem).unwrap(), *root);
            }
        }
        for sha in ["00", "x", &"0".repeat(64)] {
            get(&format!("/root/{sha}")).await.problem(404, "malformed");
        }
        let page = get("/provisioners").await.expect(200);
        assert!(!page.text().contains(secret), "{}", page.text());
        let expected = json!({
            "provisioners": [
                { "type": "ACME", "name": "acme", "challenges": ["http-01"], "requireEAB": true,
                  "termsOfService": "https://example.com/terms" },
                { "type": "ACME", "name": "other", "challenges": ["http-01"] },
            ],
            "nextCursor": "",
        });
        assert_eq!(page.json(), expected);
    }
}

#[tokio::test]
async fn without_roots_there_are_none_and_never_a_crl_or_intermediates() {
    let daemon = Daemon::start().await;
    for prefix in ["", "/1.0"] {
        let get = async |path: &str| daemon.site.get(&format!("{prefix}{path}")).await;
        for path in ["/roots", "/federation"] {
            assert_eq!(get(path).await.expect(201).json(), json!({ "crts": [] }));
        }
        assert_eq!(get("/roots.pem").await.expect(200).body, b"");
        for path in ["/crl", "/intermediates", "/intermediates.pem"] {
            get(path).await.problem(404, "malformed");
        }
    }
}

#[tokio::test]
async fn nothing_that_signs_renews_or_revokes_is_there_but_acme() {
    let daemon = Daemon::start().await;
    let paths = [
        "/sign",
        "/renew",
        "/rekey",
        "/revoke",
        "/re-sign",
        "/sign-ssh",
        "/ssh/sign",
        "/ssh/renew",
        "/ssh/revoke",
        "/ssh/rekey",
        "/ssh/roots",
        "/ssh/federation",
        "/ssh/config",
        "/ssh/config/user",
        "/ssh/check-host",
        "/ssh/hosts",
        "/ssh/get-hosts",
        "/ssh/bastion",
        "/provisioners/kid/encrypted-key",
        "/admin/provisioners",
        "/scep/acme",
        "/acme/sign",
        "/2.0/sign",
    ];
    for prefix in ["", "/1.0"] {
        for path in paths {
            for method in ["GET", "POST", "PUT"] {
                let path = format!("{prefix}{path}");
                let answer = daemon.site.request(method, &path, &[], b"{}").await;
                answer.problem(404, "malformed");
            }
        }
    }
    assert_eq!(daemon.ca.stats().orders_opened, 0);
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_the_clients_own_if_it_is_a_sensible_one() {
    let more = json!({ "logger": { "format": "json", "traceHeader": "X-Trace" } });
    let daemon = Daemon::start_with(Plan {
        more: Some(more),
        ..Plan::default()
    })
    .await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let answer = daemon.site.request(method, path, headers, b"").await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(answer.header("x-trace"), Some(id.as_str()), "{path}");
        id
    };
    let mut seen = std::collections::BTreeSet::new();
    for (method, path) in [
        ("GET", "/acme/acme/directory"),
        ("HEAD", "/2.0/acme/acme/new-nonce"),
        ("POST", "/acme/acme/new-account"),
        ("GET", "/acme/acme/new-account"),
        ("GET", "/acme/nobody/directory"),
        ("GET", "/health"),
        ("POST", "/sign"),
    ] {
        let id = ask(method, path, &[]).await;
        assert!(id.len() >= 20 && seen.insert(id), "{path}");
        assert_eq!(ask(method, path, &[("X-Request-Id", "mine-1")]).await, "mine-1");
        assert_eq!(ask(method, path, &[("X-Trace", "mine-2")]).await, "mine-2");
        let both = [("X-Trace", "mine-2"), ("X-Request-Id", "mine-1")];
        assert_eq!(ask(method, path, &both).await, "mine-1");
        for bad in ["", "two words", &"x".repeat(65), "<script>"] {
            assert_ne!(ask(method, path, &[("X-Request-Id", bad)]).await, bad);
        }
    }
}
