//! Against real Pebble, over TLS, in strict mode, with its habit of refusing nonces.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use acme_proxy::acme::certificate::IssuedChain;
use acme_proxy::acme::order::Order;
use acme_proxy::acme::problem::ProblemType;
use acme_proxy::acme::revocation::RevocationReason;
use acme_proxy::acme::secret::Secret;
use acme_proxy::upstream::Eab;
use acme_proxy::upstream::Error;
use acme_proxy::upstream::Issuer;
use acme_proxy::upstream::Progress;
use acme_proxy::upstream::Settings;
use acme_proxy::upstream::acme::Ca;
use acme_proxy::upstream::dns::Dns01;
use acme_proxy::upstream::dns::known;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::harness::process::free_address;
use crate::harness::zone::Zone;
use crate::upstream::Crash;
use crate::upstream::MemoryVault;
use crate::upstream::TlsFiles;
use crate::upstream::issued;
use crate::upstream::now;
use crate::upstream::opened;
use crate::upstream::order;
use crate::upstream::order_of;
use crate::upstream::validated;

const HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the CA's dns-01 challenges are solved with: it writes down what it was told, too.
const PROGRAM: &str = r#"#!/bin/sh
set -e
case $1 in
present) curl -fsS -d "{\"host\":\"$2\",\"value\":\"$3\"}" "$MANAGEMENT/set-txt" ;;
cleanup) curl -fsS -d "{\"host\":\"$2\"}" "$MANAGEMENT/clear-txt" ;;
esac
echo "$1 $2" >> "${0%/*}/actions"
"#;

/// Pebble, and a DNS server that it looks TXT records up at.
struct Pebble {
    files: TlsFiles,
    port: u16,
    dns: SocketAddr,
    management: String,
    environment: Vec<(&'static str, &'static str)>,
    process: Option<Process>,
    _dns_server: Process,
}

impl Pebble {
    /// Pebble that validates every name anew.
    async fn strict() -> Self {
        Self::start(vec![("PEBBLE_AUTHZREUSE", "0")]).await
    }

    /// Pebble that remembers validated names, as a CA does that knows the organisation.
    async fn remembering() -> Self {
        Self::start(vec![("PEBBLE_AUTHZREUSE", "100")]).await
    }

