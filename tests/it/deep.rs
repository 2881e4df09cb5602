//! `acme-proxy check --deep`: what an installation stands on is looked at without spending an EAB or changing anything, and
//! each fault has its own line with the fix (UPSTREAM rule 1, COMPAT 0.12, SECURITY T5, F10, F19, F30, F36).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use acme_proxy::app::deep::Check;
use acme_proxy::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::harness::ca;
use crate::harness::ca::answer::Answer;
use crate::harness::ca::problem::Problem;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::documented;
use crate::harness::process::{Installation, NAME, PATIENCE, free_address, text};
use crate::harness::storm::Moment;
use crate::harness::world::World;
use crate::upstream::knot::{Knot, SECRET};

/// What the check says, and its exit code.
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    /// The findings of one kind that are no better than this.
    fn lines(&self, check: &str, level: &str) -> Vec<String> {
        let of_kind = |finding: &&Value| finding["check"] == check && finding["level"] == level;
        let found = self.findings.iter().filter(of_kind);
        found.map(ToString::to_string).collect()
    }

    /// The one finding of this kind and level, which says all of this.
    fn says(&self, check: &str, level: &str, words: &[&str]) {
        let lines = self.lines(check, level);
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        assert_eq!(
            lines.iter().filter(fits).count(),
            1,
            "{check} {level} {words:?} in {:#?}",
            self.findings
        );
    }

    fn has_no_failure(&self) {
        let failed = self
            .findings
            .iter()
            .filter(|finding| finding["level"] == "failure");
        let failed: Vec<&Value> = failed.collect();
        assert!(failed.is_empty() && self.code == Some(0), "{failed:#?}");
    }
}

async fn output(
    installation: &Installation,
    arguments: &[&str],
    change: impl FnOnce(&mut Command),
) -> Output {
    let mut command = installation.operator("check", arguments);
    for variable in [
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "no_proxy",
        "NO_PROXY",
    ] {
        command.env_remove(variable);
    }
    change(&mut command);
    command.output().await.unwrap()
}

async fn deep_with(installation: &Installation, change: impl FnOnce(&mut Command)) -> Said {
    let output = output(installation, &["--deep", "--json"], change).await;
    let printed = text(&output.stdout);
    let config: Value = serde_json::from_slice(&std::fs::read(installation.config()).unwrap()).unwrap();
    let secret = &config["authority"]["config"]["eab_hmac_key"];
    if let Some(secret) = secret.as_str().filter(|secret| secret.len() > 20) {
        assert!(!printed.contains(secret) && !text(&output.stderr).contains(secret));
    }
    let findings = printed.lines().map(|line| serde_json::from_str(line).unwrap());
    Said {
        code: output.status.code(),
        findings: findings.collect(),
    }
}

async fn deep(installation: &Installation) -> Said {
    deep_with(installation, |_| {}).await
}

/// What a change of the configuration's `authority.config` leads to.
async fn after(change: impl FnOnce(&mut Value)) -> Said {
    let world = World::new().await;
    world
        .installation
        .edit(|config| change(&mut config["authority"]["config"]));
    deep(&world.installation).await
}

