//! DNS as it comes (SECURITY 1.2 T3), and dialling (C610, C611).

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::*;
use crate::validate::testing::Answer;
use crate::validate::testing::DnsServer;
use crate::validate::testing::assert_untouched;
use crate::validate::testing::listeners;
use crate::validate::testing::settings;

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

async fn addresses_of(
    answer: impl Fn(&str, RecordType) -> Answer + Send + Sync + 'static,
) -> Result<Vec<IpAddr>, LookupFailure> {
    let dns = DnsServer::start(answer).await;
    let network = Network::new(&settings(&[dns.address], &[], 80)).unwrap();
    network.addresses(&"www.example.com".parse().unwrap()).await
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test]
async fn both_families_are_asked_for_and_ipv6_comes_first() {
    let addresses = addresses_of(|_, _| Answer::Addresses(ips(&["10.0.0.5", "10.0.0.6", "fd00::5"]))).await;
    assert_eq!(addresses, Ok(ips(&["fd00::5", "10.0.0.5", "10.0.0.6"])));
}

#[tokio::test]
async fn the_rooted_name_is_asked_for_and_no_search_list() {
    let dns = DnsServer::start(|_, _| Answer::NxDomain).await;
    let network = Network::new(&settings(&[dns.address], &[], 80)).unwrap();
    let failure = network.addresses(&"www.example.com".parse().unwrap()).await;
    assert_eq!(failure, Err(LookupFailure::NoSuchName));
    let names: Vec<String> = dns.names().iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(names, ["www.example.com.", "www.example.com."]);
}

