//! `acme-proxy policy explain` says what the server does, and which rule it is.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use acme_proxy::app::control::{NewKey, No, Question, Request};
use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::key::{b64, unb64};
use crate::harness::process::text;
use crate::harness::server::{Daemon, Plan};
use crate::harness::world::World;
use crate::policy::{moved, under};
use crate::rfc8555::s7_3_4_external_account::bound;

const MAC_KEY: [u8; 32] = *b"an external account key of 32 B.";

/// Names to ask for, good ones and bad ones.
const NAMES: [&str; 16] = [
    "www.example.com",
    "WWW.Example.COM",
    "mail.example.com",
    "secret.example.com",
    "*.example.com",
    "*.dev.example.com",
    "a.dev.example.com",
    "a.b.dev.example.com",
    "example.com",
    "www.example.org",
    "evilexample.com",
    "127.0.0.1",
    "127.9.0.1",
    "192.0.2.1",
    "a..b",
    "a_b.example.com",
];

/// Whether an order for the name would be taken, and what is printed.
async fn explained(daemon: &Daemon, question: Question) -> (bool, String) {
    match daemon.control(Request::ExplainPolicy(question)).await {
        Ok(text) => (true, text),
        Err(error) => match error.downcast::<No>() {
            Ok(No(text)) => (false, text),
            Err(error) => panic!("{error:#}"),
        },
    }
}

/// Asks for an order, and asks what would become of it; both must say the same, to the letter.
async fn compare(daemon: &Daemon, client: &Client, address: [u8; 4], name: &str) -> (bool, String) {
    let there = moved(client, address);
    let question = Question {
        name: name.to_owned(),
        account: client.kid.clone(),
        eab: None,
        provisioner: Some("acme".to_owned()),
        from: Some(IpAddr::V4(Ipv4Addr::from(address))),
    };
    let (allowed, text) = explained(daemon, question).await;
    let kind = if name.parse::<IpAddr>().is_ok() {
        "ip"
    } else {
        "dns"
    };
    let answer = there.ask_order_of(kind, &[name]).await;
    assert_eq!(allowed, answer.status == 201, "{name}: {text}{}", answer.shown());
    if !allowed {
        let problem = answer.json();
        let urn = problem["type"].as_str().unwrap();
        let kind = urn.rsplit(':').next().unwrap();
        let line = format!(
            "\n  answer: {} {kind}: {}\n",
            answer.status,
            problem["detail"].as_str().unwrap()
        );
        assert!(text.contains(&line), "{name}: {text}{}", answer.shown());
    }
    (allowed, text)
}

