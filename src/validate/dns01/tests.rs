//! C801 to C808, over real DNS packets on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use hickory_proto::op::Message;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::rdata::TXT;

use super::*;
use crate::acme::challenge::ChallengeType;
use crate::acme::challenge::Token;
use crate::validate::Validator;
use crate::validate::testing::Answer;
use crate::validate::testing::DnsServer;
use crate::validate::testing::Forgery;
use crate::validate::testing::settings;

mod lookups;
mod packets;
mod values;

const PLACE: &str = "_acme-challenge.www.example.com";
const TOKEN_AND_THUMBPRINT: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";
const MARKER: &str = "INTERNAL-SECRET-MARKER";

fn right() -> String {
    digest(TOKEN_AND_THUMBPRINT)
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(format!("{owner}.")).unwrap(), 300, data)
}

/// A TXT record of several strings.
fn strings(owner: &str, strings: &[&[u8]]) -> Record {
    record(owner, RData::TXT(TXT::from_bytes(strings.to_vec())))
}

fn txt(owner: &str, value: &str) -> Record {
    strings(owner, &[value.as_bytes()])
}

fn cname(owner: &str, target: &str) -> Record {
    let target = Name::from_ascii(format!("{target}.")).unwrap();
    record(owner, RData::CNAME(CNAME(target)))
}

/// One attempt with these servers.
async fn attempt(resolvers: &[SocketAddr], identifier: &str) -> Result<(), Failure> {
    let validator = Validator::new(settings(resolvers, &[], 80)).unwrap();
    let identifier = match identifier.parse() {
        Ok(address) => Identifier::Ip(address),
        Err(_) => Identifier::dns(identifier).unwrap(),
    };
    let token = Token::random();
    let verdict = validator.validate(ChallengeType::Dns01, &identifier, &token, TOKEN_AND_THUMBPRINT);
    let verdict = verdict.await;
    if let Err(failure) = &verdict {
        let told = serde_json::to_string(&failure.problem).unwrap();
        assert!(!told.contains(MARKER), "{told}");
        assert!(
            !failure.detail.chars().any(char::is_control),
            "{}",
            failure.detail
        );
    }
    verdict
}

/// One attempt at www.example.com.
async fn answered(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Result<(), Failure> {
    let dns = DnsServer::start(move |name, _| answer(name)).await;
    attempt(&[dns.address], "www.example.com").await
}

/// One attempt at www.example.com, whatever is asked for.
async fn always(answer: Answer) -> Result<(), Failure> {
    answered(move |_| answer.clone()).await
}

fn kinds(verdict: Result<(), Failure>) -> (ProblemType, bool) {
    let failure = verdict.unwrap_err();
    (failure.problem.kind, failure.transient)
}

const DNS: (ProblemType, bool) = (ProblemType::Dns, true);
const WRONG: (ProblemType, bool) = (ProblemType::IncorrectResponse, true);

#[tokio::test]
async fn the_digest_at_its_place_proves_control() {
    let dns = DnsServer::start(|name, kind| match (name, kind) {
        (PLACE, RecordType::TXT) => Answer::Records(vec![txt(PLACE, &right())]),
        _ => Answer::NxDomain,
    })
    .await;
    attempt(&[dns.address], "www.example.com").await.unwrap();
    let names: Vec<String> = dns.names().iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(names, [format!("{PLACE}.")], "one query, for the rooted name");
    assert!(dns.names().concat().chars().any(char::is_uppercase), "0x20");
    // Made with openssl and basenc.
    assert_eq!(right(), "lCM7cZyQXcVHK2nnW3jjAhNT3Fvm18UN-kWZZknKoYM");
}

#[tokio::test]
async fn a_wildcard_and_its_base_name_have_a_record_each_at_one_place() {
    let place = "_acme-challenge.example.com";
    let dns = DnsServer::start(move |_, _| {
        let other = digest("other.key-authorization");
        Answer::Records(vec![txt(place, &other), txt(place, &right())])
    })
    .await;
    for identifier in ["*.example.com", "example.com"] {
        attempt(&[dns.address], identifier).await.unwrap();
    }
    assert!(
        dns.names()
            .iter()
            .all(|name| name.to_lowercase() == format!("{place}."))
    );
}

#[tokio::test]
async fn rfc8738_section_7_an_address_fails_for_good_without_a_query() {
    let dns = DnsServer::start(|_, _| Answer::Records(vec![txt(PLACE, &right())])).await;
    for address in ["192.0.2.1", "2001:db8::1"] {
        let verdict = attempt(&[dns.address], address).await;
        assert_eq!(kinds(verdict), (ProblemType::Malformed, false));
    }
    assert!(dns.names().is_empty());
}

#[tokio::test]
async fn a_name_that_is_too_long_with_its_prefix_fails_for_good_without_a_query() {
    let dns = DnsServer::start(|_, _| Answer::NxDomain).await;
    let name = |length: usize| {
        let labels = "a2345678.".repeat(length / 9);
        format!("{labels}{}", "b".repeat(length - labels.len()))
    };
    let verdict = attempt(&[dns.address], &name(238)).await;
    assert_eq!(kinds(verdict), (ProblemType::Dns, false));
    assert!(dns.names().is_empty());
    assert_eq!(kinds(attempt(&[dns.address], &name(237)).await), DNS);
    assert_eq!(dns.names().len(), 1);
}

#[tokio::test]
async fn nothing_is_cached_a_second_attempt_sees_a_new_record_at_once() {
    let records = Arc::new(Mutex::new(Answer::NxDomain));
    let answers = records.clone();
    let dns = DnsServer::start(move |_, _| answers.lock().unwrap().clone()).await;
    let validator = Validator::new(settings(&[dns.address], &[], 80)).unwrap();
    let name = Identifier::dns("www.example.com").unwrap();
    let token = Token::random();
    let changes = [
        (Answer::NxDomain, false),
        (Answer::NoRecords, false),
        (Answer::Records(vec![txt(PLACE, "old")]), false),
        (Answer::Records(vec![txt(PLACE, &right())]), true),
        (Answer::Records(vec![txt(PLACE, "new")]), false),
        (Answer::ServFail, false),
    ];
    for (change, valid) in changes {
        *records.lock().unwrap() = change.clone();
        let verdict = validator
            .validate(ChallengeType::Dns01, &name, &token, TOKEN_AND_THUMBPRINT)
            .await;
        assert_eq!(verdict.is_ok(), valid, "{change:?}");
    }
}

#[tokio::test]
async fn of_several_servers_one_that_fails_is_passed_over_and_one_that_says_no_is_believed() {
    let good = DnsServer::start(|_, _| Answer::Records(vec![txt(PLACE, &right())])).await;
    let cases = [
        (Answer::ServFail, true),
        (Answer::Refused, true),
        (Answer::Silence, true),
        (Answer::Code(ResponseCode::FormErr, vec![]), true),
        (Answer::NxDomain, false),
        (Answer::NoRecords, false),
    ];
    for (answer, passed_over) in cases {
        let first = DnsServer::start(move |_, _| answer.clone()).await;
        let verdict = attempt(&[first.address, good.address], "www.example.com").await;
        assert_eq!(verdict.is_ok(), passed_over);
    }
}
