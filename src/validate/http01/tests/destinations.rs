//! Where a request goes: C601 to C604, C610.

use super::*;
use crate::validate::testing::FORBIDDEN;

#[tokio::test]
async fn c601_forbidden_addresses_behind_a_redirect_are_not_connected_to() {
    let (port, [web, canary, denied, canary6]) =
        listeners(["127.0.0.2", "127.0.0.1", "127.0.0.3", "::1"]).await;
    let dns = DnsServer::of(&[
        (NAME, &["127.0.0.2"]),
        ("foo.localhost", &["127.0.0.1"]),
        ("inside.example.com", &["127.0.0.1", "::1"]),
        ("denied.example.com", &["127.0.0.3"]),
    ])
    .await;
    let location = Arc::new(Mutex::new(String::new()));
    let answer = location.clone();
    http(web, move |_| moved(302, &answer.lock().unwrap()));
    let spellings = [
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.3",
        "[fe80::1%25eth0]",
        "localhost",
        "foo.localhost",
        "inside.example.com",
        "denied.example.com",
    ];
    let literals = FORBIDDEN.map(|address| match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    });
    let hosts = spellings.map(str::to_owned).into_iter().chain(literals);
    let attempt = Attempt::http01(dns.address, port).with(|settings| {
        settings.allow.push("127.0.0.3/32".parse().unwrap());
        settings.deny.push("127.0.0.3/32".parse().unwrap());
    });
    for host in hosts {
        for scheme in ["http", "https"] {
            *location.lock().unwrap() = format!("{scheme}://{host}/path");
            let failure = attempt.fails().await;
            assert_eq!(
                kinds(&failure),
                (ProblemType::Connection, false),
                "{scheme}://{host}"
            );
            // The client is not told where the redirect went.
            assert!(
                !failure.problem.detail.contains(&host),
                "{}",
                failure.problem.detail
            );
        }
    }
    for canary in [canary, canary6, denied] {
        assert_untouched(&canary).await;
    }
}

#[tokio::test]
async fn c601_our_own_listeners_are_not_connected_to_by_name_by_address_or_behind_a_redirect() {
    let (port, [web, own, own6]) = listeners(["127.0.0.2", "127.0.0.3", "::1"]).await;
    let dns = DnsServer::of(&[
        (NAME, &["127.0.0.2"]),
        ("own.example.com", &["127.0.0.3"]),
        ("own6.example.com", &["::1"]),
    ])
    .await;
    http(web, move |head| {
        let target = match head.contains("host: www") {
            true => "http://own.example.com/metrics",
            false => "https://own6.example.com/acme/acme/directory",
        };
        moved(302, target)
    });
    // The ACME listener and the metrics listener, as they are configured.
    let attempt = || {
        Attempt::http01(dns.address, port).with(|settings| {
            settings.allow = vec!["127.0.0.0/8".parse().unwrap(), "::/127".parse().unwrap()];
            settings.own_listeners = ["127.0.0.3", "[::1]"]
                .map(|own| format!("{own}:{port}").parse().unwrap())
                .to_vec();
        })
    };
    let attempts = [
        attempt(),
        attempt().of("own.example.com"),
        attempt().of("own6.example.com"),
        attempt().of_address("127.0.0.2"),
        attempt().of_address("127.0.0.3"),
        attempt().of_address("::1"),
    ];
    for attempt in attempts {
        let failure = attempt.fails().await;
        assert_eq!(kinds(&failure), (ProblemType::Connection, false), "{failure:?}");
        assert!(failure.detail.contains("this server itself"), "{failure:?}");
    }
    // Bound to every address, each of ours is meant.
    for any in ["0.0.0.0", "[::]"] {
        let attempt = attempt().of("own.example.com");
        let attempt =
            attempt.with(|settings| settings.own_listeners = vec![format!("{any}:{port}").parse().unwrap()]);
        assert_eq!(kinds(&attempt.fails().await), (ProblemType::Connection, false));
    }
    assert_untouched(&own).await;
    assert_untouched(&own6).await;
}

