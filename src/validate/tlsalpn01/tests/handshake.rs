//! The TLS side: C701, C705 and C706.

use std::sync::Mutex;

use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::validate::testing::kinds;
use crate::validate::testing::listeners;
use crate::validate::testing::serve;
use crate::validate::testing::server_hello;
use crate::validate::testing::tls_acceptor;
use crate::validate::testing::zone;

/// One attempt against a TLS server with this chain and these protocols.
async fn shown(
    make: impl FnOnce(&Attempt, &KeyPair) -> Vec<CertificateDer<'static>>,
    protocols: &[&str],
) -> Result<(), Failure> {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::tls_alpn01(dns.address, port);
    let key = KeyPair::generate().unwrap();
    let acceptor = tls_acceptor(make(&attempt, &key), &key, &[&TLS12, &TLS13], protocols);
    serve(web, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    });
    attempt.run().await
}

/// One attempt against a server that sends these bytes, then waits or closes.
async fn answered(bytes: Vec<u8>, close: bool) -> Failure {
    answered_within(Duration::from_secs(10), bytes, close).await
}

async fn answered_within(budget: Duration, bytes: Vec<u8>, close: bool) -> Failure {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    serve(web, move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.write_all(&bytes).await.unwrap();
            match close {
                true => stream.set_zero_linger().unwrap(),
                false => {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        }
    });
    let attempt = Attempt::tls_alpn01(dns.address, port).with(|settings| settings.timeout = budget);
    attempt.fails().await
}

/// Shows one certificate, and keeps what each client says.
#[derive(Debug)]
struct Witness {
    certified: Arc<CertifiedKey>,
    hellos: Mutex<Vec<(Option<String>, Vec<Vec<u8>>)>>,
}

impl ResolvesServerCert for Witness {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let protocols = hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect());
        let name = hello.server_name().map(str::to_owned);
        self.hellos
            .lock()
            .unwrap()
            .push((name, protocols.unwrap_or_default()));
        Some(self.certified.clone())
    }
}

#[tokio::test]
async fn a_handshake_with_the_certificate_proves_control_and_nothing_else_is_sent() {
    for version in [&TLS12, &TLS13] {
        for (address, server_name) in [
            (None, NAME),
            (Some("127.0.0.2"), "2.0.0.127.in-addr.arpa"),
            (
                Some("::1"),
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            ),
        ] {
            let (port, [web]) = listeners([address.unwrap_or("127.0.0.2")]).await;
            let resolver = zone("127.0.0.2").await;
            let mut attempt = Attempt::tls_alpn01(resolver.address, port)
                .with(|settings| settings.allow.push("::1/128".parse().unwrap()));
            let mut name = dns(NAME);
            if let Some(address) = address {
                attempt = attempt.of_address(address);
                name = SanType::IpAddress(address.parse().unwrap());
            }
            let key = KeyPair::generate().unwrap();
            let certificate = params(name, &attempt.key_authorization());
            let certificate = certificate.self_signed(&key).unwrap();
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let witness = Arc::new(Witness {
                certified: Arc::new(CertifiedKey::new(
                    vec![certificate.der().clone()],
                    provider.key_provider.load_private_key(private).unwrap(),
                )),
                hellos: Mutex::default(),
            });
            let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(witness.clone());
            config.alpn_protocols = vec![b"h2".to_vec(), PROTOCOL.to_vec()];
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let (sent, received) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let (stream, _) = web.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes).await;
                sent.send(bytes).unwrap();
            });
            attempt.run().await.unwrap();
            assert_eq!(received.await.unwrap(), b"");
            let hellos = witness.hellos.lock().unwrap().clone();
            assert_eq!(hellos, [(Some(server_name.to_owned()), vec![PROTOCOL.to_vec()])]);
            assert_eq!(resolver.names().is_empty(), address.is_some());
        }
    }
}

#[test]
fn an_address_is_asked_for_by_its_reverse_name() {
    let name = |text: &str| {
        let name = server_name(&Identifier::ip(text).unwrap()).unwrap();
        name.to_str().into_owned()
    };
    // The examples of RFC 8738 §6 and RFC 3596 §2.5.
    assert_eq!(name("192.0.2.1"), "1.2.0.192.in-addr.arpa");
    assert_eq!(
        name("2001:db8::1"),
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
    );
    assert_eq!(
        name("4321:0:1:2:3:4:567:89ab"),
        "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa"
    );
}

