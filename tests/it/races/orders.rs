//! Races for an order: its challenges, its one CSR, its end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use acme_proxy::acme::account::Account;
use acme_proxy::acme::authorization::AuthorizationStatus;
use acme_proxy::acme::certificate::key_of;
use acme_proxy::acme::csr::Csr;
use acme_proxy::acme::id::OrderId;
use acme_proxy::acme::order::{Order, OrderStatus};
use acme_proxy::acme::problem::{Problem, ProblemType};
use acme_proxy::ra::account::AccountUpdate;
use acme_proxy::ra::certificate::Revoker;

use crate::races::arena::{Arena, Contender, ORDER_LIFETIME, Tried, challenge, signer, tried};
use crate::races::issuer::Answers;
use crate::races::journal::Entry;

/// How often a client asks again that may not finalize yet.
const PERSISTENT: u32 = 40;

/// How far the clock is set: longer than a lease, shorter than an order's life.
const STEP: Duration = Duration::from_secs(1800);

/// How far a replica's clock is behind the others'.
const BEHIND: Duration = Duration::from_secs(5);

/// What a contender did, if it got its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Finalized(usize),
    Deactivated,
    Else,
}

/// K3, C910: of many with a CSR, one gets its certificate, and the others hear that the order is not ready.
pub(crate) async fn finalize_against_finalize(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.ready(&account).await;
    let crowd = 2 + usize::try_from(arena.dice.below(7)).unwrap();
    let finalizers = (0..crowd).map(|which| finalizer(arena, &account, &order, which, 1));
    let results = arena.race(finalizers.collect()).await;
    arena.rest().await;
    let winners = check_finalizers(arena, &order, &results).await;
    assert_eq!(winners, 1, "{results:?}");
    winners
}

/// The same while the last challenge is still being looked at.
pub(crate) async fn finalize_against_finalize_and_verdict(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.order(&account, 1).await;
    let met = !arena.dice.one_in(4);
    if met {
        arena.publish(&account, &order);
    }
    let mut contenders: Vec<_> = (0..3)
        .map(|which| finalizer(arena, &account, &order, which, PERSISTENT))
        .collect();
    contenders.push(answer(arena, &account, &order, 0));
    let results = arena.race(contenders).await;
    arena.rest().await;
    let winners = check_finalizers(arena, &order, &results[..3]).await;
    let status = arena.status(order.id()).await;
    match met {
        // The clients may have given up before the verdict came.
        true if winners == 0 => assert_eq!(status, OrderStatus::Ready),
        true => assert_eq!((winners, status), (1, OrderStatus::Valid), "{results:?}"),
        false => assert_eq!((winners, status), (0, OrderStatus::Invalid), "{results:?}"),
    }
    winners
}

/// E12: once its deactivation is answered, an account gets nothing any more that was not under way. The journal has
/// the particulars.
pub(crate) async fn finalize_against_the_accounts_deactivation(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.ready(&account).await;
    let contenders = vec![
        finalizer(arena, &account, &order, 0, 1),
        deactivation(arena, &account),
    ];
    let results = arena.race(contenders).await;
    arena.rest().await;
    assert_eq!(results[1], Ok(Deed::Deactivated));
    let status = arena.status(order.id()).await;
    match &results[0] {
        Ok(_) => assert!(matches!(status, OrderStatus::Valid | OrderStatus::Invalid)),
        Err(problem) => {
            assert_eq!((problem.kind, problem.status), (ProblemType::Unauthorized, 401));
            assert_eq!(status, OrderStatus::Ready);
        }
    }
    usize::from(status == OrderStatus::Valid)
}

/// The same for a challenge that is being looked at.
pub(crate) async fn verdict_against_the_accounts_deactivation(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.order(&account, 1).await;
    arena.publish(&account, &order);
    let contenders = vec![
        answer(arena, &account, &order, 0),
        finalizer(arena, &account, &order, 0, PERSISTENT),
        deactivation(arena, &account),
    ];
    let results = arena.race(contenders).await;
    arena.rest().await;
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        let expected = [ProblemType::Unauthorized, ProblemType::OrderNotReady];
        assert!(expected.contains(&refused.kind), "{refused}");
    }
    assert_eq!(signer(&arena.ra, account.id()).await.unwrap_err().status, 401);
    usize::from(arena.status(order.id()).await == OrderStatus::Valid)
}

