//! RFC 8738: addresses as identifiers, from the order to the certificate.

use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::harness::client::{Client, Order};
use crate::harness::csr::{self, DNS_NAME, Draft, IP_ADDRESS, UTF8, san, tlv};
use crate::harness::key::Key;
use crate::harness::process::free_address;
use crate::harness::server::Daemon;
use crate::harness::tls_responder::TlsResponder;
use crate::rfc8737;

const ADDRESS: &str = "127.0.0.1";
const OCTETS: [u8; 4] = [127, 0, 0, 1];
const REVERSE: &str = "1.0.0.127.in-addr.arpa";

/// A request for these general names alone.
fn request(names: &[Vec<u8>]) -> Draft {
    Draft::with_extensions(&[san(names)])
}

fn types(challenges: &Value) -> Vec<&str> {
    let challenges = challenges.as_array().unwrap().iter();
    challenges
        .map(|challenge| challenge["type"].as_str().unwrap())
        .collect()
}

/// The names in the order's certificate, which the CA has put there for this client.
async fn certified(client: &Client, order_url: &str) -> Vec<String> {
    let order = client.until(order_url, "valid").await;
    let leaf = csr::first_of_pem(&client.chain(&order).await);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(octets) => format!("{octets:?}"),
        other => other.to_string(),
    };
    names.value.general_names.iter().map(shown).collect()
}

#[tokio::test]
async fn i3_an_address_is_offered_http_01_and_tls_alpn_01_only() {
    let responder = TlsResponder::start().await;
    let all = ["http-01", "dns-01", "tls-alpn-01"];
    let daemon = rfc8737::daemon(&responder, &all).await;
    let client = daemon.account().await;
    for address in ["192.0.2.1", "2001:db8::1"] {
        let order = client.order_of("ip", &[address]).await;
        let authorization = client.look(&order.authorizations[0]).await;
        assert_eq!(
            authorization["identifier"],
            json!({ "type": "ip", "value": address })
        );
        assert!(authorization.get("wildcard").is_none(), "{authorization}");
        let mut offered = types(&authorization["challenges"]);
        offered.sort_unstable();
        assert_eq!(offered, ["http-01", "tls-alpn-01"]);
        // One that is not offered is not there to be posted to either.
        let (url, _) = client.challenge(&order.authorizations[0]).await;
        let dns = url.replace("http-01", "dns-01");
        assert_ne!(url, dns);
        client.post(&dns, json!({})).await.problem(404, "malformed");
    }
}

#[tokio::test]
async fn an_address_proved_by_tls_alpn_01_under_its_reverse_name_gets_its_certificate() {
    let responder = TlsResponder::start().await;
    let daemon = rfc8737::daemon(&responder, &["tls-alpn-01"]).await;
    let client = daemon.account().await;
    let order = client.order_of("ip", &[ADDRESS]).await;
    rfc8737::answer(&client, &order, &responder, (REVERSE, ADDRESS), |right| right).await;
    client.until(&order.url, "ready").await;
    let request = request(&[tlv(IP_ADDRESS, OCTETS)]).sign(&Key::new());
    client.finalize(&order, &request).await.expect(200);
    assert_eq!(certified(&client, &order.url).await, ["[127, 0, 0, 1]"]);
    let ca = daemon.ca.stats();
    assert_eq!(ca.orders[0].identifiers, [ADDRESS]);
}

#[tokio::test]
async fn an_address_and_a_name_proved_by_http_01_get_one_certificate() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let identifiers =
        json!([{ "type": "ip", "value": ADDRESS }, { "type": "dns", "value": "www.example.com" }]);
    let url = daemon.site.url("new-order");
    let made = client
        .post(&url, json!({ "identifiers": identifiers }))
        .await
        .expect(201);
    let order = Order::of(&made);
    client.prove(&daemon, &order).await;
    let names = [tlv(DNS_NAME, "www.example.com"), tlv(IP_ADDRESS, OCTETS)];
    client
        .finalize(&order, &request(&names).sign(&Key::new()))
        .await
        .expect(200);
    let mut names = certified(&client, &order.url).await;
    names.sort();
    assert_eq!(names, ["DNSName(www.example.com)", "[127, 0, 0, 1]"]);
}

