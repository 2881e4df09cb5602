//! RFC 8555 §8.2, §10.4: validation as a service to all. Slow hosts of one account hold up neither another account's
//! validations nor a third host (SECURITY F20, T1; CONFORMANCE section 2, "Concurrency").

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::client::{Client, PATIENCE};
use crate::harness::server::Daemon;

/// What one account may have under way of the 256 places that the daemon has.
const SHARE: usize = 64;

/// Orders the names, and says that all challenges are met. Gives the authorizations' URLs.
async fn answer_all(client: &Client, names: &[String]) -> Vec<String> {
    let mut answers = JoinSet::new();
    for some in names.chunks(100) {
        let names: Vec<&str> = some.iter().map(String::as_str).collect();
        let order = client.order(&names).await;
        for urls in order.authorizations.chunks(25) {
            let (client, urls) = (client.clone(), urls.to_vec());
            answers.spawn(async move {
                for url in &urls {
                    let (challenge, _) = client.challenge(url).await;
                    client.post(&challenge, json!({})).await.expect(200);
                }
                urls
            });
        }
    }
    answers.join_all().await.concat()
}

/// Waits until the daemon has opened at least so many requests that are not answered.
async fn until_hanging(daemon: &Daemon, count: usize) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while daemon.web.unanswered() < count {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_300_silent_hosts_of_one_account_do_not_hold_up_another_account() {
    let daemon = Daemon::start().await;
    let slow = daemon.account().await;
    let names: Vec<String> = (0..300).map(|n| format!("n{n}.silent.example.com")).collect();
    let authorizations = answer_all(&slow, &names).await;
    until_hanging(&daemon, 32).await;
    let quick = daemon.account().await;
    quick.ready(&daemon, &["www.example.com"]).await;
    let most = daemon.web.most_unanswered();
    assert!(
        most <= SHARE,
        "{most} validations of one account were under way at a time"
    );
    // All of the other's are still under way, or wait.
    for url in authorizations.iter().step_by(30) {
        assert_eq!(slow.look(url).await["status"], "pending");
    }
    assert!(daemon.web.unanswered() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validation_fanout_cap_eight_validations_at_a_time_go_to_one_name() {
    let daemon = Daemon::start().await;
    let mut accounts = Vec::new();
    for _ in 0..5 {
        accounts.push(daemon.account().await);
    }
    // The same name in many orders of several accounts.
    for client in &accounts {
        for _ in 0..4 {
            answer_all(client, &["one.silent.example.com".to_owned()]).await;
        }
    }
    until_hanging(&daemon, 8).await;
    let other = daemon.account().await;
    other.ready(&daemon, &["www.example.com"]).await;
    assert_eq!(daemon.web.most_unanswered(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validation_fanout_cap_those_over_it_wait_and_lose_no_attempt() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let closed = daemon.web.hold().await;
    let mut orders = Vec::new();
    for _ in 0..12 {
        let order = client.order(&["www.example.com"]).await;
        let challenge = client.publish(&daemon, &order.authorizations[0]).await;
        client.post(&challenge, json!({})).await.expect(200);
        orders.push(order);
    }
    let other = client.order(&["mail.example.com"]).await;
    let challenge = client.publish(&daemon, &other.authorizations[0]).await;
    client.post(&challenge, json!({})).await.expect(200);
    let eight_and_one = tokio::time::timeout(PATIENCE, async {
        while daemon.web.looks() < 9 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    eight_and_one.await.unwrap();
    drop(closed);
    for order in orders.iter().chain([&other]) {
        client.until(&order.url, "ready").await;
    }
    assert_eq!(daemon.web.looks(), 13, "one look for each");
}
