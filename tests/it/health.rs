//! `/livez` and `/readyz` on the metrics listener: 200 only if they mean it, and each check with its reason (SECURITY F14,
//! F19, F32). `/health` stays as it is.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::ca::answer::Answer;
use crate::harness::ca::script::{Step, Times, Twist};
use crate::harness::process::{Daemon, NAME, PATIENCE, free_address};
use crate::harness::world::World;

/// The status and the checks of a page.
async fn checks(metrics: SocketAddr, path: &str) -> Option<(u16, Value)> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{metrics}{path}")).send().await.ok()?;
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_slice(&answer.bytes().await.ok()?).unwrap();
    let word = if status == 200 { "ok" } else { "failed" };
    assert_eq!(body["status"], word, "{body}");
    Some((status, body["checks"].clone()))
}

/// Waits until the page says so.
async fn until(world: &World, path: &str, enough: impl Fn(u16, &Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        last = checks(world.installation.metrics, path).await;
        if let Some((status, checks)) = &last
            && enough(*status, checks)
        {
            return checks.clone();
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} says {last:?}\n{}", world.installation.log());
}

fn says(checks: &Value, part: &str, words: &str) -> bool {
    checks[part].as_str().is_some_and(|said| said.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f14_it_lives_and_is_not_ready_before_there_is_an_account_and_a_certificate() {
    let world = World::new().await;
    world
        .ca
        .will(Step::Directory, Times::Always, Twist::Instead(Answer::page(503)));
    let mut daemon: Daemon = world.installation.start();
    daemon.serves().await;
    until(&world, "/readyz", |status, checks| {
        status == 503
            && checks["store"] == "ok"
            && checks["resolver"] == "ok"
            && says(checks, "upstream account", "503")
            && says(checks, "own certificate", "asked for")
    })
    .await;
    let (status, alive) = checks(world.installation.metrics, "/livez").await.unwrap();
    assert_eq!(status, 200, "a restart would not help: {alive}");
    let page = daemon.page("/metrics").await.unwrap();
    assert!(page.contains("\nacme_proxy_ready 0\n"));
    assert_eq!(daemon.health().await.unwrap()["status"], "degraded");
    world.ca.behaves();
    let checks = until(&world, "/readyz", |status, _| status == 200).await;
    for part in ["own certificate", "resolver", "store", "upstream account"] {
        assert_eq!(checks[part], "ok", "{checks}");
    }
    let alive = until(&world, "/livez", |status, checks| {
        status == 200 && checks["loop upkeep"] == "ok"
    })
    .await;
    for part in [
        "store",
        "loop validate",
        "loop issue default",
        "loop revoke default",
    ] {
        assert_eq!(alive[part], "ok", "{alive}");
    }
    assert!(
        daemon
            .page("/metrics")
            .await
            .unwrap()
            .contains("\nacme_proxy_ready 1\n")
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_without_a_dns_server_it_is_not_ready_and_health_is_as_before() {
    let world = World::new().await;
    let mut daemon = world.installation.start_with(|command| {
        command.arg("--resolver").arg(free_address().to_string());
    });
    daemon.is_well().await;
    until(&world, "/readyz", |status, checks| {
        status == 503 && says(checks, "resolver", "no DNS server") && checks["upstream account"] == "ok"
    })
    .await;
    assert_eq!(daemon.health().await.unwrap(), json!({"status": "ok"}));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f32_with_an_expired_certificate_from_files_it_lives_and_is_not_ready() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    let file = |name: &str| world.installation.path(name);
    std::fs::write(file("own.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(file("own.key"), key.serialize_pem()).unwrap();
    world.installation.edit(|config| {
        config["tls"] = json!({"certificate": file("own.pem"), "key": file("own.key")});
    });
    let mut daemon = world.installation.start();
    daemon.serves().await;
    until(&world, "/readyz", |status, checks| {
        status == 503 && says(checks, "own certificate", "has expired") && checks["upstream account"] == "ok"
    })
    .await;
    let (status, _) = checks(world.installation.metrics, "/livez").await.unwrap();
    assert_eq!(status, 200);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f27_told_to_stop_it_is_not_ready_and_serves_on_until_the_load_balancers_have_noticed() {
    let world = World::new().await;
    let delay = |delay: &str| {
        world
            .installation
            .edit(|config| config["authority"]["config"]["shutdown_delay"] = json!(delay));
    };
    delay("1m");
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    until(&world, "/readyz", |status, _| status == 200).await;
    let directory = async || {
        let client = world.installation.client();
        let answer = client
            .get(world.installation.directory_url())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let connection = answer.headers().get("connection");
        connection.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(directory().await, None);
    daemon.terminate();
    let checks = until(&world, "/readyz", |status, _| status == 503).await;
    assert!(says(&checks, "shutdown", "told to stop"), "{checks}");
    assert_eq!(checks["store"], "ok");
    for _ in 0..3 {
        assert_eq!(
            directory().await.as_deref(),
            Some("close"),
            "the next request is for another replica"
        );
    }
    let (status, _) = self::checks(world.installation.metrics, "/livez").await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(daemon.health().await.unwrap(), json!({"status": "ok"}));
    daemon.kill().await;

    delay("1s");
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    daemon.terminate();
    assert!(daemon.ended().await.success());
    world.installation.says("clients are served for 1s more", 1).await;
}