#[tokio::test]
async fn a_wildcard_can_not_be_proved_by_one_host() {
    let resolver = zone("127.0.0.2").await;
    let failure = Attempt::tls_alpn01(resolver.address, 443)
        .of("*.example.com")
        .fails()
        .await;
    assert_eq!(kinds(&failure), (ProblemType::Malformed, false));
    assert!(resolver.names().is_empty());
}

#[tokio::test]
async fn c701_a_server_that_does_not_select_the_protocol_proves_nothing() {
    let certificate = |attempt: &Attempt, key: &KeyPair| vec![shown_for(attempt, key)];
    shown(certificate, &["acme-tls/1"]).await.unwrap();
    // Without the extension the session begins all the same; with it and another protocol there is an alert.
    let none = shown(certificate, &[]).await.unwrap_err();
    assert_eq!(kinds(&none), (ProblemType::IncorrectResponse, false));
    let h2 = shown(certificate, &["h2", "http/1.1"]).await.unwrap_err();
    assert_eq!(kinds(&h2), (ProblemType::Tls, false));
    let unasked = answered(server_hello(3, "h2"), false).await;
    assert_eq!(kinds(&unasked), (ProblemType::IncorrectResponse, false));
    for failure in [none, h2, unasked] {
        assert!(failure.problem.detail.contains("acme-tls/1"), "{failure:?}");
    }
}

#[tokio::test]
async fn c701_tls_1_1_is_not_spoken_even_with_the_right_protocol() {
    let failure = answered(server_hello(2, "acme-tls/1"), false).await;
    assert_eq!(kinds(&failure), (ProblemType::Tls, false), "{failure:?}");
    assert!(failure.problem.detail.contains("at least TLS 1.2"), "{failure:?}");
    // The alert of a server that has nothing newer.
    let failure = answered(vec![0x15, 3, 1, 0, 2, 2, 70], true).await;
    assert!(failure.problem.detail.contains("at least TLS 1.2"), "{failure:?}");
}

