//! What holds for every validator, and for the two that connect to the host: C601.

use super::*;
use crate::validate::testing::Answer;
use crate::validate::testing::Attempt;
use crate::validate::testing::DnsServer;
use crate::validate::testing::FORBIDDEN;
use crate::validate::testing::assert_untouched;
use crate::validate::testing::kinds;
use crate::validate::testing::listeners;
use crate::validate::testing::zone;

/// The challenges that are answered by the host itself.
const AT_THE_HOST: [ChallengeType; 2] = [ChallengeType::Http01, ChallengeType::TlsAlpn01];

#[tokio::test]
async fn a_resolver_that_answers_with_an_error_is_alive_and_a_silent_one_is_not() {
    for (answer, alive) in [
        (Answer::ServFail, true),
        (Answer::NxDomain, true),
        (Answer::Silence, false),
    ] {
        let dns = DnsServer::start(move |_, _| answer.clone()).await;
        let validator = Validator::new(Settings {
            resolvers: vec![dns.address],
            ..Settings::default()
        })
        .unwrap();
        assert_eq!(validator.resolver_answers().await, alive);
    }
}
#[tokio::test]
async fn c601_forbidden_addresses_are_not_connected_to_be_they_a_names_or_ordered_themselves() {
    let (port, [canary, canary6]) = listeners(["127.0.0.1", "::1"]).await;
    for address in FORBIDDEN {
        let dns = zone(address).await;
        for kind in AT_THE_HOST {
            let name = Attempt::by(kind, dns.address, port);
            let itself = Attempt::by(kind, dns.address, port).of_address(address);
            for attempt in [name, itself] {
                let failure = attempt.fails().await;
                assert_eq!(
                    kinds(&failure),
                    (ProblemType::Connection, false),
                    "{kind}: {address}"
                );
                assert!(failure.problem.detail.contains("may not be validated"));
            }
        }
    }
    assert_untouched(&canary).await;
    assert_untouched(&canary6).await;
}

#[tokio::test]
async fn a_closed_port_may_open() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    drop(web);
    let dns = zone("127.0.0.2").await;
    for kind in AT_THE_HOST {
        let failure = Attempt::by(kind, dns.address, port).fails().await;
        assert_eq!(kinds(&failure), (ProblemType::Connection, true), "{kind}");
        assert!(
            failure
                .problem
                .detail
                .contains("127.0.0.2 refused the connection"),
            "{failure:?}"
        );
    }
}