/// C506: an authorization that is given up stays so, whatever the verdict on its challenge.
pub(crate) async fn verdict_against_the_authorizations_deactivation(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.order(&account, 1).await;
    let met = !arena.dice.one_in(4);
    if met {
        arena.publish(&account, &order);
    }
    let contenders = vec![
        answer(arena, &account, &order, 0),
        finalizer(arena, &account, &order, 0, PERSISTENT),
        giving_up(arena, &account, &order),
    ];
    let results = arena.race(contenders).await;
    arena.rest().await;
    assert_eq!(results[2], Ok(Deed::Deactivated));
    if let Err(refused) = &results[0] {
        assert_eq!(refused.kind, ProblemType::Malformed);
    }
    let (stored, now) = (arena.stored(order.id()).await, arena.clock.now());
    let status = stored.authorizations()[0].status(stored.expires(), now);
    match stored.status(now) {
        OrderStatus::Valid => assert_eq!(status, AuthorizationStatus::Deactivated, "C506"),
        status => assert_eq!(status, OrderStatus::Invalid),
    }
    assert!(!met || status == AuthorizationStatus::Deactivated, "C506");
    usize::from(stored.status(now) == OrderStatus::Valid)
}

/// C506: an order that is given up gets no certificate any more, and one that has its certificate keeps it.
pub(crate) async fn finalize_against_the_authorizations_deactivation(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.ready(&account).await;
    let contenders = vec![
        finalizer(arena, &account, &order, 0, 1),
        giving_up(arena, &account, &order),
    ];
    let results = arena.race(contenders).await;
    arena.rest().await;
    assert_eq!(results[1], Ok(Deed::Deactivated));
    let (stored, now) = (arena.stored(order.id()).await, arena.clock.now());
    let status = stored.authorizations()[0].status(stored.expires(), now);
    assert_eq!(status, AuthorizationStatus::Deactivated, "C506");
    match &results[0] {
        Ok(_) => assert!(matches!(
            stored.status(now),
            OrderStatus::Valid | OrderStatus::Invalid
        )),
        Err(problem) => {
            assert_eq!(problem.kind, ProblemType::OrderNotReady);
            assert_eq!(stored.status(now), OrderStatus::Invalid);
        }
    }
    usize::from(stored.status(now) == OrderStatus::Valid)
}

/// C503: however often a client says that it is ready, its host is looked at once.
pub(crate) async fn challenge_against_challenge(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.order(&account, 1).await;
    if !arena.dice.one_in(3) {
        arena.publish(&account, &order);
    }
    let looks = arena.web.looks();
    let crowd = 2 + arena.dice.below(9);
    let answers = (0..crowd).map(|_| answer(arena, &account, &order, 0));
    let results = arena.race(answers.collect()).await;
    arena.rest().await;
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        // The challenge has failed before the request came.
        assert_eq!(refused.kind, ProblemType::Malformed);
        assert_eq!(arena.status(order.id()).await, OrderStatus::Invalid);
    }
    let looked = arena.web.looks() - looks;
    assert_eq!(looked, 1, "C503");
    looked
}

/// C503: the verdicts on an order's names do not stand in each other's way. Each host is looked at once.
pub(crate) async fn verdict_against_verdict(arena: &Arena) -> usize {
    verdict_against_verdicts(arena, 4).await
}

/// The same for so many names.
pub(crate) async fn verdict_against_verdicts(arena: &Arena, names: u16) -> usize {
    let account = arena.account().await;
    let order = arena.order(&account, usize::from(names)).await;
    arena.publish(&account, &order);
    let looks = arena.web.looks();
    let answers = (0..names).map(|index| answer(arena, &account, &order, index));
    let results = arena.race(answers.collect()).await;
    arena.rest().await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(arena.status(order.id()).await, OrderStatus::Ready);
    let looked = arena.web.looks() - looks;
    assert_eq!(looked, usize::from(names), "C503");
    looked
}

/// An order that ends while it is finalized has either ended or been finalized. What was answered counts.
pub(crate) async fn finalize_against_expiry(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.ready(&account).await;
    let contenders = vec![finalizer(arena, &account, &order, 0, 1), expiry(arena, &order)];
    let results = arena.race(contenders).await;
    arena.rest().await;
    let winners = check_finalizers(arena, &order, &results[..1]).await;
    let status = arena.status(order.id()).await;
    match winners {
        1 => assert_eq!(status, OrderStatus::Valid),
        _ => assert_eq!(status, OrderStatus::Invalid),
    }
    winners
}

/// J8: a verdict that comes after the order's end changes nothing.
pub(crate) async fn verdict_against_expiry(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.order(&account, 1).await;
    arena.publish(&account, &order);
    let contenders = vec![answer(arena, &account, &order, 0), expiry(arena, &order)];
    let results = arena.race(contenders).await;
    arena.rest().await;
    if let Err(refused) = &results[0] {
        assert_eq!(refused.kind, ProblemType::Malformed);
    }
    let stored = arena.stored(order.id()).await;
    assert_eq!(stored.status(arena.clock.now()), OrderStatus::Invalid);
    let proved = stored.authorizations()[0].challenges().next().unwrap();
    usize::from(proved.status() == "valid")
}