#[tokio::test]
async fn c602_a_rebinding_name_is_looked_up_once_and_its_checked_address_dialled() {
    let (port, [web, canary]) = listeners(["127.0.0.2", "127.0.0.1"]).await;
    let dns = DnsServer::rebinding().await;
    let attempt = Attempt::http01(dns.address, port);
    let content = attempt.key_authorization();
    http(web, move |_| ok(&content));
    attempt.run().await.unwrap();
    assert_eq!(dns.queries(hickory_proto::rr::RecordType::A), 1);
    // The next look-up gives the other address: refused, not dialled.
    assert_eq!(kinds(&attempt.fails().await), (ProblemType::Connection, false));
    assert_untouched(&canary).await;
}

#[tokio::test]
async fn c602_each_hop_is_looked_up_and_checked_anew() {
    let (port, [web, canary]) = listeners(["127.0.0.2", "127.0.0.1"]).await;
    let dns = DnsServer::rebinding().await;
    let requests = http(web, |_| moved(302, &format!("http://{NAME}/again")));
    let failure = Attempt::http01(dns.address, port).fails().await;
    assert_eq!(kinds(&failure), (ProblemType::Connection, false));
    assert_eq!(*requests.lock().unwrap(), 1);
    assert_untouched(&canary).await;
}

#[tokio::test]
async fn c603_redirects_of_each_followed_status_lead_to_the_content() {
    for status in [301, 302, 307, 308] {
        let (port, [web]) = listeners(["127.0.0.2"]).await;
        let dns = DnsServer::of(&[(NAME, &["127.0.0.2"]), ("b.example.com", &["127.0.0.2"])]).await;
        let attempt = Attempt::http01(dns.address, port);
        let content = attempt.key_authorization();
        http(web, move |head| match head {
            head if head.starts_with("GET /there?a=b ") => moved(status, "relative"),
            head if head.starts_with("GET /relative ") => {
                moved(status, &format!("http://127.0.0.2:{port}/literal"))
            }
            head if head.starts_with("GET /literal ") => ok(&content),
            _ => moved(status, "//b.example.com/there?a=b"),
        });
        attempt.run().await.unwrap();
    }
}

#[tokio::test]
async fn c603_ten_redirects_are_followed_and_eleven_are_not() {
    for (redirects, followed) in [(10, true), (11, false)] {
        let (port, [web]) = listeners(["127.0.0.2"]).await;
        let dns = zone("127.0.0.2").await;
        let attempt = Attempt::http01(dns.address, port);
        let content = attempt.key_authorization();
        let requests = http(web, move |head| {
            let path = head.split(' ').nth(1).unwrap();
            let hop: usize = path.trim_start_matches('/').parse().unwrap_or(0);
            if hop == redirects {
                ok(&content)
            } else {
                moved(302, &format!("/{}", hop + 1))
            }
        });
        let verdict = attempt.run().await;
        assert_eq!(verdict.is_ok(), followed, "{verdict:?}");
        assert_eq!(*requests.lock().unwrap(), 11);
        if let Err(failure) = verdict {
            assert_eq!(kinds(&failure), (ProblemType::Connection, false));
        }
    }
}

#[tokio::test]
async fn c603_bad_redirects_are_not_followed() {
    let long = format!("/{}", "a".repeat(10_000));
    let locations = [
        "",
        "http://user:pass@www.example.com/",
        "gopher://www.example.com/",
        "file:///etc/passwd",
        "http://www.example.com:22/",
        "/.well-known/acme-challenge/TOKEN",
        &long,
        "/\u{e4}",
    ];
    for location in locations {
        let verdict = answered(|attempt| moved(301, &location.replace("TOKEN", attempt.token.as_str())));
        let failure = verdict.await.unwrap_err();
        assert_eq!(kinds(&failure), (ProblemType::Connection, false), "{location}");
        assert!(location.len() < 2 || !failure.problem.detail.contains(location));
    }
    let failure = answered(|_| moved(303, "/other")).await.unwrap_err();
    assert_eq!(kinds(&failure), (ProblemType::Connection, false));
}

