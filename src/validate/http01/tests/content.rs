//! What a host answers: C605 to C609, C612, C613.

use super::*;

/// One attempt against a server that sends the head and then as many chunks as are wanted; of at most a second if there
/// are pauses (in milliseconds) between them.
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
    let budget = Duration::from_secs(if pause == 0 { 10 } else { 1 });
    let attempt = Attempt::http01(dns.address, port).with(|settings| settings.timeout = budget);
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
        // By the cap, not by the deadline.
        assert!(failure.detail.contains("more than 512 bytes"), "{failure:?}");
    }
}

#[tokio::test]
async fn c605_nothing_is_decompressed() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    serve(web, |mut stream| async move {
        assert!(!head(&mut stream).await.contains("accept-encoding"));
        let packed = [
            0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 4, 0, 0x43, 0xbe, 0xb7, 0xe8, 1, 0, 0, 0,
        ];
        let answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 21\r\n\r\n";
        stream
            .write_all(&[answer.as_slice(), &packed].concat())
            .await
            .unwrap();
    });
    let failure = Attempt::http01(dns.address, port).fails().await;
    assert_eq!(kinds(&failure), (ProblemType::IncorrectResponse, false));
    assert!(failure.detail.contains("of 21 bytes"), "{failure:?}");
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
    // By the cap on bytes, not by the deadline.
    assert!(!failure.detail.contains("in time"), "{}", failure.detail);
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
async fn c608_hosts_behind_a_redirect_can_not_be_told_apart() {
    let (port, [web, inside]) = listeners(["127.0.0.2", "127.0.0.3"]).await;
    let dns = zone("127.0.0.2").await;
    http(web, |_| moved(302, "http://127.0.0.3/"));
    let answers = Arc::new(Mutex::new(String::new()));
    let answer = answers.clone();
    http(inside, move |_| answer.lock().unwrap().clone());
    let attempt = |inside: &str| {
        let inside = inside.parse().unwrap();
        Attempt::http01(dns.address, port).with(|settings| settings.allow.push(inside))
    };
    let mut told = Vec::new();
    for answer in [
        ok(MARKER),
        format!("HTTP/1.1 500 {MARKER}\r\n\r\n"),
        "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
        ok(&MARKER.repeat(100)),
    ] {
        *answers.lock().unwrap() = answer;
        told.push(attempt("127.0.0.3/32").fails().await.problem);
    }
    assert_eq!(told[0].kind, ProblemType::IncorrectResponse);
    assert!(told.iter().all(|problem| *problem == told[0]), "{told:?}");
    told.clear();
    // Another protocol, a connection that breaks, a closed port, an address that is refused.
    for answer in ["SSH-2.0-INTERNAL-SECRET-MARKER\r\n", ""] {
        *answers.lock().unwrap() = answer.to_owned();
        told.push(attempt("127.0.0.3/32").fails().await.problem);
    }
    told.push(attempt("127.0.0.4/32").fails().await.problem);
    assert_eq!(told[0].kind, ProblemType::Connection);
    assert!(told.iter().all(|problem| *problem == told[0]), "{told:?}");
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
            let failure = Attempt::http01(dns.address, port).fails().await;
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
            Attempt::http01(dns.address, port).with(|settings| settings.timeout = Duration::from_secs(1));
        let failure = attempt.fails().await;
        assert_eq!(
            kinds(&failure),
            (ProblemType::Connection, true),
            "{opening:?}: {failure:?}"
        );
    }
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
            let attempt = Attempt::http01(dns.address, port).of(name);
            let failure = attempt
                .with(|settings| settings.timeout = Duration::from_secs(1))
                .fails()
                .await;
            assert_eq!(kinds(&failure), (ProblemType::Dns, true), "{name}: {failure:?}");
        }
    }
}