/// I2, UPSTREAM rule 4: leases that run out too early let both workers step on one order. However many orders they
/// open at the CA for it, one gets a CSR; the journal has the particulars.
pub(crate) async fn issuance_against_issuance(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.ready(&account).await;
    arena.lossy.store(true, Ordering::SeqCst);
    let finalizers = (0..2).map(|which| finalizer(arena, &account, &order, which, 1));
    let results = arena.race(finalizers.collect()).await;
    arena.rest().await;
    arena.lossy.store(false, Ordering::SeqCst);
    assert_eq!(check_finalizers(arena, &order, &results).await, 1, "{results:?}");
    arena.journal.count(|entry| matches!(entry, Entry::Sent { .. }))
}

/// F30, UPSTREAM rule 4: the clock is set while the CA takes its time with a new order. No lease runs out by that, so
/// nobody opens a second one.
pub(crate) async fn issuance_against_a_step_of_the_clock(arena: &Arena) {
    let (account, other) = (arena.account().await, arena.account().await);
    let (order, later) = (arena.ready(&account).await, arena.ready(&other).await);
    let opened = |id| {
        arena
            .journal
            .count(|e| matches!(e, Entry::Opened { order, .. } if *order == id))
    };
    let looked = || {
        arena
            .journal
            .count(|e| matches!(e, Entry::Looked(id) if *id == other.id()))
    };
    let before = looked();
    arena.ca.answer(Answers::Nobody);
    arena
        .ra
        .finalize(&account, order.id(), arena.csr(0), None)
        .await
        .unwrap();
    until(|| opened(order.id()) == 1).await;
    arena.clock.advance(STEP);
    // Whoever takes this one up has leased by the new time, and would have taken the first one up, too.
    arena
        .ra
        .finalize(&other, later.id(), arena.csr(1), None)
        .await
        .unwrap();
    until(|| looked() > before).await;
    arena.ca.answer(Answers::All);
    arena.rest().await;
    for id in [order.id(), later.id()] {
        assert_eq!(arena.status(id).await, OrderStatus::Valid);
        assert_eq!(opened(id), 1, "F30: a second order was opened at the CA");
    }
    arena.settle().await;
}

/// An order for the same names whose finalization begins before another one's and is written after it, by a replica with a
/// clock that is behind: it comes first in the line when the other one is being opened at the CA, which gives both the same
/// order. Whoever hears of that last, each has a certificate for its own key.
pub(crate) async fn issuance_against_a_finalization_of_before(arena: &Arena, earlier_is_first: bool) {
    let (account, other) = (arena.account().await, arena.account().await);
    let (order, earlier) = (arena.ready(&account).await, arena.ready(&other).await);
    let opened = |id| {
        arena
            .journal
            .count(|e| matches!(e, Entry::Opened { order, .. } if *order == id))
    };
    arena.ca.answer(Answers::Nobody);
    arena.clock.advance(BEHIND);
    arena.journal.add(Entry::Overtaken);
    for (ra, account, order, csr) in [
        (&*arena.ra, &account, &order, 0),
        (&arena.behind, &other, &earlier, 1),
    ] {
        ra.finalize(account, order.id(), arena.csr(csr), None)
            .await
            .unwrap();
        until(|| opened(order.id()) == 1).await;
    }
    let first = if earlier_is_first {
        earlier.id()
    } else {
        order.id()
    };
    arena.ca.answer(Answers::One(first));
    while arena.status(first).await != OrderStatus::Valid {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    arena.ca.answer(Answers::All);
    arena.rest().await;
    for id in [order.id(), earlier.id()] {
        let stored = arena.stored(id).await;
        assert_eq!(
            stored.status(arena.clock.now()),
            OrderStatus::Valid,
            "{:?}",
            stored.problem(arena.clock.now())
        );
    }
    arena.settle().await;
}

/// However many ask, the CA is asked once, and one of them has revoked the certificate.
pub(crate) async fn revocation_against_revocation(arena: &Arena) -> usize {
    let account = arena.account().await;
    let order = arena.issued(&account).await;
    let leaf = order.certificate().unwrap().leaf().as_bytes().to_vec();
    let revokers = (0..2 + arena.dice.below(4)).map(|_| {
        let (ra, account, leaf) = (arena.ra.clone(), account.clone(), leaf.clone());
        let revocation: Contender<Tried<Deed>> = Box::pin(async move {
            tried(ra.revoke(&Revoker::Account(account), leaf, None).await).map(|()| Deed::Else)
        });
        revocation
    });
    let results = arena.race(revokers.collect()).await;
    arena.rest().await;
    let winners = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(winners, 1, "{results:?}");
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(refused.kind, ProblemType::AlreadyRevoked);
    }
    let asked = arena.journal.count(|entry| matches!(entry, Entry::Revoked));
    assert_eq!(asked, 1, "the CA was asked more than once");
    winners
}

