//! No secret leaves the process but on its way to where it belongs (SECURITY I9, property 11): secrets are planted, and
//! looked for in all that the daemon says, in each format, at the finest level.

use std::sync::Arc;

use acme_proxy::store::Store as _;
use acme_proxy::upstream::account::VAULT;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::process::text;
use crate::harness::server::store_of;
use crate::harness::world::World;
use crate::recovery::client::Client;
use crate::recovery::ledger::Ledger;
use crate::start::forms;

const KID: &str = "canary-of-the-key-identifier-0042";
const HMAC: &[u8] = b"canary-of-the-mac-key-of-our-eab-which-is-long-enough-1";
const PROVIDER: &str = "canary-of-the-dns-provider-as-base64-4711";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_no_secret_is_in_any_log_any_answer_any_page_or_proc() {
    let world = World::with(std::time::Duration::ZERO, |options| {
        options.eab.kid = KID.to_owned();
        options.eab.hmac_key = URL_SAFE_NO_PAD.encode(HMAC);
    });
    let world = Arc::new(world.await);
    let audit = world.installation.path("audit.log");
    let provider = STANDARD.encode(PROVIDER);
    world.installation.edit(|config| {
        let settings = &mut config["authority"]["config"];
        settings["audit"] = json!({ "file": audit });
        settings["dns01_txt"] = json!({
            "provider": "rfc2136",
            "env_vars": {
                "RFC2136_NAMESERVER": "127.0.0.1:9",
                "RFC2136_TSIG_KEY": "key.",
                "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
                "RFC2136_TSIG_SECRET": provider,
            },
        });
        config["logger"] = json!({ "format": "json" });
    });
    let mut daemon = world.installation.start_with(|command| {
        command.env("ACME_PROXY_LOG", "trace");
    });
    daemon.is_well().await;
    let ledger = Arc::new(Ledger::default());
    let mut seen = String::new();
    for (times, format) in [(1, "text"), (2, "common"), (3, "json")] {
        let name = format!("{format}.test.example.com");
        Client::new(&world, &ledger).obtain(&[&name]).await;
        world
            .installation
            .edit(|config| config["logger"] = json!({ "format": format }));
        daemon.hang_up();
        world.installation.says("configuration reloaded", times).await;
    }
    // A refused reload says what is wrong, and not with what.
    world.installation.edit(|config| {
        config["authority"]["config"]["certlifetime"] = json!("x");
        config["authority"]["config"]["dns01_txt"]["env_vars"]["RFC2136_TSIG_SECRET"] =
            json!(format!("{PROVIDER}!"));
    });
    daemon.hang_up();
    world.installation.says("was not reloaded", 1).await;
    let output = world.installation.run(|command| {
        command.arg("check").arg(world.installation.config());
    });
    let output = output.await;
    assert_eq!(output.status.code(), Some(2));
    seen += &(text(&output.stdout) + &text(&output.stderr));
    world.installation.edit(|config| {
        config["authority"]["config"]
            .as_object_mut()
            .unwrap()
            .remove("certlifetime");
        config["authority"]["config"]["dns01_txt"]["env_vars"]["RFC2136_TSIG_SECRET"] = json!(provider);
    });
    let added = world
        .installation
        .prints("eab", &["add", "--kid", "client-1"])
        .await;
    let client_key = added.split("--eab-hmac-key ").nth(1).unwrap().trim().to_owned();
    seen += &world.installation.prints("eab", &["list"]).await;
    seen += &world.installation.prints("upstream", &["show"]).await;
    seen += &world.installation.prints("check", &[]).await;
    for page in ["/metrics", "/health"] {
        seen += &daemon.page(page).await.unwrap();
    }
    for file in ["cmdline", "environ"] {
        seen += &std::fs::read_to_string(format!("/proc/{}/{file}", daemon.pid())).unwrap();
    }
    ledger.audit(&world).await.assert_clean();
    daemon.stop().await;
    seen += &world.installation.log();
    seen += &std::fs::read_to_string(&audit).unwrap();
    assert!(seen.contains("level=trace") && seen.contains("\"level\":\"trace\""));
    let mut secrets = vec![
        KID.as_bytes().to_vec(),
        HMAC.to_vec(),
        PROVIDER.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(client_key).unwrap(),
    ];
    let store = store_of(&world.installation.config()).await;
    for name in [
        store.names(VAULT).await.unwrap(),
        vec!["own_certificate".to_owned()],
    ]
    .concat()
    {
        let record = store.load(&name).await.unwrap().unwrap();
        let record: Value = serde_json::from_slice(&record.value).unwrap();
        for key in [&record["key"], &record["current"]["key"]] {
            secrets.extend(key.as_str().and_then(any_base64));
        }
    }
    assert_eq!(
        secrets.len(),
        6,
        "the account's key and the own certificate's are among them"
    );
    for secret in secrets {
        // The end of a PKCS #8 key is its public half, and that may be seen; the private one is after the beginning.
        let private = match secret.len() > 100 {
            true => secret[36..68].to_vec(),
            false => secret,
        };
        for form in forms(&private) {
            assert!(!seen.contains(&form), "{form} is visible");
        }
    }
}

fn any_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD
        .decode(text)
        .or_else(|_| URL_SAFE_NO_PAD.decode(text))
        .ok()
}