#[tokio::test]
async fn k6_a_csr_without_exactly_the_orders_address_is_refused_and_the_order_stays_ready() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let order = client.order_of("ip", &[ADDRESS]).await;
    client.prove(&daemon, &order).await;
    let key = Key::new();
    let right = || tlv(IP_ADDRESS, OCTETS);
    let bad = [
        ("another address", request(&[tlv(IP_ADDRESS, [127, 0, 0, 2])])),
        ("no address", request(&[tlv(DNS_NAME, "www.example.com")])),
        (
            "a name as well",
            request(&[right(), tlv(DNS_NAME, "www.example.com")]),
        ),
        (
            "a second address",
            request(&[right(), tlv(IP_ADDRESS, [127, 0, 0, 2])]),
        ),
        (
            "IPv4 inside IPv6",
            request(&[tlv(
                IP_ADDRESS,
                [[0; 10].as_slice(), &[255, 255], &OCTETS].concat(),
            )]),
        ),
        ("five octets", request(&[tlv(IP_ADDRESS, [127, 0, 0, 1, 0])])),
        (
            "a network",
            request(&[tlv(IP_ADDRESS, [127, 0, 0, 1, 255, 255, 255, 255])]),
        ),
        ("the address as a name", request(&[tlv(DNS_NAME, ADDRESS)])),
        ("the reverse name", request(&[tlv(DNS_NAME, REVERSE)])),
        (
            "the address as common name only",
            Draft::with_extensions(&[]).named(UTF8, ADDRESS),
        ),
        (
            "the address as common name too",
            request(&[right()]).named(UTF8, ADDRESS),
        ),
    ];
    for (case, draft) in bad {
        let answer = client.finalize(&order, &draft.sign(&key)).await;
        assert_eq!(answer.status, 400, "{case}: {}", answer.shown());
        answer.problem(400, "badCSR");
        assert_eq!(client.look(&order.url).await["status"], "ready", "{case}");
    }
    assert_eq!(daemon.ca.stats().orders_opened, 0);
    let request = request(&[right()]).sign(&key);
    client.finalize(&order, &request).await.expect(200);
    assert_eq!(certified(&client, &order.url).await, ["[127, 0, 0, 1]"]);
}

/// Has the identifier's challenge tried; it must fail for good because of where it leads.
async fn is_refused(client: &Client, (kind, identifier): (&str, &str), challenge: &str, words: &str) {
    let order = client.order_of(kind, &[identifier]).await;
    let (url, _) = client.challenge_by(challenge, &order.authorizations[0]).await;
    client.post(&url, json!({})).await.expect(200);
    let error = client.until(&url, "invalid").await["error"].clone();
    assert_eq!(error["type"], "urn:ietf:params:acme:error:connection", "{error}");
    let detail = error["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{detail}");
}

#[tokio::test]
async fn c601_local_targets_are_refused_for_http_01_and_tls_alpn_01() {
    // CVE-2026-5052.
    let responder = TlsResponder::start().await;
    let daemon = rfc8737::daemon(&responder, &["http-01", "tls-alpn-01"]).await;
    let client = daemon.account().await;
    for (address, words) in [
        ("169.254.169.254", "a link-local address"),
        ("168.63.129.16", "a cloud metadata service"),
        ("0.0.0.0", "the unspecified address"),
        ("::1", "a loopback address"),
        ("64:ff9b::a9fe:a9fe", "a link-local address"),
    ] {
        for challenge in ["http-01", "tls-alpn-01"] {
            is_refused(&client, ("ip", address), challenge, words).await;
        }
    }
}

#[tokio::test]
async fn c601_the_daemons_own_listeners_are_no_applicants_hosts() {
    let responder = TlsResponder::start().await;
    let daemon = rfc8737::daemon(&responder, &["http-01", "tls-alpn-01"]).await;
    let metrics = free_address();
    let acme = daemon.site.address;
    let daemon = daemon
        .restart_with(|file| {
            file["metricsAddress"] = metrics.to_string().into();
            let validation = &mut file["authority"]["config"]["validation"];
            validation["http_port"] = metrics.port().into();
            validation["tls_port"] = acme.port().into();
        })
        .await;
    let client = daemon.account().await;
    for identifier in [("ip", ADDRESS), ("dns", "www.example.com")] {
        for challenge in ["http-01", "tls-alpn-01"] {
            is_refused(&client, identifier, challenge, "127.0.0.1 is this server itself").await;
        }
    }
}