#[tokio::test]
async fn no_failure_is_taken_for_the_absence_of_a_name() {
    let table = [
        (Answer::NxDomain, LookupFailure::NoSuchName),
        (Answer::NoRecords, LookupFailure::NoAddress),
    ];
    for (answer, failure) in table {
        assert_eq!(addresses_of(move |_, _| answer.clone()).await, Err(failure));
    }
    for answer in [Answer::ServFail, Answer::Refused, Answer::Silence] {
        // One family's "no" does not hide the other's failure.
        let failing = answer.clone();
        let mixed = addresses_of(move |_, kind| match kind {
            RecordType::A => failing.clone(),
            _ => Answer::NoRecords,
        });
        assert!(
            matches!(mixed.await, Err(LookupFailure::Unanswered(_))),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_family_that_fails_leaves_the_other_usable() {
    for answer in [Answer::ServFail, Answer::Silence, Answer::NoRecords] {
        let addresses = addresses_of(move |_, kind| match kind {
            RecordType::A => Answer::Addresses(ips(&["10.0.0.5"])),
            _ => answer.clone(),
        });
        assert_eq!(addresses.await, Ok(ips(&["10.0.0.5"])));
    }
}

#[tokio::test]
async fn a_server_that_fails_is_passed_over_and_one_that_says_no_is_believed() {
    let good = DnsServer::of(&[("www.example.com", &["10.0.0.5"])]).await;
    let cases = [
        (Answer::ServFail, true),
        (Answer::Refused, true),
        (Answer::Silence, true),
        (Answer::NxDomain, false),
    ];
    for (answer, passed_over) in cases {
        let first = DnsServer::start(move |_, _| answer.clone()).await;
        let network = Network::new(&settings(&[first.address, good.address], &[], 80)).unwrap();
        let addresses = network.addresses(&"www.example.com".parse().unwrap()).await;
        assert_eq!(addresses.is_ok(), passed_over);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let addresses = addresses_of(|_, _| Answer::OverTcp(ips(&["10.0.0.5"]))).await;
    assert_eq!(addresses, Ok(ips(&["10.0.0.5"])));
}

#[tokio::test]
async fn the_letters_case_is_random_and_a_server_that_does_not_keep_it_is_asked_over_tcp() {
    let dns = DnsServer::start(|_, _| Answer::LowerCase(ips(&["10.0.0.5"]))).await;
    let network = Network::new(&settings(&[dns.address], &[], 80)).unwrap();
    let addresses = network.addresses(&"www.example.com".parse().unwrap()).await;
    assert_eq!(addresses, Ok(ips(&["10.0.0.5"])));
    assert!(dns.names().concat().chars().any(char::is_uppercase));
    assert_eq!(dns.names().len(), 4);
}

#[tokio::test]
async fn aliases_are_followed_over_one_answer_or_several_up_to_eight() {
    let one = |length: usize| {
        addresses_of(move |_, _| {
            let names = (1..=length).map(|n| format!("a{n}.example.com.")).collect();
            Answer::Aliased(names, ips(&["10.0.0.5"]))
        })
    };
    assert_eq!(one(8).await, Ok(ips(&["10.0.0.5"])));
    assert_eq!(one(9).await, Err(LookupFailure::TooManyAliases));
    let several = addresses_of(|name, _| match name {
        "www.example.com" => Answer::Aliased(vec!["b.example.net.".to_owned()], vec![]),
        "b.example.net" => Answer::Aliased(vec!["c.example.net.".to_owned()], vec![]),
        _ => Answer::Addresses(ips(&["10.0.0.5"])),
    });
    assert_eq!(several.await, Ok(ips(&["10.0.0.5"])));
}

#[tokio::test]
async fn an_alias_loop_ends() {
    let failure = addresses_of(|name, _| match name {
        "www.example.com" => Answer::Aliased(vec!["b.example.com.".to_owned()], vec![]),
        _ => Answer::Aliased(vec!["www.example.com.".to_owned()], vec![]),
    });
    assert!(failure.await.is_err());
}

#[tokio::test]
async fn an_address_of_another_name_in_the_answer_does_not_count() {
    let other = |own: &'static [&str]| {
        addresses_of(move |_, _| {
            let foreign = IpAddr::from([10, 6, 6, 6]);
            Answer::Foreign("evil.example.com.".to_owned(), foreign, ips(own))
        })
    };
    assert_eq!(other(&["10.0.0.5"]).await, Ok(ips(&["10.0.0.5"])));
    assert!(other(&[]).await.is_err());
}

#[tokio::test]
async fn nothing_is_cached() {
    let count = AtomicUsize::new(0);
    let dns = DnsServer::start(move |_, _| {
        let n = count.fetch_add(1, Ordering::Relaxed) / 2;
        Answer::Addresses(vec![IpAddr::from([10, 0, 0, n as u8])])
    })
    .await;
    let network = Network::new(&settings(&[dns.address], &[], 80)).unwrap();
    let name = "www.example.com".parse().unwrap();
    assert_ne!(network.addresses(&name).await, network.addresses(&name).await);
}

#[tokio::test]
async fn c610_a_dead_ipv6_address_falls_back_to_ipv4() {
    let (port, [_alive]) = listeners(["127.0.0.2"]).await;
    let network = Network::new(&settings(
        &["127.0.0.1:53".parse().unwrap()],
        &["127.0.0.2/32", "::1/128"],
        port,
    ))
    .unwrap();
    let stream = network
        .connect(&ips(&["::1", "127.0.0.2"]), port, deadline())
        .await
        .unwrap();
    assert_eq!(stream.peer_addr().unwrap().ip(), ips(&["127.0.0.2"])[0]);
}

#[tokio::test]
async fn c611_of_a_hundred_addresses_one_of_each_family_is_tried() {
    let (port, [canary]) = listeners(["127.0.0.200"]).await;
    let mut addresses: Vec<IpAddr> = (101..=199).map(|n| IpAddr::from([127, 0, 0, n])).collect();
    addresses.extend(ips(&["127.0.0.200", "::1"]));
    let records = addresses.clone();
    let dns = DnsServer::start(move |_, _| Answer::Addresses(records.clone())).await;
    let network = Network::new(&settings(&[dns.address], &["127.0.0.0/8", "::1/128"], port)).unwrap();
    let found = network
        .addresses(&"www.example.com".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(found.len(), 101);
    let failure = network.connect(&found, port, deadline()).await.unwrap_err();
    let ConnectFailure::Dial(tried) = failure else {
        panic!("{failure}");
    };
    let tried: Vec<IpAddr> = tried.iter().map(|failure| failure.address).collect();
    assert_eq!(tried, ips(&["::1", "127.0.0.101"]));
    assert_untouched(&canary).await;
}

#[tokio::test]
async fn the_systems_servers_are_used_by_default() {
    // A machine without any says so; either way nothing is asked yet.
    match Network::new(&Settings::default()) {
        Ok(network) => assert!(!network.servers.is_empty()),
        Err(error) => assert!(error.to_string().contains("validation.resolvers")),
    }
}
