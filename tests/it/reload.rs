//! SIGHUP puts another configuration in force, whole or not at all (COMPAT section 2; SECURITY F33), and loses, doubles
//! and forgets nothing on the way.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{Account, Identifier, NewAccount, NewOrder, Order};
use reqwest::tls::TlsInfo;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::ca::{self, Options};
use crate::harness::process::{Daemon, NAME, PATIENCE, free_address};
use crate::harness::storm::Moment;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::{Ledger, builder};

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "the configuration was not reloaded";
const ENDED: &str = "what was under way when the configuration was reloaded has ended";

/// Changes the configuration, and waits until the log has so many lines with these words.
async fn reload(world: &World, daemon: &Daemon, says: &str, change: impl FnOnce(&mut Value)) {
    let before = world.installation.log().matches(says).count();
    world.installation.edit(change);
    daemon.hang_up();
    world.installation.says(says, before + 1).await;
}

async fn account(http: &reqwest::Client, world: &World) -> Account {
    let newcomer = NewAccount {
        contact: &[],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let created = builder(http).create(&newcomer, world.installation.directory_url(), None);
    created.await.unwrap().0
}

async fn order(account: &Account, name: &str) -> Result<Order, String> {
    let identifiers = [Identifier::Dns(name.to_owned())];
    let order = account.new_order(&NewOrder::new(&identifiers)).await;
    order.map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_policy_holds_for_the_next_request_and_clients_keep_what_they_have() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let http = world.installation.client();
    let account = account(&http, &world).await;
    order(&account, "www.test.example.com").await.unwrap();
    reload(&world, &daemon, RELOADED, |config| {
        config["authority"]["policy"] = json!({ "x509": { "deny": { "dns": ["www.test.example.com"] } } });
    })
    .await;
    // With the nonce that it had before.
    let refused = order(&account, "www.test.example.com").await.err().unwrap();
    assert!(refused.contains("rejectedIdentifier"), "{refused}");
    order(&account, "other.test.example.com").await.unwrap();
    reload(&world, &daemon, RELOADED, |config| {
        config["authority"].as_object_mut().unwrap().remove("policy");
        let provisioners = config["authority"]["provisioners"].as_array_mut().unwrap();
        provisioners.push(json!({ "type": "ACME", "name": "second", "challenges": ["http-01"] }));
    })
    .await;
    order(&account, "www.test.example.com").await.unwrap();
    let second = world
        .installation
        .directory_url()
        .replace("/acme/acme/", "/acme/second/");
    assert_eq!(http.get(second).send().await.unwrap().status(), 200);
    daemon.stop().await;
}

#[tokio::test]
async fn a_configuration_with_faults_changes_nothing_and_each_fault_is_said() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let good = std::fs::read(world.installation.config()).unwrap();
    reload(&world, &daemon, REFUSED, |config| {
        config["authority"]["config"]["ca_url"] = json!("http://ca.example.com/");
        config["authority"]["provisioners"][0]["challenges"] = json!(["http-99"]);
        config["authority"]["policy"] = json!({ "x509": { "deny": { "dns": ["*"] } } });
    })
    .await;
    let log = world.installation.log();
    for key in ["authority.config.ca_url", "authority.provisioners[0].challenges"] {
        let says = |line: &&str| line.contains("level=error") && line.contains(key);
        assert!(log.lines().any(|line| says(&line)), "{key}: {log}");
    }
    // One that is read well, and whose CA can not be reached as it says.
    world.installation.write_config(&good);
    let root = world.installation.path("other.pem");
    std::fs::write(
        &root,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    reload(&world, &daemon, REFUSED, |config| {
        config["authority"]["config"]["ca_root"] = json!(root);
        config["authority"]["policy"] = json!({ "x509": { "deny": { "dns": ["*"] } } });
    })
    .await;
    std::fs::remove_file(world.installation.config()).unwrap();
    daemon.hang_up();
    world.installation.says(REFUSED, 3).await;
    assert!(world.installation.log().contains("there is no such file"));
    let ledger = Arc::new(Ledger::default());
    let world = Arc::new(world);
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    daemon.stop().await;
}

#[tokio::test]
async fn what_only_a_restart_can_change_is_named_and_all_else_is_in_force() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let elsewhere = world.installation.path("elsewhere");
    reload(&world, &daemon, RELOADED, |config| {
        config["address"] = json!(free_address().to_string());
        config["metricsAddress"] = json!(free_address().to_string());
        config["db"]["dataSource"] = json!(elsewhere);
        config["authority"]["config"]["audit"] = json!({ "file": elsewhere });
        config["authority"]["config"]["limits"] = json!({ "connections": 77, "names_per_order": 1 });
    })
    .await;
    let log = world.installation.log();
    for key in [
        "address",
        "metricsAddress or authority.config.metrics",
        "db",
        "authority.config.audit.file",
        "authority.config.limits.connections",
    ] {
        let sentence = format!("{key} was changed, which needs a restart: the value before stays in force");
        assert!(log.contains(&sentence), "{key}: {log}");
    }
    assert!(!elsewhere.exists());
    let account = account(&world.installation.client(), &world).await;
    let names = ["a.test.example.com", "b.test.example.com"].map(|name| Identifier::Dns(name.to_owned()));
    assert!(account.new_order(&NewOrder::new(&names)).await.is_err());
    assert!(daemon.health().await.is_some());
    daemon.stop().await;
}

