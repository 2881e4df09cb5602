//! Orders that end while the CA may have their CSR (UPSTREAM rule 4, SECURITY F48).

use super::*;

const NAMES: [&str; 1] = ["a.example.com"];

fn opened() -> Order {
    finalized(ready(&NAMES), &NAMES).opened_upstream(at_ca("one"))
}

#[test]
fn f48_only_an_order_that_was_opened_at_the_ca_is_waited_for_after_its_end() {
    for unopened in [order(&NAMES), ready(&NAMES), finalized(ready(&NAMES), &NAMES)] {
        let ended = unopened.ended(dns_problem(), at(5), LIFETIME);
        assert!(ended.outstanding().is_none() && !ended.may_hand_over());
        assert_eq!(ended.in_line_since(), None);
    }
    let ended = opened().ended(dns_problem(), at(5), LIFETIME);
    assert_eq!(ended.status(at(6)), OrderStatus::Invalid);
    assert_eq!(ended.problem(at(6)), Some(dns_problem()));
    assert!(
        ended.validated(at(6)).is_none(),
        "it is looked for, and nothing is signed any more"
    );
    let awaited = ended.outstanding().unwrap();
    assert_eq!((awaited.upstream(), awaited.ended()), (&at_ca("one"), at(5)));
    assert_eq!(awaited.until(), after(at(5), LIFETIME));
    assert!(ended.delete_after() > awaited.until());
    assert_eq!(ended.clone().failed(Problem::internal(), at(7)), ended);
    assert_eq!(ended.clone().ended(Problem::internal(), at(7), LIFETIME), ended);
}

#[test]
fn f48_it_stands_in_line_until_the_ca_has_its_csr_or_nothing_comes() {
    let ended = opened().ended(dns_problem(), at(5), LIFETIME);
    assert_eq!(ended.in_line_since(), Some(at(3)));
    let taken = ended.clone().taken_by_ca();
    assert_eq!(taken.in_line_since(), None);
    assert!(taken.outstanding().unwrap().is_taken());
    for order in [ended, taken] {
        let abandoned = order.abandoned();
        assert!(abandoned.outstanding().is_none() && abandoned.in_line_since().is_none());
        assert_eq!(abandoned.problem(at(9)), Some(dns_problem()));
    }
    let processing = opened();
    assert_eq!(processing.clone().abandoned(), processing);
    assert_eq!(processing.clone().taken_by_ca(), processing);
}

#[test]
fn f48_an_order_that_the_ca_may_have_a_csr_of_is_kept_for_a_week() {
    let expires = opened().expires();
    assert_eq!(opened().delete_after(), after(expires, KEPT_AT_CA));
    let unopened = finalized(ready(&NAMES), &NAMES);
    assert_eq!(unopened.delete_after(), after(expires, KEPT_AFTER_FAILURE));
}

#[test]
fn f48_an_awaited_certificate_is_for_one_key() {
    let order = ready(&NAMES);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr_of = |key: &rcgen::KeyPair, first: &Order| {
        let mut params = rcgen::CertificateParams::new(NAMES.map(str::to_owned).to_vec()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = Csr::parse(params.serialize_request(key).unwrap().der().to_vec()).unwrap();
        csr.matching(first, None).unwrap()
    };
    let matched = csr_of(&key, &order);
    let (order, _) = order.finalize(matched, at(3), LIFETIME).unwrap();
    let order = order.opened_upstream(at_ca("one"));
    let awaited = order.ended(dns_problem(), at(5), LIFETIME).outstanding().unwrap();
    for (key, same) in [(&key, true), (&rcgen::KeyPair::generate().unwrap(), false)] {
        let next = ready(&NAMES);
        let matched = csr_of(key, &next);
        let (next, _) = next.finalize(matched, at(6), LIFETIME).unwrap();
        assert_eq!(awaited.is_for_the_key_of(&next.validated(at(7)).unwrap()), same);
    }
}
