//! RFC 8555 §7.3.5: an account gets another key (CONFORMANCE G, SECURITY C312 and C313).

use std::sync::Arc;

use num_bigint::BigUint;
use serde_json::{Map, Value, json};

use crate::harness::answer::Answer;
use crate::harness::client::{Client, GET};
use crate::harness::csr;
use crate::harness::key::{ALGORITHMS, Key, b64, unb64};
use crate::harness::server::Daemon;

/// What goes into an inner JWS.
struct Inner {
    header: Map<String, Value>,
    payload: Value,
}

impl Inner {
    /// An honest one.
    fn new(client: &Client, new: &Key) -> Self {
        let mut header = Map::new();
        header.insert("alg".into(), new.alg.into());
        header.insert("jwk".into(), new.jwk.clone());
        header.insert("url".into(), client.site.url("key-change").into());
        let payload = json!({ "account": client.kid(), "oldKey": client.key.jwk });
        Self { header, payload }
    }

    fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.header.insert(member.to_owned(), value.into());
        self
    }

    fn without(mut self, member: &str) -> Self {
        self.header.remove(member);
        self
    }

    fn saying(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.payload[member] = value.into();
        self
    }

    fn signed(&self, key: &Key) -> Value {
        let header = Value::Object(self.header.clone()).to_string();
        key.envelope(header.as_bytes(), self.payload.to_string().as_bytes())
    }
}

/// Asks for the new key.
pub(crate) async fn change(client: &Client, new: &Key) -> Answer {
    let inner = Inner::new(client, new).signed(new);
    client.post(&client.site.url("key-change"), inner).await
}

/// The account with this key.
fn rekeyed(client: &Client, key: Arc<Key>) -> Client {
    Client::new(&client.site, key, client.kid.clone())
}

/// The key without an account.
fn bare(client: &Client) -> Client {
    Client::new(&client.site, Arc::clone(&client.key), None)
}

#[tokio::test]
async fn g1_the_new_key_has_the_account_and_its_objects_and_the_old_one_has_nothing() {
    let daemon = Daemon::start().await;
    let old = daemon.account().await;
    let site = &daemon.site;
    let issued = old.issue(&daemon, &["issued.example.com"]).await;
    let ready = old.ready(&daemon, &["ready.example.com"]).await;
    let pending = old.order(&["pending.example.com"]).await;
    let (challenge, token) = old.challenge(&pending.authorizations[0]).await;
    let before = old.look(old.kid()).await;
    let key = Arc::new(Key::new());
    let answer = change(&old, &key).await.expect(200);
    assert_eq!((answer.location().as_str(), answer.json()), (old.kid(), before));

    let csr = json!({ "csr": b64(csr::plain(&Key::new(), &["ready.example.com"])) });
    let certificate = json!({ "certificate": b64(&issued.leaf) });
    let orders = format!("{}/orders", old.kid());
    let identifiers = json!({ "identifiers": [{ "type": "dns", "value": "new.example.com" }] });
    let requests = [
        (site.url("directory"), None),
        (site.url("new-nonce"), None),
        (old.kid().to_owned(), None),
        (old.kid().to_owned(), Some(json!({ "status": "deactivated" }))),
        (orders.clone(), None),
        (site.url("new-order"), Some(identifiers)),
        (pending.url.clone(), None),
        (pending.authorizations[0].clone(), None),
        (
            pending.authorizations[0].clone(),
            Some(json!({ "status": "deactivated" })),
        ),
        (challenge.clone(), Some(json!({}))),
        (ready.finalize.clone(), Some(csr)),
        (issued.url.clone(), None),
        (site.url("revoke-cert"), Some(certificate)),
    ];
    for (url, payload) in requests {
        let answer = match payload {
            None => old.post(&url, GET).await,
            Some(payload) => old.post(&url, payload).await,
        };
        answer.problem(400, "malformed");
    }
    change(&old, &Key::new()).await.problem(400, "malformed");

    let new = rekeyed(&old, key);
    assert_eq!(
        bare(&new)
            .post(&site.url("new-account"), json!({ "onlyReturnExisting": true }))
            .await
            .expect(200)
            .location(),
        old.kid()
    );
    assert_eq!(new.look(&orders).await["orders"].as_array().unwrap().len(), 3);
    assert_eq!(new.post(&issued.url, GET).await.expect(200).text(), issued.pem);
    daemon.web.publish(&token, &new.key_authorization(&token));
    new.post(&challenge, json!({})).await.expect(200);
    new.until(&pending.url, "ready").await;
    let csr = csr::plain(&Key::new(), &["ready.example.com"]);
    new.finalize(&ready, &csr).await.expect(200);
    new.until(&ready.url, "valid").await;

    // The old key is a key like any other again.
    let unknown = bare(&old);
    unknown
        .post(&site.url("new-account"), json!({ "onlyReturnExisting": true }))
        .await
        .problem(400, "accountDoesNotExist");
    let another = unknown
        .post(&site.url("new-account"), json!({}))
        .await
        .expect(201);
    assert_ne!(another.location(), old.kid());
    old.post(old.kid(), GET).await.problem(400, "malformed");
}

