//! The order's life, and what must not happen in it (RFC 8555 §7.1.6, SECURITY I4).

mod history;
mod late;

use super::*;
use crate::acme::csr::Csr;
use crate::acme::revocation::RevocationReason;
use crate::acme::upstream::UpstreamOrder;

const LIFETIME: Duration = Duration::from_secs(3600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn order(names: &[&str]) -> Order {
    let identifier = |name: &&str| (Identifier::dns(name).unwrap(), vec![ChallengeType::Http01]);
    let identifiers = names.iter().map(identifier).collect();
    Order::new(
        AccountId::random(),
        "acme".to_owned(),
        identifiers,
        at(0),
        LIFETIME,
    )
}

fn challenge(order: &Order, index: u16) -> ChallengeId {
    let authorization = AuthorizationId {
        order: order.id(),
        index,
    };
    ChallengeId {
        authorization,
        kind: ChallengeType::Http01,
    }
}

fn accepted(order: Order, id: ChallengeId) -> Order {
    match order.accept_challenge(id, at(1)).unwrap() {
        Accepted::Started(order, Work::Validate(work)) if work == id => order,
        other => panic!("{other:?}"),
    }
}

fn settled(order: Order, id: ChallengeId, attempt: u32, verdict: Verdict) -> Order {
    match order.settle_validation(id, attempt, verdict, 3, at(2)) {
        Settled::Finished(order) | Settled::Repeat(order) => order,
        Settled::Stale => panic!("the verdict was dropped"),
    }
}

fn ready(names: &[&str]) -> Order {
    (0..u16::try_from(names.len()).unwrap()).fold(order(names), |order, index| {
        let id = challenge(&order, index);
        settled(accepted(order, id), id, 0, Verdict::Proved)
    })
}

fn csr(names: &[&str]) -> Csr {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Csr::parse(params.serialize_request(&key).unwrap().der().to_vec()).unwrap()
}

/// An order at the CA.
fn at_ca(url: &str) -> UpstreamOrder {
    UpstreamOrder::new(url, "account")
}

fn finalized(order: Order, names: &[&str]) -> Order {
    let matched = csr(names).matching(&order, None).unwrap();
    order.finalize(matched, at(3), LIFETIME).unwrap().0
}

fn dns_problem() -> Problem {
    Problem::new(ProblemType::Dns, "no answer")
}

#[test]
fn h14_an_order_is_ready_when_the_last_of_its_names_is_proved() {
    let first = challenge_of_two(0);
    assert_eq!(first.status(at(2)), OrderStatus::Pending);
    assert_eq!(
        ready(&["a.example.com", "b.example.com"]).status(at(2)),
        OrderStatus::Ready
    );
}

fn challenge_of_two(index: u16) -> Order {
    let order = order(&["a.example.com", "b.example.com"]);
    let id = challenge(&order, index);
    settled(accepted(order, id), id, 0, Verdict::Proved)
}

#[test]
fn each_single_name_that_is_not_proved_keeps_the_order_from_the_ca() {
    // Let's Encrypt's incident of 2020-02-29: N names to check, one of them checked N times.
    let names = ["a.example.com", "b.example.com", "c.example.com", "d.example.com"];
    for bad in 0..4 {
        let order = (0..4).fold(order(&names), |order, index| {
            let id = challenge(&order, index);
            let verdict = match index == bad {
                true => Verdict::Refused(dns_problem()),
                false => Verdict::Proved,
            };
            match order.accept_challenge(id, at(1)).unwrap() {
                Accepted::Started(order, _) => settled(order, id, 0, verdict),
                Accepted::Unchanged(order) => order,
            }
        });
        assert_eq!(order.status(at(2)), OrderStatus::Invalid, "{bad}");
        assert!(order.validated(at(2)).is_none(), "{bad}");
        let problem = order.problem(at(2)).unwrap();
        assert!(problem.detail.contains(names[usize::from(bad)]), "{problem}");
    }
}

#[test]
fn j3_a_challenge_that_is_under_way_or_proved_is_not_started_again() {
    let order = order(&["a.example.com"]);
    let id = challenge(&order, 0);
    let order = accepted(order, id);
    let Accepted::Unchanged(order) = order.accept_challenge(id, at(1)).unwrap() else {
        panic!("started twice");
    };
    let order = settled(order, id, 0, Verdict::Proved);
    assert!(matches!(
        order.accept_challenge(id, at(2)),
        Ok(Accepted::Unchanged(_))
    ));
}

#[test]
fn j6_a_passing_fault_is_tried_again_and_the_last_one_counts() {
    let order = order(&["a.example.com"]);
    let id = challenge(&order, 0);
    let mut order = accepted(order, id);
    for attempt in 0..2 {
        order = settled(order, id, attempt, Verdict::TryAgain(dns_problem()));
        assert_eq!(order.status(at(2)), OrderStatus::Pending);
        assert_eq!(order.attempt(id, at(2)), Some(attempt + 1));
    }
    let order = settled(order, id, 2, Verdict::TryAgain(dns_problem()));
    assert_eq!(order.status(at(2)), OrderStatus::Invalid);
    assert!(order.accept_challenge(id, at(2)).is_err());
}

#[test]
fn j8_a_verdict_for_another_attempt_or_an_ended_order_is_dropped() {
    let order = order(&["a.example.com"]);
    let id = challenge(&order, 0);
    let order = accepted(order, id);
    let dropped = |order: Order, attempt, now| {
        matches!(
            order.settle_validation(id, attempt, Verdict::Proved, 3, now),
            Settled::Stale
        )
    };
    assert!(
        dropped(order.clone(), 1, at(2)),
        "of an attempt that was not made"
    );
    assert!(dropped(order.clone(), 0, at(3600)), "after the order's end");
    let proved = settled(order.clone(), id, 0, Verdict::Proved);
    assert!(dropped(proved, 0, at(2)), "of a settled challenge");
    let other = challenge(&ready(&["a.example.com"]), 0);
    assert!(matches!(
        order.settle_validation(other, 0, Verdict::Proved, 3, at(2)),
        Settled::Stale
    ));
}

#[test]
fn k2_only_a_ready_order_is_finalized_and_only_once() {
    let names = ["a.example.com"];
    let pending = order(&names);
    let matched = csr(&names).matching(&pending, None).unwrap();
    let refused = pending.finalize(matched, at(1), LIFETIME).unwrap_err();
    assert_eq!((refused.kind, refused.status), (ProblemType::OrderNotReady, 403));
    let processing = finalized(ready(&names), &names);
    assert_eq!(processing.status(at(4)), OrderStatus::Processing);
    let again = csr(&names).matching(&processing, None).unwrap();
    assert_eq!(
        processing.finalize(again, at(4), LIFETIME).unwrap_err().kind,
        ProblemType::OrderNotReady
    );
}

#[test]
fn k6_k9_a_csr_for_other_names_or_with_an_accounts_key_matches_no_order() {
    let order = ready(&["a.example.com", "b.example.com"]);
    for names in [
        &["a.example.com"][..],
        &["a.example.com", "b.example.com", "c.example.com"],
        &["a.example.com", "c.example.com"],
    ] {
        assert_eq!(
            csr(names).matching(&order, None).unwrap_err().kind,
            ProblemType::BadCsr,
            "{names:?}"
        );
    }
    let right = csr(&["B.example.com", "a.example.com"]);
    assert!(right.matching(&order, None).is_ok());
    assert_eq!(
        right
            .matching(&order, Some(AccountId::random()))
            .unwrap_err()
            .kind,
        ProblemType::BadCsr
    );
}

#[test]
fn a_csr_that_matches_one_order_does_not_finalize_another() {
    let names = ["a.example.com"];
    let matched = csr(&names).matching(&ready(&names), None).unwrap();
    assert!(ready(&names).finalize(matched, at(3), LIFETIME).is_err());
}

#[test]
fn i1_only_a_finalized_order_that_has_not_ended_goes_to_the_ca() {
    let names = ["a.example.com"];
    assert!(ready(&names).validated(at(3)).is_none());
    let processing = finalized(ready(&names), &names);
    let expires = processing.expires();
    assert!(processing.validated(at(4)).is_some());
    assert!(processing.validated(expires).is_none());
    assert!(processing.failed(dns_problem(), at(5)).validated(at(6)).is_none());
}

/// The order as it would be read from a store in which somebody has changed the member at the pointer.
fn tampered(order: &Order, pointer: &str, value: serde_json::Value) -> Order {
    let mut record = serde_json::to_value(order).unwrap();
    *record.pointer_mut(pointer).expect(pointer) = value;
    serde_json::from_value(record).unwrap()
}

#[test]
fn c913_an_order_of_which_one_name_was_changed_in_the_store_does_not_go_to_the_ca() {
    let names: Vec<String> = (0..100).map(|n| format!("host-{n}.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let whole = finalized(ready(&names), &names);
    let now = at(4);
    assert!(whole.validated(now).is_some());
    let record = serde_json::to_value(&whole).unwrap();
    let state = "/authorizations/57/challenges/0/state";
    let proved = record.pointer(state).unwrap().clone();
    assert!(tampered(&whole, state, proved).validated(now).is_some());
    // An authorization of somebody else's order: for another name, or not proved.
    let stranger = serde_json::to_value(ready(&["evil.example.com"])).unwrap();
    let unproved = serde_json::to_value(order(&["host-57.example.com"])).unwrap();
    let other_csr =
        serde_json::to_value(finalized(ready(&["evil.example.com"]), &["evil.example.com"])).unwrap();
    let cases = [
        ("/authorizations/57", stranger["authorizations"][0].clone()),
        ("/authorizations/57", unproved["authorizations"][0].clone()),
        ("/authorizations/57", record["authorizations"][58].clone()),
        (state, serde_json::json!("pending")),
        ("/authorizations", serde_json::json!([])),
        (
            "/authorizations",
            serde_json::json!([record["authorizations"][0]]),
        ),
        (
            "/stage/processing/csr",
            other_csr["stage"]["processing"]["csr"].clone(),
        ),
        ("/stage/processing/csr", serde_json::json!("")),
        ("/stage", serde_json::json!("open")),
    ];
    for (pointer, value) in cases {
        let changed = tampered(&whole, pointer, value.clone());
        assert!(changed.validated(now).is_none(), "{pointer} = {value}");
    }
}

#[test]
fn only_the_first_url_at_the_ca_counts_until_the_ca_says_that_it_is_dead() {
    let names = ["a.example.com"];
    let order = finalized(ready(&names), &names).opened_upstream(at_ca("one"));
    let order = order.opened_upstream(at_ca("two"));
    assert_eq!(order.validated(at(4)).unwrap().upstream(), Some(&at_ca("one")));
    let order = order.upstream_is_gone("two");
    assert_eq!(order.validated(at(4)).unwrap().upstream(), Some(&at_ca("one")));
    let order = order.upstream_is_gone("one").opened_upstream(at_ca("three"));
    assert_eq!(order.validated(at(4)).unwrap().upstream(), Some(&at_ca("three")));
}

#[test]
fn i7_a_processing_order_ends_at_its_deadline_and_says_so() {
    let names = ["a.example.com"];
    let order = finalized(ready(&names), &names);
    assert_eq!(order.expires(), at(3 + 3600));
    assert_eq!(order.status(at(3 + 3600)), OrderStatus::Invalid);
    assert_eq!(
        order.problem(at(3 + 3600)).unwrap().kind,
        ProblemType::ServerInternal
    );
    assert_eq!(order.problem(at(4)), None);
    let order = ready(&names);
    let matched = csr(&names).matching(&order, None).unwrap();
    let minute = Duration::from_secs(60);
    assert!(order.expires() > at(3 + 60));
    let (order, _) = order.finalize(matched, at(3), minute).unwrap();
    assert_eq!(order.expires(), at(3 + 60));
}

#[test]
fn an_order_is_in_line_from_finalization_to_its_end() {
    let names = ["a.example.com"];
    assert_eq!(ready(&names).in_line_since(), None);
    let order = finalized(ready(&names), &names);
    assert_eq!(order.in_line_since(), Some(at(3)));
    assert_eq!(order.failed(dns_problem(), at(4)).in_line_since(), None);
}

#[test]
fn an_order_is_placed_elsewhere_only_while_none_is_opened_for_it() {
    let names = ["a.example.com"];
    let elsewhere: UpstreamName = "elsewhere".parse().unwrap();
    let at_upstream = |order: Order| order.placed_at(elsewhere, at(9)).upstream_name();
    for movable in [order(&names), ready(&names), finalized(ready(&names), &names)] {
        assert!(movable.upstream_name().is_default() && !movable.is_opened_upstream());
        assert_eq!(at_upstream(movable), elsewhere);
    }
    let opened = finalized(ready(&names), &names).opened_upstream(at_ca("one"));
    assert!(opened.is_opened_upstream());
    assert_eq!(opened.clone().placed_at(elsewhere, at(9)), opened);
    assert_eq!(
        at_upstream(opened.clone().failed(dns_problem(), at(4))),
        UpstreamName::DEFAULT
    );
    assert_eq!(
        at_upstream(opened.upstream_is_gone("one")),
        elsewhere,
        "it bought nothing"
    );
}

#[test]
fn a_record_without_an_upstream_is_the_default_ones_and_stays_as_it_was() {
    let written = serde_json::to_value(order(&["a.example.com"])).unwrap();
    assert!(written.get("upstream").is_none());
    let read: Order = serde_json::from_value(written).unwrap();
    assert!(read.upstream_name().is_default());
    let placed = read.placed_at("elsewhere".parse().unwrap(), at(9));
    let written = serde_json::to_value(&placed).unwrap();
    assert_eq!(written["upstream"], "elsewhere");
    assert_eq!(serde_json::from_value::<Order>(written).unwrap(), placed);
}

#[test]
fn the_daemons_own_order_goes_to_the_ca_without_a_client() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["proxy.example.com".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = Der::new(params.serialize_request(&key).unwrap().der().to_vec());
    let names = vec![Identifier::dns("proxy.example.com").unwrap()];
    let order = Order::for_daemon(OrderId::random(), names, csr, at(0), LIFETIME);
    assert_eq!(order.account(), AccountId::DAEMON);
    assert!(order.validated(at(1)).is_some());
}

#[test]
fn a_revocation_needs_a_certificate() {
    let names = ["a.example.com"];
    let order = finalized(ready(&names), &names);
    assert!(
        order
            .request_revocation(Some(RevocationReason::Superseded), at(4))
            .is_err()
    );
}

fn deactivated(order: Order, index: u16) -> Order {
    let id = challenge(&order, index).authorization;
    order.deactivate_authorization(id, at(4)).unwrap()
}

fn authorization_status(order: &Order, index: u16, now: Timestamp) -> AuthorizationStatus {
    let id = challenge(order, index).authorization;
    order.authorization(id).unwrap().status(order.expires(), now)
}

#[test]
fn i5_h14_a_deactivated_authorization_ends_its_order_unless_that_is_issued() {
    let names = ["a.example.com", "b.example.com"];
    let open = [order(&names), challenge_of_two(0), ready(&names)];
    for before in open.into_iter().chain([finalized(ready(&names), &names)]) {
        let after = deactivated(before, 1);
        assert_eq!(
            authorization_status(&after, 1, at(5)),
            AuthorizationStatus::Deactivated
        );
        assert_eq!(after.status(at(5)), OrderStatus::Invalid);
        let problem = after.problem(at(5)).unwrap();
        assert_eq!(problem.kind, ProblemType::Unauthorized);
        assert!(problem.detail.contains("b.example.com"), "{problem}");
        assert!(after.validated(at(5)).is_none() && after.require_ready(at(5)).is_err());
        let id = challenge(&after, 1);
        assert!(after.clone().accept_challenge(id, at(5)).is_err());
        // It stays so, also when its time is over.
        let late = at(5 + 7200);
        assert_eq!(
            authorization_status(&after, 1, late),
            AuthorizationStatus::Deactivated
        );
        assert_eq!(deactivated(after.clone(), 1), after);
    }
}

#[test]
fn c506_j8_a_verdict_does_not_undo_a_deactivation() {
    let order = order(&["a.example.com"]);
    let id = challenge(&order, 0);
    let order = deactivated(accepted(order, id), 0);
    assert_eq!(order.attempt(id, at(5)), None);
    for verdict in [
        Verdict::Proved,
        Verdict::TryAgain(dns_problem()),
        Verdict::Refused(dns_problem()),
    ] {
        let settled = order.clone().settle_validation(id, 0, verdict, 3, at(5));
        assert!(matches!(settled, Settled::Stale), "{settled:?}");
    }
}

#[test]
fn i5_an_authorization_that_has_ended_stays_as_it_is() {
    let names = ["a.example.com"];
    let order = order(&names);
    let id = challenge(&order, 0);
    let refused = settled(accepted(order, id), id, 0, Verdict::Refused(dns_problem()));
    assert_eq!(deactivated(refused.clone(), 0), refused);
    let expired = ready(&names);
    let late = expired.expires();
    let id = challenge(&expired, 0).authorization;
    assert_eq!(
        expired.clone().deactivate_authorization(id, late).unwrap(),
        expired
    );
    let other = challenge(&ready(&names), 0).authorization;
    assert!(expired.deactivate_authorization(other, at(1)).is_err());
}

#[test]
fn an_authorization_that_was_stored_before_there_was_deactivation_can_be_read() {
    let order = order(&["a.example.com"]);
    let stored = serde_json::to_string(&order).unwrap();
    assert!(!stored.contains("deactivated"));
    assert_eq!(serde_json::from_str::<Order>(&stored).unwrap(), order);
}