/// A TLS server's settings, with a self-signed certificate that rustls' own verifier refuses to read, for another name.
/// A forger has the certificate without its key.
fn tls_server(version: &'static rustls::SupportedProtocolVersion, forger: bool) -> tokio_rustls::TlsAcceptor {
    let mut parameters = rcgen::CertificateParams::new(vec!["other.example.net".to_owned()]).unwrap();
    let unknown_critical = rcgen::CustomExtension::new_acme_identifier(&[0; 32]);
    parameters.custom_extensions.push(unknown_critical);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let key = if forger {
        rcgen::KeyPair::generate().unwrap()
    } else {
        key
    };
    tls_acceptor(vec![certificate.der().clone()], &key, &[version], &["http/1.1"])
}

/// An http server that redirects to https, and an https server made by the function on the TLS port.
async fn redirected_to_tls(serve_tls: impl FnOnce(TcpListener, String)) -> Result<(), Failure> {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let (tls_port, [tls]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::http01(dns.address, port).with(|settings| settings.tls_port = tls_port);
    http(web, |_| moved(301, &format!("https://{NAME}/secure")));
    serve_tls(tls, attempt.key_authorization());
    attempt.run().await
}

#[tokio::test]
async fn c604_https_is_followed_without_verification_of_the_certificate() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for forger in [false, true] {
            let verdict = redirected_to_tls(|listener, content| {
                let acceptor = tls_server(version, forger);
                serve(listener, move |stream| {
                    let (acceptor, content) = (acceptor.clone(), content.clone());
                    async move {
                        let Ok(mut stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        assert_eq!(stream.get_ref().1.server_name(), Some(NAME));
                        head(&mut stream).await;
                        let _ = stream.write_all(ok(&content).as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                });
            });
            // The handshake must still be signed by the key in the certificate.
            let expected = forger.then_some((ProblemType::Tls, false));
            assert_eq!(verdict.await.err().as_ref().map(kinds), expected);
        }
    }
}

#[tokio::test]
async fn c604_older_tls_and_what_is_no_tls_at_all_are_tls_failures() {
    let plain = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    for answer in [server_hello(2, "http/1.1"), plain.to_vec()] {
        let verdict = redirected_to_tls(|listener, _| {
            serve(listener, move |mut stream| {
                let answer = answer.clone();
                async move {
                    stream.write_all(&answer).await.unwrap();
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                }
            });
        });
        let failure = verdict.await.unwrap_err();
        assert_eq!(kinds(&failure), (ProblemType::Tls, false), "{failure:?}");
    }
}

#[tokio::test]
async fn c610_only_a_dial_error_falls_back_to_ipv4() {
    let (port, [v6, web]) = listeners(["::1", "127.0.0.2"]).await;
    let dns = DnsServer::of(&[(NAME, &["::1", "127.0.0.2"])]).await;
    let attempt =
        Attempt::http01(dns.address, port).with(|settings| settings.allow.push("::1/128".parse().unwrap()));
    let content = attempt.key_authorization();
    http(web, move |_| ok(&content));
    // An answer over IPv6 is an answer, however wrong.
    let asked = http(v6, |_| "HTTP/1.1 404 Not Found\r\n\r\n".to_owned());
    assert_eq!(
        kinds(&attempt.fails().await),
        (ProblemType::IncorrectResponse, false)
    );
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[tokio::test]
async fn c610_a_dead_ipv6_address_does_not_stop_the_ipv4_one() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = DnsServer::of(&[(NAME, &["::1", "127.0.0.2"])]).await;
    let attempt =
        Attempt::http01(dns.address, port).with(|settings| settings.allow.push("::1/128".parse().unwrap()));
    let content = attempt.key_authorization();
    http(web, move |_| ok(&content));
    attempt.run().await.unwrap();
}