#[tokio::test]
async fn g1_an_account_goes_through_keys_of_every_algorithm() {
    let daemon = Daemon::start().await;
    let mut client = daemon.account().await;
    for alg in ALGORITHMS {
        let key = Arc::new(Key::generate(alg));
        change(&client, &key).await.expect(200);
        let next = rekeyed(&client, key);
        next.post(next.kid(), GET).await.expect(200);
        client.post(client.kid(), GET).await.acme();
        assert_ne!(client.post(client.kid(), GET).await.status, 200, "{alg}");
        client = next;
    }
}

#[tokio::test]
async fn c312_g2_g3_an_inner_jws_that_breaks_a_rule_changes_nothing() {
    let daemon = Daemon::start().await;
    let (client, other) = tokio::join!(daemon.account(), daemon.account());
    let (new, third) = (Key::new(), Key::new());
    let url = daemon.site.url("key-change");
    let honest = || Inner::new(&client, &new);
    let mut private = new.jwk.clone();
    private["d"] = b64([1; 32]).into();
    let nonce = client.nonce().await;
    let malformed = [
        // G2: the header.
        ("no jwk", honest().without("jwk").signed(&new)),
        (
            "kid",
            honest()
                .without("jwk")
                .with("kid", client.kid())
                .signed(&client.key),
        ),
        ("kid and jwk", honest().with("kid", client.kid()).signed(&new)),
        ("a nonce", honest().with("nonce", nonce).signed(&new)),
        ("no url", honest().without("url").signed(&new)),
        (
            "another url",
            honest().with("url", daemon.site.url("new-order")).signed(&new),
        ),
        (
            "a url with a query",
            honest().with("url", format!("{url}?")).signed(&new),
        ),
        (
            "a url under another name",
            honest()
                .with("url", url.replace("acmeproxy.test", "ra.test"))
                .signed(&new),
        ),
        ("crit", honest().with("crit", json!(["exp"])).signed(&new)),
        // The signature.
        ("signed by the old key", honest().signed(&client.key)),
        ("signed by a third key", honest().signed(&third)),
        ("the old key in it, signed by it", {
            honest().with("jwk", client.key.jwk.clone()).signed(&client.key)
        }),
        // G3: the payload.
        (
            "another account",
            honest().saying("account", other.kid()).signed(&new),
        ),
        (
            "the account under another name",
            honest()
                .saying("account", client.kid().replace("acmeproxy.test", "ra.test"))
                .signed(&new),
        ),
        (
            "the account and a slash",
            honest()
                .saying("account", format!("{}/", client.kid()))
                .signed(&new),
        ),
        ("no account", honest().saying("account", Value::Null).signed(&new)),
        (
            "another old key",
            honest().saying("oldKey", other.key.jwk.clone()).signed(&new),
        ),
        (
            "the new key as the old one",
            honest().saying("oldKey", new.jwk.clone()).signed(&new),
        ),
        ("no old key", honest().saying("oldKey", Value::Null).signed(&new)),
        (
            "an old key that is none",
            honest().saying("oldKey", json!({ "kty": "EC" })).signed(&new),
        ),
        (
            "a thumbprint as the old key",
            honest().saying("oldKey", client.key.thumbprint()).signed(&new),
        ),
        (
            "a list",
            Inner {
                payload: json!([client.kid(), client.key.jwk]),
                ..honest()
            }
            .signed(&new),
        ),
        (
            "an empty object",
            Inner {
                payload: json!({}),
                ..honest()
            }
            .signed(&new),
        ),
        // The form.
        ("the payload alone", honest().payload),
        ("no object", json!([honest().signed(&new)])),
        ("nothing", json!({})),
    ];
    for (flaw, inner) in malformed {
        let answer = client.post(&url, inner).await;
        assert_eq!(answer.status, 400, "{flaw}: {}", answer.shown());
        answer.problem(400, "malformed");
    }
    let mut unprotected = honest().signed(&new);
    unprotected["header"] = json!({});
    client.post(&url, unprotected).await.problem(400, "malformed");
    for alg in ["HS256", "none", "PS256"] {
        let problem = client.post(&url, honest().with("alg", alg).signed(&new)).await;
        let problem = problem.problem(400, "badSignatureAlgorithm");
        assert_eq!(problem["algorithms"].as_array().unwrap().len(), 5);
    }
    let other_alg = honest().with("alg", "ES384").signed(&new);
    client.post(&url, other_alg).await.problem(400, "badPublicKey");
    let private = honest().with("jwk", private).signed(&new);
    client.post(&url, private).await.problem(400, "badPublicKey");

    client.post(client.kid(), GET).await.expect(200);
    let nobody = Client::new(&daemon.site, Arc::new(new), None);
    nobody
        .post(
            &daemon.site.url("new-account"),
            json!({ "onlyReturnExisting": true }),
        )
        .await
        .problem(400, "accountDoesNotExist");
    // Members that are not its own do not make an old key another one.
    let mut old_key = client.key.jwk.clone();
    old_key["use"] = "sig".into();
    let twin = Inner::new(&client, &nobody.key).saying("oldKey", old_key);
    client.post(&url, twin.signed(&nobody.key)).await.expect(200);
}