/// Hands in a CSR, again if the order is not ready yet.
pub(crate) fn finalizer(
    arena: &Arena,
    account: &Account,
    order: &Order,
    which: usize,
    tries: u32,
) -> Contender<Tried<Deed>> {
    let (ra, dice) = (arena.ra.clone(), arena.dice.clone());
    let (account, order, csr) = (account.id(), order.id(), arena.csr(which));
    Box::pin(async move {
        let mut result = Err(Problem::internal());
        for _ in 0..tries {
            let account = signer(&ra, account).await?;
            result =
                tried(ra.finalize(&account, order, csr.clone(), None).await).map(|_| Deed::Finalized(which));
            match &result {
                Err(problem) if problem.detail.contains("pending") => dice.pause().await,
                _ => break,
            }
        }
        result
    })
}

/// Says that the challenge for this name is met.
pub(crate) fn answer(arena: &Arena, account: &Account, order: &Order, index: u16) -> Contender<Tried<Deed>> {
    let (ra, account, id) = (arena.ra.clone(), account.id(), challenge(order, index));
    Box::pin(async move {
        let account = signer(&ra, account).await?;
        tried(ra.accept_challenge(&account, id).await).map(|_| Deed::Else)
    })
}

fn deactivation(arena: &Arena, account: &Account) -> Contender<Tried<Deed>> {
    let (ra, journal, id) = (arena.ra.clone(), arena.journal.clone(), account.id());
    let steps = arena.dice.some();
    Box::pin(async move {
        journal.steps(steps).await;
        let account = signer(&ra, id).await?;
        let end = AccountUpdate {
            deactivate: true,
            ..AccountUpdate::default()
        };
        tried(ra.update_account(&account, end).await)?;
        journal.add(Entry::Deactivated(id));
        Ok(Deed::Deactivated)
    })
}

/// Deactivates the order's first authorization.
fn giving_up(arena: &Arena, account: &Account, order: &Order) -> Contender<Tried<Deed>> {
    let (ra, journal, account) = (arena.ra.clone(), arena.journal.clone(), account.id());
    let (id, steps) = (challenge(order, 0).authorization, arena.dice.some());
    Box::pin(async move {
        journal.steps(steps).await;
        let account = signer(&ra, account).await?;
        tried(ra.deactivate_authorization(&account, id).await).map(|_| Deed::Deactivated)
    })
}

/// The time at which the order ends unless it is finalized.
fn expiry(arena: &Arena, order: &Order) -> Contender<Tried<Deed>> {
    let (clock, journal, expires) = (arena.clock.clone(), arena.journal.clone(), order.expires());
    let steps = arena.dice.some();
    Box::pin(async move {
        journal.steps(steps).await;
        let left = expires.duration_since(clock.now());
        clock.advance(left.unsigned_abs().min(ORDER_LIFETIME));
        Ok(Deed::Else)
    })
}

async fn until(reached: impl Fn() -> bool) {
    while !reached() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// At most one has finalized, all others hear that the order is not ready, and the certificate is the winner's.
async fn check_finalizers(arena: &Arena, order: &Order, results: &[Tried<Deed>]) -> usize {
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(
            (refused.kind, refused.status),
            (ProblemType::OrderNotReady, 403),
            "{refused}"
        );
    }
    let winners: Vec<usize> = results
        .iter()
        .filter_map(|result| match result {
            Ok(Deed::Finalized(which)) => Some(*which),
            Ok(Deed::Deactivated | Deed::Else) | Err(_) => None,
        })
        .collect();
    assert!(winners.len() <= 1, "K3: {results:?}");
    if let [which] = winners[..] {
        check_key(arena, order.id(), &arena.csr(which)).await;
    }
    winners.len()
}

/// I5: the certificate is for the key of this CSR.
async fn check_key(arena: &Arena, id: OrderId, csr: &[u8]) {
    let stored = arena.stored(id).await;
    let certified = stored.certificate().and_then(|issued| key_of(issued.leaf()));
    let csr = Csr::parse(csr.to_vec()).unwrap();
    assert_eq!(certified.as_ref(), Some(csr.key()), "I5");
}