#[tokio::test]
async fn what_is_no_tls_is_said_to_be_none() {
    let openings: [&[u8]; 3] = [
        b"HTTP/1.1 400 Bad Request\r\nServer: INTERNAL-SECRET-MARKER\r\n\r\n",
        b"SSH-2.0-INTERNAL-SECRET-MARKER\r\n",
        b"220 INTERNAL-SECRET-MARKER ESMTP\r\n",
    ];
    for opening in openings {
        let failure = answered(opening.to_vec(), false).await;
        assert_eq!(kinds(&failure), (ProblemType::Tls, false), "{failure:?}");
        assert!(
            failure.problem.detail.contains("does not speak TLS;"),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn any_alert_is_a_tls_failure() {
    // handshake_failure, unrecognized_name, internal_error.
    for alert in [40, 112, 80] {
        let failure = answered(vec![0x15, 3, 3, 0, 2, 2, alert], false).await;
        assert_eq!(kinds(&failure), (ProblemType::Tls, false), "{failure:?}");
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_proves_nothing() {
    let stolen = |attempt: &Attempt, _: &KeyPair| vec![shown_for(attempt, &KeyPair::generate().unwrap())];
    let failure = shown(stolen, &["acme-tls/1"]).await.unwrap_err();
    assert_eq!(kinds(&failure), (ProblemType::Tls, false));
}

#[tokio::test]
async fn a_certificate_that_is_not_as_it_must_be_is_an_incorrect_response() {
    let ordinary = |_: &Attempt, key: &KeyPair| {
        let mut params = params(dns(NAME), "");
        params.custom_extensions.clear();
        vec![params.self_signed(key).unwrap().der().clone()]
    };
    let other_token = |_: &Attempt, key: &KeyPair| {
        let params = params(dns(NAME), "other.thumbprint");
        vec![params.self_signed(key).unwrap().der().clone()]
    };
    let other_name = |attempt: &Attempt, key: &KeyPair| {
        let params = params(
            dns("INTERNAL-SECRET-MARKER.example"),
            &attempt.key_authorization(),
        );
        vec![params.self_signed(key).unwrap().der().clone()]
    };
    let nonsense = |_: &Attempt, _: &KeyPair| vec![CertificateDer::from(vec![0x30, 3, 2, 1, 1])];
    let cases = [
        (
            shown(ordinary, &["acme-tls/1"]).await,
            "has no acmeIdentifier extension",
        ),
        (
            shown(other_token, &["acme-tls/1"]).await,
            "another key authorization",
        ),
        (
            shown(other_name, &["acme-tls/1"]).await,
            "one subject alternative",
        ),
        (shown(nonsense, &["acme-tls/1"]).await, "is not in DER"),
    ];
    for (verdict, words) in cases {
        let failure = verdict.unwrap_err();
        assert_eq!(
            kinds(&failure),
            (ProblemType::IncorrectResponse, false),
            "{failure:?}"
        );
        assert!(failure.problem.detail.contains(words), "{failure:?}");
    }
}

#[tokio::test]
async fn c705_a_chain_is_read_up_to_64_kib_and_only_its_first_certificate_counts() {
    let large = |attempt: &Attempt, key: &KeyPair, size: usize| {
        let mut params = params(dns(NAME), &attempt.key_authorization());
        let filler = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0; size]);
        params.custom_extensions.push(filler);
        params.self_signed(key).unwrap().der().clone()
    };
    let chain = |attempt: &Attempt, key: &KeyPair, size: usize| {
        let other = large(attempt, &KeyPair::generate().unwrap(), size);
        let mut chain = vec![other; 20];
        chain[0] = shown_for(attempt, key);
        chain
    };
    let alpn = &["acme-tls/1"];
    shown(|attempt, key| vec![large(attempt, key, 30_000)], alpn)
        .await
        .unwrap();
    shown(|attempt, key| chain(attempt, key, 0), alpn).await.unwrap();
    let too_large = [
        shown(|attempt, key| vec![large(attempt, key, 65_536)], alpn).await,
        shown(|attempt, key| chain(attempt, key, 4096), alpn).await,
        shown(
            |attempt, key| {
                let mut chain = chain(attempt, key, 0);
                chain.reverse();
                chain
            },
            alpn,
        )
        .await,
    ];
    for verdict in too_large {
        let failure = verdict.unwrap_err();
        assert_eq!(kinds(&failure), (ProblemType::Tls, false), "{failure:?}");
    }
}

#[tokio::test]
async fn c706_a_handshake_that_trickles_ends_with_the_budget() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let dripped = Arc::new(Mutex::new(0));
    let counter = dripped.clone();
    serve(web, move |mut stream| {
        let counter = counter.clone();
        async move {
            // The record is to have 16,000 bytes.
            let hello = [
                vec![0x16, 3, 3, 0x3e, 0x80, 2, 0, 0x3e, 0x7c, 3, 3],
                vec![7; 16_000],
            ]
            .concat();
            for byte in hello {
                if stream.write_u8(byte).await.is_err() {
                    break;
                }
                *counter.lock().unwrap() += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let attempt =
        Attempt::tls_alpn01(dns.address, port).with(|settings| settings.timeout = Duration::from_secs(1));
    let failure = attempt.fails().await;
    assert_eq!(kinds(&failure), (ProblemType::Connection, true), "{failure:?}");
    assert!(failure.problem.detail.contains("in time"), "{failure:?}");
    assert!(*dripped.lock().unwrap() < 1000);
}

#[tokio::test]
async fn c706_silence_and_broken_connections_may_pass() {
    for (opening, close) in [
        (Vec::new(), false),
        (Vec::new(), true),
        (vec![0x16, 3, 3], true),
        (server_hello(3, "acme-tls/1"), true),
        (server_hello(3, "acme-tls/1"), false),
    ] {
        let failure = answered_within(Duration::from_secs(1), opening.clone(), close).await;
        assert_eq!(
            kinds(&failure),
            (ProblemType::Connection, true),
            "{opening:?}: {failure:?}"
        );
    }
}