#[tokio::test]
async fn g5_a_new_key_that_is_weak_or_none_is_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let url = daemon.site.url("key-change");
    let rsa = Key::generate("RS256");
    let with = |member: &str, value: String| {
        let mut jwk = rsa.jwk.clone();
        jwk[member] = value.into();
        jwk
    };
    let mut short = vec![0xff; 128];
    short[127] = 0x7f;
    let mut zero = Key::new().jwk;
    zero["x"] = b64([0; 32]).into();
    zero["y"] = b64([0; 32]).into();
    let modulus = BigUint::from_bytes_be(&unb64(rsa.jwk["n"].as_str().unwrap()));
    let square = modulus.sqrt().pow(2);
    for weak in [
        with("n", b64(&short)),
        with("n", b64(square.to_bytes_be())),
        with("e", b64([3])),
        with("e", b64([1])),
        zero,
    ] {
        let key = if weak["kty"] == "EC" {
            Key::new()
        } else {
            Key::generate("RS256")
        };
        let inner = Inner::new(&client, &key).with("jwk", weak).signed(&key);
        client.post(&url, inner).await.problem(400, "badPublicKey");
    }
    client.post(client.kid(), GET).await.expect(200);
}

#[tokio::test]
async fn g4_a_key_that_has_an_account_is_409_with_its_url_and_ones_own_is_malformed() {
    let daemon = Daemon::start().await;
    let (client, other, ended) = tokio::join!(daemon.account(), daemon.account(), daemon.account());
    ended
        .post(ended.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    for holder in [&other, &ended] {
        let answer = change(&client, &holder.key).await;
        answer.problem(409, "malformed");
        assert_eq!(answer.location(), holder.kid());
    }
    let unchanged = change(&client, &client.key).await;
    unchanged.problem(400, "malformed");
    assert_eq!(unchanged.header("location"), None);
    for (owner, kid) in [(&client, client.kid()), (&other, other.kid())] {
        owner.post(kid, GET).await.expect(200);
    }
    ended.post(ended.kid(), GET).await.problem(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_of_many_accounts_that_want_one_key_one_gets_it() {
    let daemon = Daemon::start().await;
    let wanted = Arc::new(Key::new());
    let mut rivals = Vec::new();
    for _ in 0..20 {
        rivals.push(daemon.account().await);
    }
    let mut requests = tokio::task::JoinSet::new();
    for rival in rivals.clone() {
        let wanted = Arc::clone(&wanted);
        requests.spawn(async move {
            let answer = change(&rival, &wanted).await;
            (rival.kid().to_owned(), answer)
        });
    }
    // A newcomer wants it, too.
    let newcomer = Client::new(&daemon.site, Arc::clone(&wanted), None);
    let newcomers = newcomer.clone();
    requests.spawn(async move {
        let answer = newcomers
            .post(&newcomers.site.url("new-account"), json!({}))
            .await;
        let url = answer.location();
        match answer.status {
            201 => (
                url,
                Answer {
                    status: 200,
                    ..answer
                },
            ),
            // Whoever was first: this one only asks who it is.
            _ => (
                String::new(),
                Answer {
                    status: 409,
                    ..answer
                },
            ),
        }
    });
    let answers = requests.join_all().await;
    let winners: Vec<&String> = answers
        .iter()
        .filter(|(_, answer)| answer.status == 200)
        .map(|(kid, _)| kid)
        .collect();
    assert_eq!(winners.len(), 1);
    for (_, loser) in answers.iter().filter(|(_, answer)| answer.status != 200) {
        assert_eq!((loser.status, &loser.location()), (409, winners[0]));
    }
    let holder = Client::new(&daemon.site, wanted, Some(winners[0].clone()));
    holder.post(holder.kid(), GET).await.expect(200);
    for rival in &rivals {
        let expected = if rival.kid() == holder.kid() { 400 } else { 200 };
        rival.post(rival.kid(), GET).await.expect(expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c313_while_the_key_is_changed_no_two_keys_are_good_at_a_time() {
    let daemon = Daemon::start().await;
    let old = daemon.account().await;
    let keys: Vec<Arc<Key>> = (0..10).map(|_| Arc::new(Key::new())).collect();
    let mut orders = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let old = old.clone();
        orders.spawn(async move { old.ask_order(&["www.example.com"]).await });
    }
    let mut changes = tokio::task::JoinSet::new();
    for key in keys.clone() {
        let old = old.clone();
        changes.spawn(async move {
            let answer = change(&old, &key).await;
            if answer.status == 200 {
                // From here on the old key is good for nothing.
                old.ask_order(&["www.example.com"])
                    .await
                    .problem(400, "malformed");
            }
            (answer.status, key)
        });
    }
    let made = orders.join_all().await;
    let made = made.iter().filter(|answer| match answer.status {
        201 => true,
        _ => {
            answer.problem(400, "malformed");
            false
        }
    });
    let made = made.count();
    let changed = changes.join_all().await;
    let winners: Vec<&Arc<Key>> = changed
        .iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, key)| key)
        .collect();
    assert_eq!(winners.len(), 1);
    assert!(changed.iter().all(|(status, _)| matches!(status, 200 | 400)));
    for key in &keys {
        let expected = if Arc::ptr_eq(key, winners[0]) { 200 } else { 400 };
        let client = rekeyed(&old, Arc::clone(key));
        client.post(client.kid(), GET).await.expect(expected);
    }
    let holder = rekeyed(&old, Arc::clone(winners[0]));
    let listed = holder.look(&format!("{}/orders", holder.kid())).await;
    assert_eq!(listed["orders"].as_array().unwrap().len(), made);
}

#[tokio::test]
async fn g6_a_challenge_is_validated_with_the_key_that_the_account_has_then() {
    let daemon = Daemon::start().await;
    let old = daemon.account().await;
    let order = old.order(&["www.example.com", "mail.example.com"]).await;
    let [during, after] = [&order.authorizations[0], &order.authorizations[1]];
    let (url, token) = old.challenge(during).await;
    let held = daemon.web.hold().await;
    old.post(&url, json!({})).await.expect(200);
    while daemon.web.looks() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // The validator has asked, and waits for what the old key would answer.
    let key = Arc::new(Key::new());
    change(&old, &key).await.expect(200);
    let new = rekeyed(&old, key);
    daemon.web.publish(&token, &new.key_authorization(&token));
    drop(held);
    new.until(during, "valid").await;
    let (url, token) = new.challenge(after).await;
    daemon.web.publish(&token, &old.key_authorization(&token));
    new.post(&url, json!({})).await.expect(200);
    let invalid = new.until(&order.url, "invalid").await;
    assert!(
        invalid["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("mail.example.com")
    );
}