#[tokio::test]
async fn f33_the_certificate_of_files_is_exchanged_and_a_bad_one_is_not_taken() {
    let world = World::new().await;
    let [certificate, key] = ["own.pem", "own.key"].map(|name| world.installation.path(name));
    let write = || {
        let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        std::fs::write(&certificate, own.cert.pem()).unwrap();
        std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        own.cert.der().to_vec()
    };
    let first = write();
    world
        .installation
        .edit(|config| config["tls"] = json!({ "certificate": certificate, "key": key }));
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    assert_eq!(served(&world).await, first);
    let second = write();
    reload(&world, &daemon, RELOADED, |_| {}).await;
    assert_eq!(served(&world).await, second);
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&key, other.serialize_pem()).unwrap();
    reload(&world, &daemon, REFUSED, |_| {}).await;
    assert_eq!(served(&world).await, second);
    daemon.stop().await;
}

/// The leaf of a new connection.
async fn served(world: &World) -> Vec<u8> {
    let answer = world.installation.trusting_client();
    let answer = answer
        .get(world.installation.directory_url())
        .send()
        .await
        .unwrap();
    let info: &TlsInfo = answer.extensions().get().unwrap();
    info.peer_certificate().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_hangs_at_the_ca_holds_up_no_other_and_nothing_is_bought_twice() {
    let world = Arc::new(World::new().await);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    let obtain = |name: &'static str| {
        let (world, ledger) = (Arc::clone(&world), Arc::clone(&ledger));
        tokio::spawn(async move { Client::new(&world, &ledger).obtain(&[name]).await })
    };
    world.storm.stop(Moment::Received, "finalize");
    let first = obtain("www.test.example.com");
    world.storm.has_caught_one().await;
    for email in ["one@example.com", "two@example.com"] {
        reload(&world, &daemon, RELOADED, |config| {
            config["authority"]["config"]["account_email"] = json!(email);
        })
        .await;
    }
    world.storm.stop(Moment::Received, "finalize");
    let second = obtain("meanwhile.test.example.com");
    world.storm.has_caught_one().await;
    assert_eq!(world.orders_for(&["meanwhile.test.example.com"]), 1);
    // The worker between the two had nothing to do.
    world.installation.says(ENDED, 1).await;
    world.storm.let_go();
    for client in [first, second] {
        client.await.unwrap();
    }
    world.installation.says(ENDED, 2).await;
    ledger.audit(&world).await.assert_clean();
    for name in ["www.test.example.com", "meanwhile.test.example.com", NAME] {
        let bought = (world.orders_for(&[name]), world.finalizes_for(&[name]));
        assert_eq!(bought, (1, 1), "{name}");
    }
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_a_registration_that_a_reload_interrupts_ends_in_one_account_for_one_eab() {
    let world = World::new().await;
    world.storm.stop(Moment::Done, "new-account");
    let mut daemon = world.installation.start();
    world.storm.has_caught_one().await;
    reload(&world, &daemon, RELOADED, |config| {
        config["authority"]["config"]["account_email"] = json!("other@example.com");
    })
    .await;
    world.storm.let_go();
    daemon.is_well().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn a_ca_is_made_anew_only_if_its_settings_or_its_file_of_roots_have_changed() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    // One that is made anew needs the CA's directory before anything else.
    world.storm.goes_down();
    reload(&world, &daemon, RELOADED, |_| {}).await;
    world.installation.says("the account at the CA is ready", 2).await;
    daemon.is_well().await;
    world.storm.comes_up();
    let config: Value = serde_json::from_slice(&std::fs::read(world.installation.config()).unwrap()).unwrap();
    let roots = config["authority"]["config"]["ca_root"].as_str().unwrap();
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    std::fs::write(roots, own.cert.pem()).unwrap();
    reload(&world, &daemon, RELOADED, |_| {}).await;
    world.installation.says("there is no account at the CA", 1).await;
    daemon.stop().await;
}

#[tokio::test]
async fn f33_a_file_that_hangs_holds_up_nothing_and_the_daemon_can_be_stopped_meanwhile() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    // Whoever opens it waits for somebody who writes.
    let fifo = world.installation.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    world
        .installation
        .edit(|config| config["authority"]["config"]["ca_root"] = json!(fifo));
    daemon.hang_up();
    world.installation.says("reloading ...", 1).await;
    let ledger = Arc::new(Ledger::default());
    let world = Arc::new(world);
    Client::new(&world, &ledger)
        .obtain(&["www.test.example.com"])
        .await;
    ledger.audit(&world).await.assert_clean();
    daemon.terminate();
    let status = timeout(PATIENCE, daemon.ended()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", world.installation.log());
    assert!(!world.installation.log().contains(RELOADED) && !world.installation.log().contains(REFUSED));
}

#[tokio::test]
async fn a_ca_comes_and_goes_with_its_account_its_state_and_its_metrics() {
    let world = Arc::new(World::new().await);
    let second = ca::start(Options::default()).await.unwrap();
    let root = world.installation.path("second.pem");
    std::fs::write(&root, &second.root_pem).unwrap();
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    reload(&world, &daemon, ENDED, |config| {
        config["authority"]["config"]["upstreams"] = json!([{
            "name": "second",
            "ca_url": second.directory_url,
            "ca_root": root,
            "eab_kid": second.eab.kid,
            "eab_hmac_key": second.eab.hmac_key,
            "domains": ["second.example.com"],
        }]);
    })
    .await;
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    Client::new(&world, &ledger)
        .obtain(&["www.second.example.com"])
        .await;
    assert_eq!(second.stats().orders_opened, 1);
    let page = daemon.page("/metrics").await.unwrap();
    assert!(
        page.contains("acme_proxy_upstream_up{upstream=\"second\"} 1"),
        "{page}"
    );
    reload(&world, &daemon, ENDED, |config| {
        config["authority"]["config"]
            .as_object_mut()
            .unwrap()
            .remove("upstreams");
    })
    .await;
    daemon.is_well().await;
    let page = daemon.page("/metrics").await.unwrap();
    assert!(
        !page.contains("acme_proxy_upstream_up{upstream=\"second\"}"),
        "{page}"
    );
    assert!(
        !page.contains(&format!("ca_url=\"{}\"", second.directory_url)),
        "{page}"
    );
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn f27_signals_in_any_number_and_at_any_time_end_nothing_but_as_they_should() {
    let world = World::new().await;
    let mut daemon = world.installation.start();
    // As early as it can be told.
    daemon.serves().await;
    for _ in 0..50 {
        daemon.hang_up();
        sleep(Duration::from_millis(5)).await;
    }
    daemon.is_well().await;
    daemon.terminate();
    while daemon.runs() {
        daemon.hang_up();
        sleep(Duration::from_millis(5)).await;
    }
    let status = timeout(PATIENCE, daemon.ended()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", world.installation.log());
    assert_eq!(world.ca.stats().eab_uses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_lose_nothing_and_leave_nothing_behind() {
    let world = Arc::new(World::new().await);
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    let obtain = |round: usize| {
        let mut clients = JoinSet::new();
        for number in 0..4 {
            let (world, ledger) = (Arc::clone(&world), Arc::clone(&ledger));
            clients.spawn(async move {
                let name = format!("r{round}n{number}.test.example.com");
                Client::new(&world, &ledger).obtain(&[&name]).await;
            });
        }
        clients
    };
    obtain(0).join_all().await;
    let before = daemon.open_files();
    let mut load = JoinSet::new();
    for reload_number in 1..=100 {
        if reload_number % 10 == 1 {
            load.spawn(obtain(reload_number).join_all());
        }
        reload(&world, &daemon, RELOADED, |config| {
            config["authority"]["config"]["account_email"] = json!(format!("{reload_number}@example.com"));
        })
        .await;
    }
    load.join_all().await;
    world.installation.says(ENDED, 100).await;
    ledger.audit(&world).await.assert_clean();
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    // Connections to the CA and of clients end a little later.
    let is_back = async {
        while daemon.open_files() > before + 8 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let waited = timeout(PATIENCE, is_back).await;
    assert!(
        waited.is_ok(),
        "{} files are open, {before} were",
        daemon.open_files()
    );
    daemon.stop().await;
}
