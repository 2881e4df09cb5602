//! An account that leaves for another machine, and accounts of other clients that come here.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::encoding::EcPrivateKeyBin;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::harness::key::{Key, b64};
use crate::harness::world::World;
use crate::upstream_cli::{complains, generous, issues, line, prints, started};

/// What is written at the path, and its mode.
fn file(path: &std::path::Path) -> (Value, u32) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    (
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
        mode,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_moves_to_another_machine_and_is_the_same_there() {
    let world = Arc::new(World::new().await);
    let daemon = started(&world).await;
    let path = world.installation.path("account.json");
    let name = path.to_str().unwrap();
    assert_eq!(prints(&world, &["export", name]).await, "");
    let (exported, mode) = file(&path);
    assert_eq!(mode, 0o600);
    let shown = prints(&world, &["show"]).await;
    assert_eq!(exported["account"], line(&shown, "account: "));
    assert_eq!(exported["directory"], line(&shown, "directory: "));
    let printed: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    assert_eq!(printed, exported);
    let there = complains(&world, &["export", name]).await;
    assert!(there.contains("exists; nothing is overwritten"), "{there}");
    let already = complains(&world, &["import", name]).await;
    assert!(already.contains("is this upstream's already"), "{already}");
    daemon.stop().await;

    // The other machine: the store is empty, and the EAB is spent.
    std::fs::rename(world.installation.store(), world.installation.path("old")).unwrap();
    let mut daemon = world.installation.start();
    daemon.serves().await;
    let blocked = complains(&world, &["import", name]).await;
    assert!(
        blocked.contains("there is a key already") && blocked.contains("--replace"),
        "{blocked}"
    );
    let imported = prints(&world, &["import", "--replace", name]).await;
    assert!(
        imported.contains(exported["account"].as_str().unwrap()),
        "{imported}"
    );
    daemon.is_well().await;
    issues(&world, "www.test.example.com").await;
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
    let log = world.installation.log();
    let key = exported["key"].as_str().unwrap().lines().nth(1).unwrap();
    assert!(!log.contains(key), "the private key is in the log");
    for audit in ["account exported with its private key", "account imported"] {
        assert!(log.contains(audit), "{audit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_lego_and_acme_sh_are_imported_once_the_ca_has_confirmed_them() {
    let world = World::new().await;
    prints(&world, &["register"]).await;
    let account: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    let (url, key) = (
        account["account"].as_str().unwrap(),
        account["key"].as_str().unwrap(),
    );
    let at = |name: &str| world.installation.path(name);
    std::fs::create_dir_all(at("lego/keys")).unwrap();
    let json = json!({ "email": "me@example.com", "registration": { "body": {}, "uri": url } });
    std::fs::write(at("lego/account.json"), json.to_string()).unwrap();
    std::fs::write(at("lego/keys/me@example.com.key"), key).unwrap();
    std::fs::create_dir_all(at("acme.sh")).unwrap();
    std::fs::write(at("acme.sh/account.key"), key).unwrap();
    std::fs::write(at("acme.sh/ca.conf"), format!("ACCOUNT_URL='{url}'\n")).unwrap();
    for client in ["lego", "acme.sh"] {
        let _moved = std::fs::remove_dir_all(world.installation.store());
        let imported = prints(&world, &["import", at(client).to_str().unwrap()]).await;
        assert!(imported.contains(url), "{imported}");
    }
    started(&world).await.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

/// The private key as certbot keeps it (RFC 7518 §6.2.2).
fn private_jwk(pem: &str) -> Value {
    let key = Key::of("ES256", rcgen::KeyPair::from_pem(pem).unwrap());
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pair.serialize_der());
    let number: EcPrivateKeyBin<'_> = pair.unwrap().private_key().as_be_bytes().unwrap();
    let mut jwk = key.jwk;
    jwk["d"] = b64(number.as_ref()).into();
    jwk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_runs_goes_on_with_certbots_account_if_its_key_is_of_a_kind_that_can_sign() {
    let world = Arc::new(generous().await);
    prints(&world, &["register"]).await;
    let certbots: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    prints(&world, &["register", "--again"]).await;
    let daemon = started(&world).await;
    issues(&world, "before.test.example.com").await;
    let before = prints(&world, &["show"]).await;

    let directory = world.installation.path("certbot");
    std::fs::create_dir(&directory).unwrap();
    let write = |name: &str, content: &Value| std::fs::write(directory.join(name), content.to_string());
    let registration = json!({ "body": {}, "uri": certbots["account"] });
    write("regr.json", &registration).unwrap();
    let import = ["import", "--replace", directory.to_str().unwrap()];
    // What certbot itself makes.
    let mut rsa = Key::generate("RS256").jwk;
    rsa["d"] = "AQAB".into();
    write("private_key.json", &rsa).unwrap();
    let refused = complains(&world, &import).await;
    assert!(refused.contains("is not ECDSA on P-256"), "{refused}");
    assert_eq!(prints(&world, &["show"]).await, before);

    let jwk = private_jwk(certbots["key"].as_str().unwrap());
    write("private_key.json", &jwk).unwrap();
    let there = complains(&world, &["import", import[2]]).await;
    assert!(
        there.contains("there is an account already") && there.contains("--replace"),
        "{there}"
    );
    let imported = prints(&world, &import).await;
    let url = certbots["account"].as_str().unwrap();
    assert!(imported.contains(url), "{imported}");
    let after = prints(&world, &["show"]).await;
    assert_eq!(
        (line(&after, "account: "), line(&after, "health: ")),
        (url.to_owned(), "ok".to_owned())
    );
    let (_, earlier) = after.split_once("earlier accounts").unwrap();
    assert!(earlier.contains(&line(&before, "account: ")), "{after}");
    issues(&world, "after.test.example.com").await;
    daemon.stop().await;
    let stats = world.ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (2, 2));
    let bought_by = |name: &str| {
        let orders = stats.orders.iter().filter(|order| order.identifiers == [name]);
        orders.map(|order| order.account).collect::<Vec<_>>()
    };
    assert_eq!(bought_by("before.test.example.com"), [1]);
    assert_eq!(bought_by("after.test.example.com"), [0]);
    let log = world.installation.log();
    assert!(
        !log.contains(jwk["d"].as_str().unwrap()),
        "the private key is in the log"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_account_of_this_ca_is_not_imported_and_nothing_changes() {
    let world = World::new().await;
    prints(&world, &["register"]).await;
    let before = prints(&world, &["show"]).await;
    let good: Value = serde_json::from_str(&prints(&world, &["export", "-"]).await).unwrap();
    let path = world.installation.path("account.json");
    let name = path.to_str().unwrap();
    let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
    let with = |member: &str, value: String| {
        let mut changed = good.clone();
        changed[member] = value.into();
        changed.to_string()
    };
    let other_account = good["account"]
        .as_str()
        .unwrap()
        .replace("/account/0", "/account/9");
    let mut foreign = good.clone();
    foreign["key"] = pem(&rcgen::PKCS_ECDSA_P256_SHA256).into();
    foreign["account"] = "https://evil.example/account/0".into();
    let cases = [
        ("{}".to_owned(), "acme-proxy upstream export"),
        (with("key", "nothing".to_owned()), "no private key"),
        (with("key", pem(&rcgen::PKCS_ECDSA_P384_SHA384)), "P-256"),
        (
            with("directory", "https://other.example/directory".to_owned()),
            "https://other.example/directory",
        ),
        (with("account", other_account), "is this upstream's already"),
        (
            with("key", pem(&rcgen::PKCS_ECDSA_P256_SHA256)),
            "does not take the key",
        ),
        (foreign.to_string(), "is not an https URL of the CA's own host"),
    ];
    for (text, why) in cases {
        std::fs::write(&path, text).unwrap();
        let error = complains(&world, &["import", "--replace", name]).await;
        assert!(error.contains(why), "{error}");
    }
    let missing = complains(&world, &["import", "/nonexistent"]).await;
    assert!(missing.contains("/nonexistent can not be read"), "{missing}");
    let empty = complains(&world, &["import", world.installation.store().to_str().unwrap()]).await;
    assert!(empty.contains("certbot") && empty.contains("lego"), "{empty}");
    for command in ["show", "register", "rotate-key"] {
        let unknown = complains(&world, &[command, "--upstream", "nobody"]).await;
        assert!(
            unknown.contains("no upstream \"nobody\"") && unknown.contains("default"),
            "{unknown}"
        );
    }
    let export = complains(&world, &["export", "--upstream", "nobody", "-"]).await;
    assert!(export.contains("nobody"), "{export}");
    assert_eq!(prints(&world, &["show"]).await, before);
    assert_eq!(world.ca.stats().eab_uses, 1);
}
