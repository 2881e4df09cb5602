//! C601 to C613, over real DNS packets and real sockets on loopback: 127.0.0.2 is allowed, and nothing else is.

use std::net::SocketAddr;
use std::sync::Mutex;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::acme::challenge::ChallengeType;
use crate::validate::Validator;
use crate::validate::testing::Answer as DnsAnswer;
use crate::validate::testing::DnsServer;
use crate::validate::testing::assert_untouched;
use crate::validate::testing::head;
use crate::validate::testing::http;
use crate::validate::testing::listeners;
use crate::validate::testing::moved;
use crate::validate::testing::ok;
use crate::validate::testing::serve;
use crate::validate::testing::settings;

const NAME: &str = "www.example.com";
const MARKER: &str = "INTERNAL-SECRET-MARKER";

struct Attempt {
    settings: Settings,
    token: Token,
    name: String,
}

impl Attempt {
    fn new(resolver: SocketAddr, port: u16) -> Self {
        Self {
            settings: settings(&[resolver], &["127.0.0.2/32"], port),
            token: Token::random(),
            name: NAME.to_owned(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn of(self, name: &str) -> Self {
        let name = name.to_owned();
        Self { name, ..self }
    }

    fn key_authorization(&self) -> String {
        self.token
            .key_authorization("9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI")
    }

    async fn run(&self) -> Result<(), Failure> {
        let validator = Validator::new(self.settings.clone()).unwrap();
        let name = self.name.parse().unwrap();
        let verdict = validator
            .validate(
                ChallengeType::Http01,
                &name,
                &self.token,
                &self.key_authorization(),
            )
            .await;
        if let Err(failure) = &verdict {
            let told = serde_json::to_string(&failure.problem).unwrap();
            assert!(!told.contains(MARKER), "{told}");
            assert!(!failure.detail.contains(MARKER), "{}", failure.detail);
            assert!(
                !failure.detail.contains(self.token.as_str()),
                "{}",
                failure.detail
            );
            assert!(
                !failure.detail.chars().any(char::is_control),
                "{}",
                failure.detail
            );
        }
        verdict
    }

    async fn fails(&self) -> Failure {
        self.run().await.unwrap_err()
    }
}

fn kinds(failure: &Failure) -> (ProblemType, bool) {
    (failure.problem.kind, failure.transient)
}

async fn zone(port_owner: &str) -> DnsServer {
    DnsServer::of(&[(NAME, &[port_owner])]).await
}

/// One attempt against a server that answers each request with this text.
async fn answered(answer: impl Fn(&Attempt) -> String) -> Result<(), Failure> {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::new(dns.address, port);
    let text = answer(&attempt);
    http(web, move |_| text.clone());
    attempt.run().await
}

#[tokio::test]
async fn the_key_authorization_at_its_place_proves_control() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::new(dns.address, port);
    let (path, content) = (attempt.token.as_str().to_owned(), attempt.key_authorization());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    http(web, move |head| {
        seen.lock().unwrap().push(head.to_owned());
        ok(&content)
    });
    attempt.run().await.unwrap();
    let expected = format!(
        "GET /.well-known/acme-challenge/{path} HTTP/1.1\r\nhost: {NAME}\r\nuser-agent: {USER_AGENT}\r\n\
         accept: */*\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(*requests.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn c601_forbidden_addresses_of_the_name_are_not_connected_to() {
    let (port, [canary, canary6]) = listeners(["127.0.0.1", "::1"]).await;
    let addresses = [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
    ];
    for address in addresses {
        let dns = zone(address).await;
        let failure = Attempt::new(dns.address, port).fails().await;
        assert_eq!(kinds(&failure), (ProblemType::Connection, false), "{address}");
        assert!(failure.problem.detail.contains("may not be validated"));
    }
    assert_untouched(&canary).await;
    assert_untouched(&canary6).await;
}

#[tokio::test]
async fn c601_forbidden_addresses_behind_a_redirect_are_not_connected_to() {
    let (port, [web, canary, denied, canary6]) =
        listeners(["127.0.0.2", "127.0.0.1", "127.0.0.3", "::1"]).await;
    let dns = DnsServer::of(&[
        (NAME, &["127.0.0.2"]),
        ("inside.example.com", &["127.0.0.1", "::1"]),
        ("denied.example.com", &["127.0.0.3"]),
    ])
    .await;
    let location = Arc::new(Mutex::new(String::new()));
    let answer = location.clone();
    http(web, move |_| moved(302, &answer.lock().unwrap()));
    let hosts = [
        "127.0.0.1",
        "0.0.0.0",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "169.254.169.254",
        "127.0.0.3",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "foo.localhost",
        "inside.example.com",
        "denied.example.com",
    ];
    let attempt = Attempt::new(dns.address, port).with(|settings| {
        settings.allow.push("127.0.0.3/32".parse().unwrap());
        settings.deny.push("127.0.0.3/32".parse().unwrap());
    });
    for host in hosts {
        for scheme in ["http", "https"] {
            *location.lock().unwrap() = format!("{scheme}://{host}/{MARKER}");
            let validator = Validator::new(attempt.settings.clone()).unwrap();
            let name = NAME.parse().unwrap();
            let failure = validator
                .validate(ChallengeType::Http01, &name, &attempt.token, "x")
                .await
                .unwrap_err();
            assert_eq!(
                kinds(&failure),
                (ProblemType::Connection, false),
                "{scheme}://{host}"
            );
            // The client is not told where the redirect went.
            assert!(!failure.problem.detail.contains(MARKER));
            assert!(
                !failure.problem.detail.contains(host),
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
async fn c601_our_own_listener_is_not_connected_to() {
    let (port, [own]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    for listener in ["127.0.0.2", "0.0.0.0", "[::]"] {
        let attempt = Attempt::new(dns.address, port).with(|settings| {
            settings.allow = vec!["127.0.0.0/8".parse().unwrap()];
            settings.own_listeners = vec![format!("{listener}:{port}").parse().unwrap()];
        });
        assert_eq!(kinds(&attempt.fails().await), (ProblemType::Connection, false));
    }
    assert_untouched(&own).await;
}

#[tokio::test]
async fn c602_a_rebinding_name_is_looked_up_once_and_its_checked_address_dialled() {
    let (port, [web, canary]) = listeners(["127.0.0.2", "127.0.0.1"]).await;
    let count = Mutex::new(0);
    let dns = DnsServer::start(move |_, kind| {
        if kind != hickory_proto::rr::RecordType::A {
            return DnsAnswer::NoRecords;
        }
        let mut count = count.lock().unwrap();
        *count += 1;
        DnsAnswer::Addresses(vec![IpAddr::from([127, 0, 0, if *count == 1 { 2 } else { 1 }])])
    })
    .await;
    let attempt = Attempt::new(dns.address, port);
    let content = attempt.key_authorization();
    http(web, move |_| ok(&content));
    attempt.run().await.unwrap();
    assert_eq!(dns.queries(hickory_proto::rr::RecordType::A), 1);
    // The next look-up gives the other address: refused, not dialled.
    assert_eq!(kinds(&attempt.fails().await), (ProblemType::Connection, false));
    assert_untouched(&canary).await;
}

#[tokio::test]
async fn c603_redirects_of_each_followed_status_lead_to_the_content() {
    for status in [301, 302, 307, 308] {
        let (port, [web]) = listeners(["127.0.0.2"]).await;
        let dns = DnsServer::of(&[(NAME, &["127.0.0.2"]), ("b.example.com", &["127.0.0.2"])]).await;
        let attempt = Attempt::new(dns.address, port);
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
        let attempt = Attempt::new(dns.address, port);
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
fn tls_server(version: &'static rustls::SupportedProtocolVersion) -> tokio_rustls::TlsAcceptor {
    let mut parameters = rcgen::CertificateParams::new(vec!["other.example.net".to_owned()]).unwrap();
    let unknown_critical = rcgen::CustomExtension::new_acme_identifier(&[0; 32]);
    parameters.custom_extensions.push(unknown_critical);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let signing = provider.key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signing);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// An http server that redirects to https, and an https server made by the function on the TLS port.
async fn redirected_to_tls(serve_tls: impl FnOnce(TcpListener, String)) -> Result<(), Failure> {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let (tls_port, [tls]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::new(dns.address, port).with(|settings| settings.tls_port = tls_port);
    http(web, |_| moved(301, &format!("https://{NAME}/secure")));
    serve_tls(tls, attempt.key_authorization());
    attempt.run().await
}

#[tokio::test]
async fn c604_https_is_followed_without_verification_of_the_certificate() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let verdict = redirected_to_tls(|listener, content| {
            let acceptor = tls_server(version);
            serve(listener, move |stream| {
                let (acceptor, content) = (acceptor.clone(), content.clone());
                async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    assert_eq!(stream.get_ref().1.server_name(), Some(NAME));
                    head(&mut stream).await;
                    stream.write_all(ok(&content).as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            });
        });
        verdict.await.unwrap();
    }
}

#[tokio::test]
async fn c604_older_tls_and_what_is_no_tls_at_all_are_tls_failures() {
    // A ServerHello of TLS 1.1, and HTTP on the TLS port.
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    for answer in [hello, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()] {
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

/// One attempt, of at most a second, against a server that sends the head and then as many chunks as are wanted.
async fn streamed(head_text: &'static str, chunk: &'static str, pause: u64) -> (Failure, usize) {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let sent = Arc::new(Mutex::new(0));
    let counter = sent.clone();
    serve(web, move |mut stream| {
        let counter = counter.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(head_text.as_bytes()).await;
            while stream.write_all(chunk.as_bytes()).await.is_ok() {
                *counter.lock().unwrap() += chunk.len();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    });
    let attempt = Attempt::new(dns.address, port).with(|settings| settings.timeout = Duration::from_secs(1));
    let failure = attempt.fails().await;
    let sent = *sent.lock().unwrap();
    (failure, sent)
}

#[tokio::test]
async fn c605_content_without_end_is_read_up_to_the_cap_only() {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\u{1f}",
    ];
    for head in heads {
        let (failure, _) = streamed(head, "INTERNAL-SECRET-MARKER", 0).await;
        assert_eq!(
            kinds(&failure),
            (ProblemType::IncorrectResponse, false),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn c605_content_that_trickles_ends_with_the_budget() {
    let (failure, sent) = streamed("HTTP/1.1 200 OK\r\n\r\n", "x", 100).await;
    assert_eq!(
        kinds(&failure),
        (ProblemType::IncorrectResponse, false),
        "{failure:?}"
    );
    assert!(sent < MAX_BODY);
}

#[tokio::test]
async fn c605_chunks_and_their_trailers_are_content_as_any_other() {
    let chunked = |attempt: &Attempt| {
        let content = attempt.key_authorization();
        let (a, b) = content.split_at(10);
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\nX-Trailer: y\r\n\r\n",
            b.len()
        )
    };
    answered(chunked).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_informational_answers_or_header_fields_ends() {
    let (failure, _) = streamed("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0).await;
    assert_eq!(failure.problem.kind, ProblemType::Connection, "{failure:?}");
    let (failure, _) = streamed("HTTP/1.1 200 OK\r\n", "X: INTERNAL-SECRET-MARKER\r\n", 0).await;
    assert_eq!(failure.problem.kind, ProblemType::Connection, "{failure:?}");
    let one = "HTTP/1.1 100 Continue\r\n\r\n";
    answered(|attempt| one.to_owned() + &ok(&attempt.key_authorization()))
        .await
        .unwrap();
}

#[tokio::test]
async fn c606_any_other_status_is_an_incorrect_response() {
    for status in [201, 204, 206, 300, 301, 304, 401, 404, 500, 503] {
        let verdict = answered(|attempt| {
            let content = attempt.key_authorization();
            let length = if matches!(status, 204 | 304) {
                0
            } else {
                content.len()
            };
            format!(
                "HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n\r\n{}",
                &content[..length]
            )
        });
        let failure = verdict.await.unwrap_err();
        assert_eq!(
            kinds(&failure),
            (ProblemType::IncorrectResponse, false),
            "{status}"
        );
        assert!(failure.problem.detail.contains(&format!("status {status}")));
    }
}

#[tokio::test]
async fn c607_white_space_at_the_end_is_ignored_and_nothing_else() {
    let accepted: [fn(&str) -> String; 4] = [
        |content| content.to_owned(),
        |content| format!("{content}\r\n"),
        |content| format!("{content}\n"),
        |content| format!("{content} \t\r\n\r\n"),
    ];
    for content in accepted {
        answered(|attempt| ok(&content(&attempt.key_authorization())))
            .await
            .unwrap();
    }
    let refused: [fn(&str) -> String; 13] = [
        |_| String::new(),
        |content| format!("\u{feff}{content}"),
        |content| format!(" {content}"),
        |content| format!("{content}\u{a0}"),
        |content| format!("{content}\0"),
        |content| format!("{content}x"),
        |content| content.trim_end_matches('I').to_owned(),
        |content| format!("{}.other-thumbprint", content.split('.').next().unwrap()),
        |content| content.split('.').next().unwrap().to_owned(),
        |content| format!("<html>{content} {MARKER}</html>"),
        |content| content.to_lowercase(),
        |content| format!("\"{content}\""),
        |content| format!("{content}{}", " ".repeat(MAX_BODY)),
    ];
    for content in refused {
        let verdict = answered(|attempt| ok(&content(&attempt.key_authorization())));
        let failure = verdict.await.unwrap_err();
        assert_eq!(kinds(&failure), (ProblemType::IncorrectResponse, false));
    }
}

#[tokio::test]
async fn c608_what_was_fetched_is_never_told() {
    // `Attempt::run` looks for the marker in the problem document and in the log's detail.
    let answers = [
        format!("HTTP/1.1 200 {MARKER}\r\nServer: {MARKER}\r\nContent-Length: 22\r\n\r\n{MARKER}"),
        format!("HTTP/1.1 500 {MARKER}\r\nContent-Length: 22\r\n\r\n{MARKER}"),
        format!("{MARKER}\r\n{MARKER}\r\n\r\n"),
        format!("HTTP/1.1 {MARKER}\r\n\r\n"),
    ];
    for answer in answers {
        assert!(answered(|_| answer.clone()).await.is_err());
    }
}

#[tokio::test]
async fn c609_control_characters_reach_neither_the_client_nor_the_log() {
    for location in [
        "http://\u{1b}[31mred.example.com/",
        "/%1b%0d%0aX",
        "/\ta\u{202e}b",
    ] {
        let failure = answered(|_| moved(302, location)).await.unwrap_err();
        let texts = format!("{}{}", failure.problem.detail, failure.detail);
        assert!(
            !texts.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{texts:?}"
        );
    }
}

#[tokio::test]
async fn c610_only_a_dial_error_falls_back_to_ipv4() {
    let (port, [v6, web]) = listeners(["::1", "127.0.0.2"]).await;
    let dns = DnsServer::of(&[(NAME, &["::1", "127.0.0.2"])]).await;
    let attempt =
        Attempt::new(dns.address, port).with(|settings| settings.allow.push("::1/128".parse().unwrap()));
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
        Attempt::new(dns.address, port).with(|settings| settings.allow.push("::1/128".parse().unwrap()));
    let content = attempt.key_authorization();
    http(web, move |_| ok(&content));
    attempt.run().await.unwrap();
}

#[tokio::test]
async fn c612_other_protocols_are_connection_failures() {
    let banners: [&[u8]; 4] = [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"<html>an HTTP/0.9 page</html>",
        &[0x15, 3, 1, 0, 2, 2, 70],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for banner in banners {
        for speaks_first in [true, false] {
            let (port, [web]) = listeners(["127.0.0.2"]).await;
            let dns = zone("127.0.0.2").await;
            serve(web, move |mut stream| async move {
                if !speaks_first {
                    head(&mut stream).await;
                }
                stream.write_all(banner).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
            let failure = Attempt::new(dns.address, port).fails().await;
            assert_eq!(kinds(&failure), (ProblemType::Connection, false), "{failure:?}");
        }
    }
}

#[tokio::test]
async fn c613_silence_and_broken_connections_may_pass() {
    let openings: [Option<&str>; 4] = [
        None,
        Some(""),
        Some("HTTP/1.1 200 OK\r\nContent-Le"),
        Some("HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\nabc"),
    ];
    for opening in openings {
        let (port, [web]) = listeners(["127.0.0.2"]).await;
        let dns = zone("127.0.0.2").await;
        serve(web, move |mut stream| async move {
            head(&mut stream).await;
            match opening {
                None => std::future::pending().await,
                Some(opening) => {
                    stream.write_all(opening.as_bytes()).await.unwrap();
                    stream.set_zero_linger().unwrap();
                }
            }
        });
        let attempt =
            Attempt::new(dns.address, port).with(|settings| settings.timeout = Duration::from_secs(1));
        let failure = attempt.fails().await;
        assert_eq!(
            kinds(&failure),
            (ProblemType::Connection, true),
            "{opening:?}: {failure:?}"
        );
    }
}

#[tokio::test]
async fn a_closed_port_may_open() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    drop(web);
    let dns = zone("127.0.0.2").await;
    let failure = Attempt::new(dns.address, port).fails().await;
    assert_eq!(kinds(&failure), (ProblemType::Connection, true));
    assert!(
        failure
            .problem
            .detail
            .contains("127.0.0.2 refused the connection"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_dns_failure_may_pass_on_each_hop() {
    let answers = [
        DnsAnswer::NxDomain,
        DnsAnswer::NoRecords,
        DnsAnswer::ServFail,
        DnsAnswer::Silence,
    ];
    for answer in answers {
        let (port, [web]) = listeners(["127.0.0.2"]).await;
        http(web, |_| moved(302, "http://broken.example.com/"));
        let dns = DnsServer::start(move |name, _| match name {
            NAME => DnsAnswer::Addresses(vec![IpAddr::from([127, 0, 0, 2])]),
            _ => answer.clone(),
        })
        .await;
        for name in [NAME, "broken.example.com"] {
            let attempt = Attempt::new(dns.address, port).of(name);
            let failure = attempt
                .with(|settings| settings.timeout = Duration::from_secs(1))
                .fails()
                .await;
            assert_eq!(kinds(&failure), (ProblemType::Dns, true), "{name}: {failure:?}");
        }
    }
}