    async fn start(environment: Vec<(&'static str, &'static str)>) -> Self {
        let files = TlsFiles::new();
        let port = free_address().port();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_address().port()),
            "certificate": files.path("server.pem"), "privateKey": files.path("server.key"),
            "httpPort": 5002, "tlsPort": 5001, "ocspResponderURL": "",
            "externalAccountBindingRequired": true, "externalAccountMACKeys": {"kid-1": HMAC_KEY},
            "domainBlocklist": ["blocked.example"], "certificateValidityPeriod": 86400,
        }});
        std::fs::write(files.path("config.json"), config.to_string()).unwrap();
        std::fs::write(files.path("dns.sh"), PROGRAM).unwrap();
        std::fs::set_permissions(files.path("dns.sh"), Permissions::from_mode(0o755)).unwrap();
        let (dns, management) = (
            format!("127.0.0.1:{}", free_address().port()),
            format!("127.0.0.1:{}", free_address().port()),
        );
        let dns_server = Command::new("pebble-challtestsrv")
            .args(["-dns01", &dns, "-management", &management])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pebble = Self {
            files,
            port,
            dns: dns.parse().unwrap(),
            management: format!("http://{management}"),
            environment,
            process: None,
            _dns_server: Process(dns_server),
        };
        pebble.restart().await;
        pebble
    }

    /// Pebble forgets everything.
    async fn restart(&mut self) {
        self.process = None;
        let log = std::fs::File::create(self.files.path("log")).unwrap();
        let child = Command::new("pebble")
            .arg("-config")
            .arg(self.files.path("config.json"))
            .arg("-strict")
            .args(["-dnsserver", &self.dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .envs(self.environment.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Process(child));
        let ca = Ca::new(self.settings(), Arc::new(MemoryVault::default())).unwrap();
        for _ in 0..200 {
            if ca.probe().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Pebble does not start: {}", self.log());
    }

    fn settings(&self) -> Settings {
        Settings {
            section: "authority.config".to_owned(),
            directory: format!("https://localhost:{}/dir", self.port),
            roots: Some(self.files.path("roots.pem")),
            email: Some("hostmaster@example.com".to_owned()),
            eab: Some(Eab {
                kid: Secret::new("kid-1".to_owned()),
                hmac_key: Secret::new(URL_SAFE_NO_PAD.decode(HMAC_KEY).unwrap()),
            }),
            dns01: None,
            lifetime: None,
            profile: None,
        }
    }

    /// With the program that solves dns-01.
    fn solving(&self) -> Settings {
        let program = self.files.path("dns.sh").display().to_string();
        let variables = BTreeMap::from([
            ("EXEC_PATH".to_owned(), Secret::new(program)),
            ("EXEC_POLLING_INTERVAL".to_owned(), Secret::new("1".to_owned())),
            ("MANAGEMENT".to_owned(), Secret::new(self.management.clone())),
        ]);
        Settings {
            dns01: Some(Dns01 {
                servers: vec![self.dns],
                propagation_timeout: Duration::from_secs(30),
                ..known::read("exec", variables).unwrap().settings.unwrap()
            }),
            ..self.settings()
        }
    }

    /// A restart of the daemon.
    fn ca(&self, vault: &Arc<MemoryVault>) -> Ca {
        Ca::new(self.solving(), vault.clone()).unwrap()
    }

    /// What the program was told.
    fn actions(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.files.path("actions")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.files.path("log")).unwrap()
    }

    fn accounts(&self) -> usize {
        self.log().matches("accounts in memory").count()
    }
}

fn checked(chain: &str, order: &Order) {
    IssuedChain::verify(chain, validated(order).ordered(), now()).unwrap();
}

#[tokio::test]
async fn i1_the_eab_is_spent_once_over_restarts() {
    let pebble = Pebble::remembering().await;
    let vault = Arc::new(MemoryVault::default());
    for _ in 0..3 {
        let ca = pebble.ca(&vault);
        ca.prepare().await.unwrap();
        ca.prepare().await.unwrap();
        opened(&ca, order(&["www.example.com"])).await;
    }
    assert_eq!(pebble.accounts(), 1, "{}", pebble.log());
    assert_eq!(*vault.saves.lock().unwrap(), 2);
}

#[tokio::test]
async fn f24_a_crash_before_new_account_registers_the_key_that_was_written_down() {
    let pebble = Pebble::remembering().await;
    let vault = MemoryVault::crashing(Crash::After(1));
    pebble.ca(&vault).prepare().await.unwrap_err();
    assert_eq!(pebble.accounts(), 0);
    let key = vault.json()["key"].clone();
    vault.restart();
    pebble.ca(&vault).prepare().await.unwrap();
    assert_eq!(vault.json()["key"], key);
    assert_eq!(vault.json()["state"]["name"], "registered");
    assert_eq!(pebble.accounts(), 1);
}

#[tokio::test]
async fn f24_a_crash_after_new_account_finds_the_account_again() {
    let pebble = Pebble::remembering().await;
    let vault = MemoryVault::crashing(Crash::Before(2));
    pebble.ca(&vault).prepare().await.unwrap_err();
    assert_eq!(pebble.accounts(), 1);
    assert_eq!(vault.json()["state"]["name"], "registering");
    vault.restart();
    let ca = pebble.ca(&vault);
    ca.prepare().await.unwrap();
    assert_eq!(vault.json()["state"]["name"], "registered");
    assert_eq!(pebble.accounts(), 1, "{}", pebble.log());
    opened(&ca, order(&["www.example.com"])).await;
}

#[tokio::test]
async fn f24_nothing_is_sent_unless_the_key_is_written_down() {
    let pebble = Pebble::remembering().await;
    let vault = MemoryVault::crashing(Crash::Before(1));
    pebble.ca(&vault).prepare().await.unwrap_err();
    assert_eq!(pebble.accounts(), 0);
}

#[tokio::test]
async fn foreign_csrs_of_both_kinds_are_issued_and_revoked_with_a_reason() {
    let pebble = Pebble::remembering().await;
    let ca = pebble.ca(&Arc::default());
    for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let order = opened(&ca, order_of(&["www.example.com", "*.example.com"], algorithm)).await;
        let chain = issued(&ca, &order).await.unwrap();
        checked(&chain, &order);
        let leaf = IssuedChain::verify(&chain, validated(&order).ordered(), now()).unwrap();
        let leaf = leaf.certificate.leaf().clone();
        ca.revoke(&leaf, None, Some(RevocationReason::Superseded))
            .await
            .unwrap();
        ca.revoke(&leaf, None, Some(RevocationReason::Superseded))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_key_changes_and_an_account_that_has_been_replaced_still_revokes() {
    let pebble = Pebble::remembering().await;
    let vault = Arc::new(MemoryVault::default());
    let ca = pebble.ca(&vault);
    ca.prepare().await.unwrap();
    let rotated = ca.rotate_key().await.unwrap();
    assert_ne!(rotated.from, rotated.to);
    let order = opened(&ca, order(&["www.example.com"])).await;
    let chain = issued(&ca, &order).await.unwrap();
    let (_, new) = ca.register(true).await.unwrap();
    assert!(new);
    let leaf = IssuedChain::verify(&chain, validated(&order).ordered(), now()).unwrap();
    let leaf = leaf.certificate.leaf().clone();
    let buyer = validated(&order).upstream().unwrap().account.clone();
    let by_the_current_one = ca.revoke(&leaf, None, None).await;
    assert!(
        matches!(by_the_current_one, Err(Error::Permanent(_))),
        "{by_the_current_one:?}"
    );
    ca.revoke(&leaf, Some(&buyer), Some(RevocationReason::Superseded))
        .await
        .unwrap();
    let earlier = ca.earlier_accounts().await.unwrap();
    assert!(
        earlier.iter().all(|account| account.thumbprint == rotated.to),
        "{earlier:?}"
    );
}

#[tokio::test]
async fn f24_an_order_is_resumed_by_its_url_and_can_be_collected_twice() {
    let pebble = Pebble::remembering().await;
    let vault = Arc::new(MemoryVault::default());
    let order = opened(&pebble.ca(&vault), order(&["www.example.com"])).await;
    let chain = issued(&pebble.ca(&vault), &order).await.unwrap();
    checked(&chain, &order);
    assert_eq!(issued(&pebble.ca(&vault), &order).await.unwrap(), chain);
}

#[tokio::test]
async fn f4_half_of_all_nonces_refused_fails_no_order() {
    let environment = vec![("PEBBLE_AUTHZREUSE", "100"), ("PEBBLE_WFE_NONCEREJECT", "50")];
    let pebble = Pebble::start(environment).await;
    let ca = pebble.ca(&Arc::default());
    for _ in 0..10 {
        let order = order(&["www.example.com"]);
        let opened = loop {
            match ca.open(&validated(&order)).await {
                Ok(opened) => break opened,
                Err(Error::Transient { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let order = order.opened_upstream(opened);
        checked(&issued(&ca, &order).await.unwrap(), &order);
    }
}

#[tokio::test]
async fn f9_an_account_that_the_ca_has_lost_is_not_replaced() {
    let mut pebble = Pebble::remembering().await;
    let vault = Arc::new(MemoryVault::default());
    let ca = pebble.ca(&vault);
    ca.prepare().await.unwrap();
    let record = vault.json();
    pebble.restart().await;
    let order = order(&["www.example.com"]);
    for _ in 0..2 {
        let outcome = ca.open(&validated(&order)).await;
        assert!(matches!(outcome, Err(Error::Transient { .. })), "{outcome:?}");
        ca.prepare().await.unwrap_err();
    }
    assert_eq!(pebble.accounts(), 0);
    assert_eq!(vault.json(), record);
}

#[tokio::test]
async fn f10_an_eab_that_the_ca_refuses_is_said_to_be_the_reason() {
    let pebble = Pebble::remembering().await;
    let mut settings = pebble.settings();
    settings.eab = Some(Eab {
        kid: Secret::new("kid-2".to_owned()),
        hmac_key: Secret::new(vec![1; 32]),
    });
    let ca = Ca::new(settings.clone(), Arc::new(MemoryVault::default())).unwrap();
    let Err(Error::Permanent(problem)) = ca.prepare().await else {
        panic!("registered");
    };
    assert!(problem.detail.contains("eab_kid"), "{problem}");
    settings.eab = None;
    let ca = Ca::new(settings, Arc::new(MemoryVault::default())).unwrap();
    let Err(Error::Permanent(problem)) = ca.prepare().await else {
        panic!("registered");
    };
    assert!(problem.detail.contains("External Account Binding"), "{problem}");
}

#[tokio::test]
async fn f12_a_name_that_the_ca_will_not_certify_is_rejected() {
    let pebble = Pebble::remembering().await;
    let ca = pebble.ca(&Arc::default());
    let outcome = ca.open(&validated(&order(&["www.blocked.example"]))).await;
    let Err(Error::Permanent(problem)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
}

#[tokio::test]
async fn f6_a_ca_with_a_certificate_of_somebody_elses_is_not_spoken_to() {
    let pebble = Pebble::remembering().await;
    let mut settings = pebble.settings();
    settings.roots = None;
    let ca = Ca::new(settings, Arc::new(MemoryVault::default())).unwrap();
    let Err(Error::Transient { detail, .. }) = ca.probe().await else {
        panic!("trusted");
    };
    assert!(detail.contains("certificate"), "{detail}");
}

#[tokio::test]
async fn f13_a_name_and_its_wildcard_are_proved_by_two_records_which_are_taken_back() {
    let pebble = Pebble::strict().await;
    let ca = pebble.ca(&Arc::default());
    let order = opened(&ca, order(&["example.com", "*.example.com"])).await;
    checked(&issued(&ca, &order).await.unwrap(), &order);
    let present = "present _acme-challenge.example.com.";
    let cleanup = "cleanup _acme-challenge.example.com.";
    assert_eq!(
        pebble.actions(),
        [present, present, cleanup, cleanup],
        "{}",
        pebble.log()
    );
}

#[tokio::test]
async fn f13_after_a_restart_in_the_middle_the_records_are_published_again() {
    let pebble = Pebble::strict().await;
    let vault = Arc::new(MemoryVault::default());
    let order = opened(&pebble.ca(&vault), order(&["example.com"])).await;
    let nothing = Zone::start().await;
    let mut blind = pebble.solving();
    if let Some(dns01) = &mut blind.dns01 {
        // Nothing is known there: the record stays invisible.
        dns01.servers = vec![nothing.address];
    }
    let before = Ca::new(blind, vault.clone()).unwrap();
    let progress = before.advance(&validated(&order)).await.unwrap();
    let retry_after = Duration::from_secs(1);
    assert_eq!(progress, Progress::Waiting { retry_after });
    checked(&issued(&pebble.ca(&vault), &order).await.unwrap(), &order);
    let present = "present _acme-challenge.example.com.";
    assert_eq!(pebble.actions()[..2], [present, present]);
}

#[tokio::test]
async fn f13_the_program_is_given_the_target_of_a_delegated_challenge_name() {
    let pebble = Pebble::strict().await;
    let alias = r#"{"host":"_acme-challenge.example.com","target":"example.com.challenges.example.net"}"#;
    let url = format!("{}/set-cname", pebble.management);
    let set = Command::new("curl").args(["-fsS", "-d", alias, &url]).status();
    assert!(set.unwrap().success());
    let ca = pebble.ca(&Arc::default());
    let order = opened(&ca, order(&["example.com"])).await;
    let outcome = ca.advance(&validated(&order)).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(pebble.actions()[0], "present example.com.challenges.example.net.");
}

#[tokio::test]
async fn f13_without_a_solver_the_error_names_the_name_the_challenges_and_the_setting() {
    let pebble = Pebble::strict().await;
    let ca = Ca::new(pebble.settings(), Arc::new(MemoryVault::default())).unwrap();
    let order = opened(&ca, order(&["example.com"])).await;
    let outcome = ca.advance(&validated(&order)).await;
    let Err(Error::Permanent(problem)) = outcome else {
        panic!("{outcome:?}");
    };
    for part in ["example.com", "http-01", "dns-01", "authority.config.dns01_txt"] {
        assert!(problem.detail.contains(part), "{problem}");
    }
}

#[tokio::test]
async fn f13_a_name_that_the_ca_has_validated_already_needs_no_solver() {
    let pebble = Pebble::remembering().await;
    let vault = Arc::new(MemoryVault::default());
    let ca = pebble.ca(&vault);
    let first = opened(&ca, order(&["www.example.com"])).await;
    issued(&ca, &first).await.unwrap();
    let ca = Ca::new(pebble.settings(), vault).unwrap();
    let second = opened(&ca, order(&["www.example.com"])).await;
    checked(&issued(&ca, &second).await.unwrap(), &second);
}