fn policies() -> [Value; 7] {
    [
        json!({}),
        json!({ "x509": { "allow": { "dns": ["*.example.com"], "ip": ["127.0.0.0/8"] } } }),
        json!({ "x509": { "deny": { "dns": ["secret.example.com"], "cn": ["mail.example.com"], "ip": ["192.0.2.0/24"] } } }),
        json!({ "x509": {
            "allow": { "dns": ["*.example.com", "*.dev.example.com"] }, "allowWildcardNames": true,
            "deny": { "dns": ["www.example.com"] },
        } }),
        json!({ "clients": { "deny": ["127.0.0.2"] } }),
        json!({ "clients": { "allow": ["127.0.0.2"] }, "x509": { "allow": { "dns": ["www.example.com"] } } }),
        json!({ "per_name": [{ "days": 30 }, { "orders": 5, "within": "1h" }] }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c413_h8_what_is_explained_is_what_the_server_does_for_all_names_and_levels() {
    let (mut allowed, mut refused) = (0, 0);
    for (round, general) in policies().into_iter().enumerate() {
        let own = &policies()[(round + 2) % 7];
        let of_key = &policies()[(round * 3 + 1) % 7];
        let daemon = Daemon::start_with(Plan {
            policy: Some(general),
            provisioner: Some(json!({
                "challenges": ["http-01", "dns-01"],
                "policy": own,
                "eabKeys": [{ "kid": "team", "hmacKey": b64(MAC_KEY), "policy": of_key }],
            })),
            ..Plan::default()
        })
        .await;
        // Somebody who may call from one address at least.
        for address in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let stranger = moved(&Client::stranger(&daemon.site), address);
            let url = stranger.site.url("new-account");
            let answer = stranger.post(&url, json!({})).await;
            let free = (answer.status == 201)
                .then(|| Client::new(&stranger.site, stranger.key.clone(), Some(answer.location())));
            if let Some(client) = free {
                for name in NAMES {
                    match compare(&daemon, &client, address, name).await.0 {
                        true => allowed += 1,
                        false => refused += 1,
                    }
                }
                compare(&daemon, &client, [127, 0, 0, 3], NAMES[0]).await;
            }
        }
        if !of_key["clients"].is_object() && round < 4 && !own["clients"].is_object() {
            let client = bound(&daemon, "team", &MAC_KEY).await;
            for name in NAMES {
                let (_, text) = compare(&daemon, &client, [127, 0, 0, 1], name).await;
                assert!(text.contains(", by external account key team\n"), "{text}");
            }
        }
    }
    assert!(
        allowed > 40 && refused > 40,
        "{allowed} allowed, {refused} refused"
    );
}

#[tokio::test]
async fn h8_rules_about_clients_that_are_not_asked_are_named() {
    let daemon = under(json!({ "clients": { "deny": ["127.0.0.2"] } })).await;
    let of = |from: Option<[u8; 4]>| Question {
        name: "www.example.com".to_owned(),
        provisioner: Some("acme".to_owned()),
        from: from.map(IpAddr::from),
        ..Question::default()
    };
    let hint = "  authority.policy, client: not asked; say --from ADDRESS\n";
    let (allowed, text) = explained(&daemon, of(None)).await;
    assert!(allowed && text.contains(hint), "{text}");
    let (allowed, text) = explained(&daemon, of(Some([127, 0, 0, 1]))).await;
    assert!(allowed && !text.contains("not asked"), "{text}");
}

#[tokio::test]
async fn h17_the_count_and_the_next_time_are_explained() {
    let daemon = under(json!({ "per_name": [{ "orders": 1, "within": "24h" }] })).await;
    let client = daemon.account().await;
    let (allowed, text) = compare(&daemon, &client, [127, 0, 0, 1], "www.example.com").await;
    assert!(
        allowed && text.contains("  orders: 0 of 1 orders within 24 h, by authority.policy.per_name[0]\n"),
        "{text}"
    );
    client.issue(&daemon, &["www.example.com"]).await;
    let question = Question {
        name: "www.example.com".to_owned(),
        provisioner: Some("acme".to_owned()),
        ..Question::default()
    };
    let (allowed, text) = explained(&daemon, question).await;
    assert!(!allowed, "{text}");
    for part in [
        "www.example.com: refused\n  answer: 429 rateLimited: www.example.com has had 1 orders within 24 h; try again in ",
        "  orders: 1 of 1 orders within 24 h, by authority.policy.per_name[0]; the next one at ",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn h8_a_revoked_key_and_a_deactivated_account_are_explained() {
    let daemon = Daemon::start_with(Plan {
        provisioner: Some(json!({ "eabKeys": [{ "kid": "team", "hmacKey": b64(MAC_KEY) }] })),
        ..Plan::default()
    })
    .await;
    let client = bound(&daemon, "team", &MAC_KEY).await;
    let other = daemon.account().await;
    other
        .post(other.kid(), json!({ "status": "deactivated" }))
        .await
        .expect(200);
    let daemon = daemon
        .restart_with(|file| file["authority"]["provisioners"][0]["eabKeys"] = json!([]))
        .await;
    let client = client.clone();
    compare(&daemon, &client, [127, 0, 0, 1], "www.example.com").await;
    compare(&daemon, &other.clone(), [127, 0, 0, 1], "www.example.com").await;
}

#[tokio::test]
async fn a_key_of_the_store_has_its_networks_days_and_orders() {
    let daemon = Daemon::start_with(Plan {
        provisioner: Some(json!({ "requireEAB": true })),
        ..Plan::default()
    })
    .await;
    let new = NewKey {
        kid: Some("team".to_owned()),
        from: vec!["127.0.0.1".to_owned(), "10.0.0.0/8".to_owned()],
        days: Some(30),
        orders: Some((1, Duration::from_hours(24))),
        ..NewKey::default()
    };
    let added = daemon.control(Request::AddKey(new.clone())).await.unwrap();
    let key = unb64(added.trim().rsplit(' ').next().unwrap());
    let client = bound(&daemon, "team", &key).await;
    for (address, name, allowed, part) in [
        (
            [127, 0, 0, 1],
            "www.example.com",
            true,
            "  days: at most 30, by external account key team: per_name[0]\n",
        ),
        (
            [127, 0, 0, 2],
            "www.example.com",
            false,
            "your address, 127.0.0.2 (external account key team: clients.allow)\n",
        ),
    ] {
        let (answer, text) = compare(&daemon, &client, address, name).await;
        assert!(answer == allowed && text.contains(part), "{text}");
    }
    // The CA takes no dates, so there is no certificate for days of the key's.
    let order = client.finalized(&daemon, &["www.example.com"]).await;
    client.until(&order.url, "invalid").await;
    let list = daemon.control(Request::ListKeys).await.unwrap();
    let lines = "  clients: only 127.0.0.1/32, 10.0.0.0/8\n  limit: at most 30 days and 1 orders within 24 h for each name\n";
    assert!(list.contains(lines), "{list}");
    for (wrong, told) in [
        (
            NewKey {
                from: vec!["10.0.0.1/8".to_owned()],
                ..new.clone()
            },
            "\"10.0.0.1/8\" has bits set beyond its prefix length",
        ),
        (
            NewKey {
                from: vec!["10.0.0.0/8".to_owned(), "abc".to_owned()],
                ..new.clone()
            },
            "\"abc\" is no network; write e.g. \"10.0.0.0/8\"",
        ),
        (
            NewKey {
                from: vec!["::ffff:10.0.0.0/104".to_owned()],
                ..new.clone()
            },
            "\"::ffff:10.0.0.0/104\" is IPv4 inside IPv6; write it as IPv4",
        ),
        (
            NewKey {
                days: Some(0),
                ..new.clone()
            },
            "write 1 or more",
        ),
        (
            NewKey {
                orders: Some((0, Duration::from_hours(1))),
                ..new.clone()
            },
            "write 1 or more",
        ),
        (
            NewKey {
                orders: Some((1, Duration::from_hours(721))),
                ..new.clone()
            },
            "720h at most",
        ),
    ] {
        let error = daemon.control(Request::AddKey(wrong)).await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

/// What an account of a key could order is known before there is one, and stays the same when there is.
#[tokio::test]
async fn h8_what_a_key_would_allow_is_explained_before_it_has_an_account() {
    let daemon = Daemon::start_with(Plan {
        provisioner: Some(json!({ "requireEAB": true, "eabKeys": [
            { "kid": "team", "hmacKey": b64(MAC_KEY), "policy": { "x509": { "allow": { "dns": ["*.example.com"] } } } },
        ] })),
        ..Plan::default()
    })
    .await;
    let of_key = async |kid: &str, name: &str| {
        let question = Question {
            name: name.to_owned(),
            eab: Some(kid.to_owned()),
            ..Question::default()
        };
        explained(&daemon, question).await
    };
    let without_whose = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("  account: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut before = Vec::new();
    for (name, expected) in [("www.example.com", true), ("www.example.org", false)] {
        let (allowed, text) = of_key("team", name).await;
        assert_eq!(allowed, expected, "{text}");
        for part in [
            "  account: a new one, by external account key team\n",
            "by authority.provisioners[0].eabKeys[0].policy",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        before.push(without_whose(&text));
    }
    let client = bound(&daemon, "team", &MAC_KEY).await;
    for (name, before) in ["www.example.com", "www.example.org"].iter().zip(before) {
        let question = Question {
            name: (*name).to_owned(),
            account: client.kid.clone(),
            ..Question::default()
        };
        let (_, text) = explained(&daemon, question).await;
        assert_eq!(without_whose(&text), before);
    }

    let once = NewKey {
        kid: Some("once".to_owned()),
        one_time: true,
        ..NewKey::default()
    };
    let added = daemon.control(Request::AddKey(once)).await.unwrap();
    let mac_key = unb64(added.trim().rsplit(' ').next().unwrap());
    assert!(of_key("once", "www.example.com").await.0);
    bound(&daemon, "once", &mac_key).await;
    let (allowed, text) = of_key("once", "www.example.com").await;
    assert!(
        !allowed
            && text.contains("  answer: 403 unauthorized: the external account key has been used already"),
        "{text}"
    );
    let gone = NewKey {
        kid: Some("gone".to_owned()),
        ..NewKey::default()
    };
    daemon.control(Request::AddKey(gone)).await.unwrap();
    let revoke = Request::RevokeKey {
        kid: "gone".to_owned(),
        provisioner: None,
    };
    daemon.control(revoke).await.unwrap();
    let (allowed, text) = of_key("gone", "www.example.com").await;
    assert!(
        !allowed && text.contains("  answer: 403 unauthorized: the external account key was revoked\n"),
        "{text}"
    );
    for kid in ["none", "no kid"] {
        let question = Question {
            name: "www.example.com".to_owned(),
            eab: Some(kid.to_owned()),
            ..Question::default()
        };
        let error = daemon
            .control(Request::ExplainPolicy(question))
            .await
            .unwrap_err();
        let told = format!("provisioner acme has no external account key {kid:?}");
        assert!(error.to_string().starts_with(&told), "{error}");
    }
}

/// What the command prints, on its standard output and error, and its exit code.
async fn runs(world: &World, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = world
        .installation
        .run(|command| {
            command
                .args(["policy", "explain"])
                .args(arguments)
                .arg(world.installation.config());
        })
        .await;
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[tokio::test]
async fn the_command_prints_the_same_with_and_without_a_daemon_and_its_exit_code_is_the_answer() {
    let world = World::new().await;
    world.installation.edit(|config| {
        config["authority"]["policy"] = json!({
            "x509": { "allow": { "dns": ["*.example.com"] }, "deny": { "dns": ["a.example.com", "b.example.com"] } },
            "clients": { "allow": ["10.0.0.0/8"] },
            "per_name": [{ "dns": ["www.example.com"], "days": 30 }],
        });
    });
    let questions: [(&[&str], i32, &str); 7] = [
        (
            &["www.example.com"],
            0,
            "www.example.com: allowed\n  provisioner: acme\n  \
             authority.policy: allowed by authority.policy.x509.allow.dns[0] \"*.example.com\"\n  \
             authority.policy, client: not asked; say --from ADDRESS\n  \
             authority.provisioners[0].policy: no rules\n  challenges: http-01\n  upstream: default\n  \
             days: at most 30, by authority.policy.per_name[0]\n",
        ),
        (
            &["b.example.com", "--from", "10.1.2.3"],
            3,
            "b.example.com: refused\n  answer: 400 rejectedIdentifier: b.example.com: the policy of this server denies this \
             identifier (authority.policy.x509.deny.dns[1])\n  provisioner: acme\n  \
             authority.policy: refused by authority.policy.x509.deny.dns[1] \"b.example.com\": the policy of this server \
             denies this identifier\n  \
             authority.policy, client: allowed by authority.policy.clients.allow[0] \"10.0.0.0/8\"\n  \
             authority.provisioners[0].policy: no rules\n",
        ),
        (
            &["*.example.com"],
            3,
            "(authority.policy.x509.allowWildcardNames)",
        ),
        (&["192.0.2.1"], 3, "(authority.policy.x509.allow.ip)"),
        (
            &["www.example.com", "--from", "192.0.2.1"],
            3,
            "answer: 403 unauthorized: the policy of this server does not allow your address, 192.0.2.1 \
             (authority.policy.clients.allow)\n",
        ),
        (
            &["a_b.example.com"],
            3,
            "answer: 400 malformed: a_b.example.com: ",
        ),
        (&["localhost"], 3, "answer: 400 malformed: localhost: "),
    ];
    let complaints: [(&[&str], &str); 3] = [
        (
            &["www.example.com", "--account", "nobody"],
            "\"nobody\" is no account: write its id, which the list shows, or its URL",
        ),
        (
            &["www.example.com", "--account", "00112233445566778899aabbccddeeff"],
            "there is no account \"00112233445566778899aabbccddeeff\"",
        ),
        (
            &["www.example.com", "--provisioner", "nobody"],
            "there is no provisioner \"nobody\"; there are: acme",
        ),
    ];
    let (_, unmade, _) = runs(&world, &["www.example.com"]).await;
    assert!(unmade.contains("there is no store"), "{unmade}");
    let mut first = world.installation.start();
    first.serves().await;
    first.stop().await;
    let mut daemon = None;
    for _ in 0..2 {
        for (arguments, code, expected) in questions {
            let (out, error, exit) = runs(&world, arguments).await;
            assert_eq!(exit, Some(code), "{arguments:?}: {out}{error}");
            assert!(out.contains(expected), "{arguments:?}: {out}");
        }
        for (arguments, expected) in complaints {
            let (out, error, exit) = runs(&world, arguments).await;
            assert_eq!((exit, out.as_str()), (Some(2), ""), "{arguments:?}: {error}");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
        let (_, error, exit) = runs(&world, &["www.example.com", "--from", "here"]).await;
        assert_eq!(exit, Some(1), "{error}");
        if daemon.is_none() {
            let mut started = world.installation.start();
            started.serves().await;
            daemon = Some(started);
        }
    }
}