fn asked_for_an_account(world: &World) -> usize {
    world
        .ca
        .stats()
        .asked
        .get(&Step::NewAccount)
        .copied()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_1_a_fresh_installation_is_looked_at_without_spending_the_eab_or_making_anything() {
    let world = World::new().await;
    let said = deep(&world.installation).await;
    said.has_no_failure();
    said.says("name", "ok", &[NAME, "127.0.0.1", "this host"]);
    said.says("ca", "ok", &["answers"]);
    said.says("clock", "ok", &[]);
    said.says("eab", "ok", &["its form is right"]);
    said.says("account", "ok", &["none yet"]);
    said.says("own-certificate", "ok", &["none yet"]);
    said.says("daemon", "ok", &["none runs"]);
    said.says("resolver", "ok", &["UDP and TCP"]);
    assert_eq!(said.lines("port", "ok").len(), 2);
    assert_eq!(asked_for_an_account(&world), 0, "no newAccount at all");
    assert_eq!(world.ca.stats().eab_uses, 0);
    assert!(!world.installation.store().exists(), "no store is made");
    let shown = text(&output(&world.installation, &["--deep"], |_| {}).await.stdout);
    assert!(
        shown.contains("\n         fix: ") || !shown.contains("warning  "),
        "{shown}"
    );
    assert!(
        shown.contains(" 0 failures. No External Account Binding was used."),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_running_daemon_and_after_it_the_account_and_the_own_certificate_are_known() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let accounts = asked_for_an_account(&world);
    let said = deep(&world.installation).await;
    said.has_no_failure();
    said.says("account", "ok", &["the CA knows it", "/account/0"]);
    said.says("eab", "ok", &["not needed any more"]);
    said.says("own-certificate", "ok", &["days left", NAME]);
    said.says("daemon", "ok", &["misses nothing"]);
    assert_eq!(
        said.lines("port", "ok").len(),
        2,
        "those of our own daemon are no conflict"
    );
    daemon.stop().await;
    let said = deep(&world.installation).await;
    said.has_no_failure();
    said.says("account", "ok", &["the CA knows it", "/account/0"]);
    said.says("own-certificate", "ok", &["days left", NAME]);
    said.says("daemon", "ok", &["none runs"]);
    assert_eq!(asked_for_an_account(&world), accounts);
    assert_eq!(world.ca.stats().eab_uses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_an_account_that_the_ca_has_deactivated_is_a_failure_with_and_without_a_daemon() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let gone = Problem::new(401, "unauthorized", "the account is deactivated");
    world.ca.will(Step::Account, Times::Always, Twist::Refuse(gone));
    let said = deep(&world.installation).await;
    said.says(
        "account",
        "failure",
        &["does not know the account", "register --again"],
    );
    assert_eq!(said.code, Some(2));
    daemon.stop().await;
    let said = deep(&world.installation).await;
    said.says("account", "failure", &["does not know the account", "reactivate"]);
    assert_eq!(world.ca.stats().eab_uses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f9_the_fix_for_an_account_of_several_names_its_upstream_and_no_other_account_is_touched_without() {
    let world = World::new().await;
    let second = ca::start(ca::Options::default()).await.unwrap();
    let root = world.installation.path("second.pem");
    std::fs::write(&root, &second.root_pem).unwrap();
    world.installation.edit(|config| {
        config["authority"]["config"]["upstreams"] = json!([{
            "name": "second",
            "ca_url": second.directory_url,
            "ca_root": root,
            "eab_kid": second.eab.kid,
            "eab_hmac_key": second.eab.hmac_key,
        }]);
    });
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    second.deactivates_accounts();
    let said = deep(&world.installation).await;
    let command = format!(
        "acme-proxy upstream register --again --upstream second {}",
        world.installation.config().display()
    );
    said.says("account", "failure", &["does not know the account", &command]);
    said.says("account", "ok", &["the CA knows it", "default"]);
    for arguments in [&["register", "--again"][..], &["rotate-key"], &["export", "-"]] {
        let refused = world.installation.complains("upstream", arguments).await;
        assert!(
            refused.contains("say which one with --upstream: default, second"),
            "{refused}"
        );
    }
    daemon.stop().await;
    assert_eq!(world.ca.stats().eab_uses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_an_account_of_two_keys_is_not_lost_while_the_ca_has_not_spoken_of_one_of_them() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.stop().await;
    world.storm.stop(Moment::Received, "key-change");
    let mut rotation = world.installation.operator("upstream", &["rotate-key"]);
    let mut rotation = rotation.stderr(Stdio::null()).spawn().unwrap();
    world.storm.has_caught_one().await;
    rotation.kill().await.unwrap();
    world.storm.let_go();
    let away = Problem::new(503, "serverInternal", "later");
    let gone = Problem::new(401, "unauthorized", "not this key");
    for problem in [away, gone] {
        world
            .ca
            .will(Step::Account, Times::Next(1), Twist::Refuse(problem));
    }
    let said = deep(&world.installation).await;
    said.says(
        "account",
        "warning",
        &["does not tell whether it is good", "later"],
    );
    assert!(said.lines("account", "failure").is_empty());
}

#[tokio::test]
async fn t5_a_file_with_secrets_that_others_may_read_or_change_is_a_failure() {
    let world = World::new().await;
    let installation = &world.installation;
    let set = |name: &str, mode: u32| {
        std::fs::set_permissions(installation.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let fix = format!("chmod 640 {}", installation.config().display());
    set("ca.json", 0o644);
    let said = deep(installation).await;
    said.says("secret-file", "failure", &["may read it", "mode 644", &fix]);
    assert_eq!(said.code, Some(2));
    set("ca.json", 0o640);
    deep(installation).await.says("secret-file", "ok", &["mode 640"]);
    // Nothing secret in it, and yet nobody else may change what the daemon does.
    std::fs::write(installation.path("kid"), "kid").unwrap();
    std::fs::write(installation.path("key"), &world.ca.eab.hmac_key).unwrap();
    installation.edit(|config| {
        let config = &mut config["authority"]["config"];
        config["eab_kid"] = json!(format!("file:{}", installation.path("kid").display()));
        config["eab_hmac_key"] = json!(format!("file:{}", installation.path("key").display()));
    });
    set("ca.json", 0o644);
    set("kid", 0o640);
    set("key", 0o604);
    let said = deep(installation).await;
    said.says("secret-file", "ok", &["ca.json", "mode 644"]);
    said.says("secret-file", "failure", &["/key", "may read it"]);
    set("ca.json", 0o646);
    deep(installation)
        .await
        .says("secret-file", "failure", &["ca.json", "may change it"]);
}

#[tokio::test]
async fn f36_a_port_of_another_process_is_a_failure_and_one_that_is_not_of_this_host_too() {
    let world = World::new().await;
    let _other = TcpListener::bind(world.installation.address).unwrap();
    let said = deep(&world.installation).await;
    said.says(
        "port",
        "failure",
        &["address", "in use by another process", "ss -ltnp"],
    );
    said.says("port", "ok", &["metrics"]);
    world
        .installation
        .edit(|config| config["metricsAddress"] = json!("192.0.2.1:9123"));
    deep(&world.installation)
        .await
        .says("port", "failure", &["192.0.2.1:9123", "no address of this host"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_a_resolver_that_is_silent_is_a_failure_and_holds_up_nothing_else() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let said = after(|config| config["validation"]["resolvers"] = json!([address])).await;
    said.says("resolver", "failure", &[&address, "port 53"]);
    said.says("name", "failure", &[NAME, "clients do not find"]);
    said.says("ca", "ok", &["answers"]);
    said.says("eab", "ok", &["its form is right"]);
    assert_eq!(said.code, Some(2));
}

#[tokio::test]
async fn a_ca_whose_root_nobody_knows_names_ca_root() {
    let said = after(|config| {
        config.as_object_mut().unwrap().remove("ca_root");
    })
    .await;
    said.says("ca", "failure", &["does not trust", "authority.config.ca_root"]);
    said.says("account", "ok", &["none yet"]);
}

#[tokio::test]
async fn a_url_that_is_no_directory_is_told_from_a_ca_that_is_away() {
    let world = World::new().await;
    let html = || Answer::new(200, "text/html", "<html>It works!</html>");
    for (twist, said) in [
        (Twist::Instead(html()), "is not the URL of an ACME directory"),
        (
            Twist::Instead(Answer::page(404)),
            "is not the URL of an ACME directory",
        ),
    ] {
        world.ca.will(Step::Directory, Times::Always, twist);
        deep(&world.installation)
            .await
            .says("ca", "failure", &[said, "authority.config.ca_url"]);
    }
    let nobody = free_address();
    let said = after(|config| config["ca_url"] = json!(format!("https://{nobody}/directory"))).await;
    said.says("ca", "failure", &["no answer from the CA", "curl -v"]);
}

#[tokio::test]
async fn f30_a_clock_that_differs_from_the_cas_is_a_warning_and_then_a_failure() {
    for (seconds, level) in [
        (30, "ok"),
        (120, "warning"),
        (-120, "warning"),
        (3600, "failure"),
        (-3600, "failure"),
    ] {
        let world = World::new().await;
        let theirs = Clock::system().now() + jiff::SignedDuration::from_secs(seconds);
        let date = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        world
            .ca
            .will(Step::Directory, Times::Always, Twist::header("date", date));
        let said = deep(&world.installation).await;
        said.says("clock", level, &[if seconds > 0 { "behind" } else { "ahead" }]);
    }
}

#[tokio::test]
async fn f10_the_form_of_the_eab_is_looked_at_and_whether_the_ca_wants_one() {
    let none = after(|config| {
        let config = config.as_object_mut().unwrap();
        config.remove("eab_kid");
        config.remove("eab_hmac_key");
    })
    .await;
    none.says("eab", "failure", &["the CA wants an External Account Binding"]);
    let cut = after(|config| config["eab_hmac_key"] = json!("c2hvcnQ")).await;
    cut.says("eab", "warning", &["5 bytes long"]);
    let spaced = after(|config| config["eab_kid"] = json!("a kid")).await;
    spaced.says("eab", "failure", &["a space or a line break"]);
}

#[tokio::test]
async fn a_profile_that_the_ca_does_not_offer_is_a_warning() {
    let said = after(|config| config["profile"] = json!("tlsserver")).await;
    said.says("profile", "warning", &["offers no profiles"]);
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named_without_its_password() {
    let world = World::new().await;
    let proxy = format!("http://user:hunter2@{}", free_address());
    let said = deep_with(&world.installation, |command| {
        command.env("HTTPS_PROXY", &proxy);
    })
    .await;
    said.says("proxy", "failure", &["HTTPS_PROXY", "takes no connection"]);
    assert_eq!(said.lines("ca", "failure").len(), 1);
    assert!(!format!("{:?}", said.findings).contains("hunter2"));
    let said = deep_with(&world.installation, |command| {
        command
            .env("HTTPS_PROXY", &proxy)
            .env("NO_PROXY", "127.0.0.1,localhost");
    })
    .await;
    said.says("proxy", "ok", &["without the proxy"]);
    said.says("ca", "ok", &[]);
}

#[tokio::test]
async fn own_certificate_files_must_be_a_pair_in_time_with_every_name() {
    let world = World::new().await;
    let make = |names: &[&str], days: i64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let now = Clock::system().now().as_second();
        let at = |day: i64| {
            let date = jiff::Timestamp::from_second(now + day * 86_400).unwrap();
            let date = jiff::tz::TimeZone::UTC.to_datetime(date).date();
            rcgen::date_time_ymd(
                date.year().into(),
                date.month().cast_unsigned(),
                date.day().cast_unsigned(),
            )
        };
        (params.not_before, params.not_after) = (at(-30), at(days));
        std::fs::write(
            world.installation.path("own.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        std::fs::write(world.installation.path("own.key"), key.serialize_pem()).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(world.installation.path("own.key"), mode).unwrap();
    };
    make(&[NAME], 60);
    world.installation.edit(|config| {
        let file = |name: &str| json!(world.installation.path(name));
        config["tls"] = json!({"certificate": file("own.pem"), "key": file("own.key")});
    });
    let good = deep(&world.installation).await;
    good.has_no_failure();
    good.says("own-certificate", "ok", &["days left"]);
    good.says("tls-files", "ok", &["own.key"]);
    make(&[NAME], 5);
    deep(&world.installation)
        .await
        .says("own-certificate", "warning", &["days left"]);
    make(&[NAME], -1);
    deep(&world.installation)
        .await
        .says("own-certificate", "failure", &["has expired"]);
    make(&["other.example.com"], 60);
    deep(&world.installation)
        .await
        .says("own-certificate", "failure", &["does not have", NAME]);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(world.installation.path("own.key"), other).unwrap();
    deep(&world.installation)
        .await
        .says("tls-files", "failure", &["can not be used"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_a_dns_provider_is_tried_with_a_record_that_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let zone = (
        "example.com",
        "@ NS ns\nns A 127.0.0.1\n_acme-challenge.acmeproxy.test TXT \"theirs\"\n",
    );
    let knot = Knot::start(directory.path(), free_address(), &[zone]).unwrap();
    let world = World::new().await;
    let configured = |secret: &str| {
        json!({
            "provider": "rfc2136",
            "dns_servers": [knot.address.to_string()],
            "env_vars": {
                "RFC2136_NAMESERVER": knot.address.to_string(),
                "RFC2136_TSIG_KEY": "hmac-sha256", "RFC2136_TSIG_ALGORITHM": "hmac-sha256",
                "RFC2136_TSIG_SECRET": secret, "RFC2136_TTL": "1",
            },
        })
    };
    let use_secret = |secret: &str| {
        world
            .installation
            .edit(|config| config["authority"]["config"]["dns01_txt"] = configured(secret));
    };
    use_secret(SECRET);
    let name = format!("_acme-challenge.{NAME}");
    let said = deep(&world.installation).await;
    said.has_no_failure();
    said.says(
        "dns-provider",
        "ok",
        &["default rfc2136", &name, "was written, and seen"],
    );
    assert_eq!(knot.texts(&name).unwrap(), ["theirs"], "ours is taken back");
    assert!(!format!("{:?}", said.findings).contains(SECRET));
    let wrong = "d3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmc=";
    use_secret(wrong);
    let said = deep(&world.installation).await;
    said.says("dns-provider", "failure", &["rfc2136", "env_vars"]);
    assert!(!format!("{:?}", said.findings).contains(wrong));
    assert_eq!(knot.texts(&name).unwrap(), ["theirs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_whoever_ends_the_check_leaves_no_record_behind() {
    let directory = tempfile::tempdir().unwrap();
    let zone = ("example.com", "@ NS ns\nns A 127.0.0.1\n");
    let knot = Knot::start(directory.path(), free_address(), &[zone]).unwrap();
    let world = World::new().await;
    // Its records never come to be seen.
    let program = world.installation.path("provider");
    let done = world.installation.path("done");
    std::fs::write(&program, format!("#!/bin/sh\necho $1 $2 >>{}\n", done.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    world.installation.edit(|config| {
        config["authority"]["config"]["dns01_txt"] = json!({
            "provider": "exec",
            "dns_servers": [knot.address.to_string()],
            "env_vars": { "EXEC_PATH": program },
        });
    });
    for ending in [Signal::INT, Signal::TERM, Signal::HUP] {
        std::fs::write(&done, "").unwrap();
        let mut command = world.installation.operator("check", &["--deep", "--json"]);
        let check = command.stdout(Stdio::piped()).spawn().unwrap();
        let actions = || std::fs::read_to_string(&done).unwrap();
        let written = async {
            while actions().is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, written).await.unwrap();
        let pid = i32::try_from(check.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), ending).unwrap();
        let output = timeout(PATIENCE, check.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        let record = format!("_acme-challenge.{NAME}.");
        assert_eq!(
            actions(),
            format!("present {record}\ncleanup {record}\n"),
            "{ending:?}"
        );
        assert!(text(&output.stdout).contains("interrupted"), "{ending:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_can_not_be_used_is_a_failure_in_json_too() {
    let world = World::new().await;
    world
        .installation
        .edit(|config| config["address"] = json!("nowhere"));
    let said = deep(&world.installation).await;
    assert_eq!(said.code, Some(2));
    said.says("configuration", "failure", &["address", "nowhere"]);
}

#[test]
fn every_check_is_documented_and_nothing_else_is() {
    let of_checks: BTreeSet<String> = Check::ALL
        .iter()
        .map(|check| format!("`{}`", check.name()))
        .collect();
    let rows = documented::rows("docs/OPERATIONS.md", |id| of_checks.contains(id));
    let documented: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, of_checks);
}
