//! How the daemon starts, refuses to start, and ends (COMPAT section 2; SECURITY F19, F27, F36, F37, I9): one line that
//! says what is wrong, the right exit code, and nothing half started.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{ChallengeStatus, ChallengeType, Identifier, NewAccount, NewOrder};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::harness::process::{NAME, PATIENCE, free_address, text};
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::{Ledger, builder};

/// Starts the program, which must refuse with this exit code and one line that holds these words, and leave nothing
/// behind.
async fn refuses(world: &World, code: i32, words: &[&str], change: impl FnOnce(&mut Command)) {
    let output = world.installation.run(change).await;
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(lines(&error).count(), 1, "one line, not:\n{error}");
    assert!(
        lines(&error).all(|line| line.starts_with("acme-proxy: ")),
        "{error}"
    );
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    assert!(!error.contains(&world.ca.eab.hmac_key), "{error}");
    nothing_was_started(world, &output);
}

fn nothing_was_started(world: &World, output: &Output) {
    assert_eq!(text(&output.stdout), "");
    assert!(!world.installation.store().exists(), "a store was made");
    assert_eq!(world.storm.connections(), 0, "the CA was contacted");
    assert_eq!(world.ca.stats().eab_uses, 0);
}

/// Without the warnings about the configuration, which name what is for tests only.
fn lines(error: &str) -> impl Iterator<Item = &str> {
    error.lines().filter(|line| !line.contains(" level=warning "))
}

#[tokio::test]
async fn a_flag_that_does_not_exist_exits_1() {
    let world = World::new().await;
    let output = world.installation.run(|command| {
        command.arg("--frobnicate").arg(world.installation.config());
    });
    let output = output.await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: unexpected argument '--frobnicate' found"));
    nothing_was_started(&world, &output);
}

#[tokio::test]
async fn no_configuration_exits_1() {
    let world = World::new().await;
    refuses(&world, 1, &["no configuration given", "ca.json"], |_| {}).await;
}

#[tokio::test]
async fn a_configuration_that_can_not_be_read_exits_1() {
    let world = World::new().await;
    let missing = world.installation.path("missing.json");
    let says = missing.display().to_string();
    refuses(&world, 1, &[&says, "there is no such file"], |command| {
        command.arg(&missing);
    })
    .await;
    let directory = missing.parent().unwrap();
    refuses(&world, 1, &["is a directory"], |command| {
        command.arg(directory);
    })
    .await;
    // Root may read everything.
    if !rustix::process::geteuid().is_root() {
        let config = world.installation.config();
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o000)).unwrap();
        refuses(&world, 1, &["may not be read by this user"], |command| {
            command.arg(&config);
        })
        .await;
    }
}

#[tokio::test]
async fn bad_json_exits_2_and_names_the_line() {
    let world = World::new().await;
    world
        .installation
        .write_config(b"{\n  \"address\": \":443\",\n  oops\n}\n");
    refuses_its_configuration(&world, &["ca.json:3", "not valid JSON"]).await;
}

#[tokio::test]
async fn a_level_of_the_log_that_is_none_exits_2_and_names_the_variable() {
    let world = World::new().await;
    refuses(
        &world,
        2,
        &["ACME_PROXY_LOG", "ACME_PROXY_LOG=debug"],
        |program| {
            program
                .arg(world.installation.config())
                .env("ACME_PROXY_LOG", "acme_proxy=loud");
        },
    )
    .await;
}

#[tokio::test]
async fn a_missing_ca_url_exits_2_and_names_the_key() {
    let world = World::new().await;
    world.installation.edit(|config| {
        config["authority"]["config"]
            .as_object_mut()
            .unwrap()
            .remove("ca_url");
    });
    refuses_its_configuration(&world, &["authority.config.ca_url", "is missing"]).await;
}

#[tokio::test]
async fn an_eab_key_that_is_not_base64url_exits_2_and_is_not_shown() {
    let world = World::new().await;
    world
        .installation
        .edit(|config| config["authority"]["config"]["eab_hmac_key"] = json!("not base64url!"));
    refuses_its_configuration(
        &world,
        &["authority.config.eab_hmac_key", "[redacted] is not base64url"],
    )
    .await;
}

#[tokio::test]
async fn f36_a_port_in_use_exits_2_and_is_named() {
    let world = World::new().await;
    for (key, address) in [
        ("address", world.installation.address),
        ("metricsAddress", world.installation.metrics),
    ] {
        let taken = TcpListener::bind(address).unwrap();
        refuses_its_configuration(&world, &[key, &address.to_string(), "is in use"]).await;
        drop(taken);
        // Nobody has kept the other one.
        drop(TcpListener::bind(world.installation.address).unwrap());
        drop(TcpListener::bind(world.installation.metrics).unwrap());
    }
}

async fn refuses_its_configuration(world: &World, words: &[&str]) {
    refuses(world, 2, words, |command| {
        command.arg(world.installation.config());
    })
    .await;
}

#[tokio::test]
async fn f37_a_second_process_on_the_store_exits_2_and_names_the_first() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    world.installation.edit(|config| {
        config["address"] = json!(free_address().to_string());
        config["metricsAddress"] = json!(free_address().to_string());
    });
    let output = world.installation.run(|command| {
        command.arg(world.installation.config());
    });
    let output = output.await;
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(lines(&error).count(), 1, "{error}");
    assert!(
        error.contains(&format!("is in use by process {}", daemon.pid())),
        "{error}"
    );
    daemon.is_well().await;
    let stats = world.ca.stats();
    assert_eq!(
        (stats.eab_uses, stats.orders_opened),
        (1, 1),
        "the second process asked the CA for nothing"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn f19_with_no_resolver_the_daemon_serves_and_validation_says_dns() {
    let world = World::new().await;
    let nobody = free_address();
    let mut daemon = world.installation.start_with(|command| {
        command.arg("--resolver").arg(nobody.to_string());
    });
    daemon.is_well().await;
    let newcomer = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let http = world.installation.client();
    let created = builder(&http)
        .create(&newcomer, world.installation.directory_url(), None)
        .await;
    let (account, _) = created.unwrap();
    let identifiers = [Identifier::Dns("www.test.example.com".to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.unwrap();
    let url = order.url().to_owned();
    let mut authorizations = order.authorizations();
    let mut authorization = authorizations.next().await.unwrap().unwrap();
    let challenge = authorization.challenge(ChallengeType::Http01);
    challenge.unwrap().set_ready().await.unwrap();
    let failed = async {
        loop {
            let mut order = account.order(url.clone()).await.unwrap();
            let mut authorizations = order.authorizations();
            let authorization = authorizations.next().await.unwrap().unwrap();
            let challenge = &authorization.challenges[0];
            assert_ne!(challenge.status, ChallengeStatus::Valid);
            if let Some(problem) = &challenge.error {
                return problem.r#type.clone().unwrap();
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let kind = timeout(PATIENCE, failed)
        .await
        .expect("the challenge shows no error");
    assert_eq!(kind, "urn:ietf:params:acme:error:dns");
    daemon.stop().await;
}

#[tokio::test]
async fn f27_sigterm_answers_the_request_under_way_removes_the_pidfile_and_exits_0() {
    let world = World::new().await;
    let pidfile = world.installation.path("pid");
    let mut daemon = world.installation.start_with(|command| {
        command.arg("--pidfile").arg(&pidfile);
    });
    daemon.is_well().await;
    assert_eq!(
        std::fs::read_to_string(&pidfile).unwrap(),
        format!("{}\n", daemon.pid())
    );
    assert_eq!(
        std::fs::metadata(&pidfile).unwrap().permissions().mode() & 0o777,
        0o644
    );

    let mut connection = world.installation.connect().await;
    let head = format!(
        "POST /acme/acme/new-account HTTP/1.1\r\nhost: {NAME}:{}\r\ncontent-type: application/jose+json\r\n\
         content-length: 2\r\nexpect: 100-continue\r\n\r\n",
        world.installation.address.port()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    connection.read_exact(&mut go_on).await.unwrap();
    assert_eq!(text(&go_on), "HTTP/1.1 100 Continue\r\n\r\n");
    // The daemon waits for the body now.
    daemon.terminate();
    let closed = async {
        while TcpStream::connect(world.installation.address).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, closed)
        .await
        .expect("new connections are still taken");
    assert!(daemon.runs());
    connection.write_all(b"{}").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.contains("urn:ietf:params:acme:error:malformed"),
        "{answer}"
    );
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(!pidfile.exists());
}

#[tokio::test]
async fn check_says_all_is_well_asks_nobody_and_writes_nothing() {
    let world = World::new().await;
    let files = || std::fs::read_dir(world.installation.path(".")).unwrap().count();
    let before = files();
    let output = world.installation.run(|command| {
        command.arg("check").arg(world.installation.config());
    });
    let output = output.await;
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", text(&output.stderr));
    assert!(report.contains(&world.installation.directory_url()), "{report}");
    assert!(
        !report.contains(&world.ca.eab.hmac_key) && !report.contains(&world.ca.eab.kid),
        "{report}"
    );
    assert_eq!(files(), before);
    assert_eq!(world.storm.connections(), 0, "the CA was contacted");

    world
        .installation
        .edit(|config| config["authority"]["config"]["ca_url"] = json!("http://ca.example.com/"));
    let output = world.installation.run(|command| {
        command.arg("check").arg(world.installation.config());
    });
    assert_eq!(output.await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_the_eab_is_in_no_log_no_page_and_no_command_line() {
    const KID: &str = "canary-of-the-key-identifier-4711";
    const HMAC: &[u8] = b"canary-of-the-mac-key-which-is-long-enough-0815!";
    let world = World::with(Duration::ZERO, |options| {
        options.eab.kid = KID.to_owned();
        options.eab.hmac_key = URL_SAFE_NO_PAD.encode(HMAC);
    });
    let world = Arc::new(world.await);
    world
        .installation
        .edit(|config| config["logger"] = json!({ "format": "text" }));
    let mut daemon = world.installation.start_with(|command| {
        command.env("ACME_PROXY_LOG", "trace");
    });
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    let mut seen = std::fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    seen += &std::fs::read_to_string(format!("/proc/{}/environ", daemon.pid())).unwrap();
    seen += &daemon.page("/metrics").await.unwrap();
    seen += &daemon.page("/health").await.unwrap();
    daemon.stop().await;
    let log = world.installation.log();
    assert!(
        log.contains("level=trace") && log.contains("certificate issued"),
        "the log is not at trace level"
    );
    seen += &log;
    for secret in [KID.as_bytes(), HMAC] {
        for form in forms(secret) {
            assert!(!seen.contains(&form), "{form} is visible");
        }
    }
}

/// How a secret may look inside something else: as it is, in hexadecimal, as a list of bytes, and in base64 at each of
/// the three places that it may begin at there.
pub(crate) fn forms(secret: &[u8]) -> Vec<String> {
    let mut forms = vec![
        String::from_utf8_lossy(secret).into_owned(),
        secret.iter().map(|byte| format!("{byte:02x}")).collect(),
        format!("{secret:?}").trim_matches(['[', ']']).to_owned(),
    ];
    for offset in 0..3 {
        let shifted = [&vec![0; offset], secret].concat();
        let encoded = URL_SAFE_NO_PAD.encode(shifted);
        // The first and the last character may be shared with the neighbours.
        forms.push(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}
