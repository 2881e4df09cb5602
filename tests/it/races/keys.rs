//! Races for keys: the account's own (RFC 8555 §7.3.5), and the external one that vouches for it (§7.3.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use acme_proxy::acme::account::Account;
use acme_proxy::acme::external_account::{ExternalAccountKey, KeyId, NameLimits, Terms};
use acme_proxy::acme::id::AccountId;
use acme_proxy::acme::problem::{Problem, ProblemType};
use acme_proxy::jose::eab::Unverified;
use acme_proxy::jose::jwk::Jwk;
use acme_proxy::jose::key_change::KeyChange;
use acme_proxy::ra::account::NewAccount;
use acme_proxy::ra::key_change::KeyChanged;
use acme_proxy::store::Store as _;
use aws_lc_rs::hmac;
use serde_json::json;

use crate::harness::key::{Key, b64};
use crate::races::arena::{Arena, Contender, PROVISIONER, Tried, signer, tried};

/// G4: of several accounts that are to get the same key, one gets it, and the others hear whose it is.
pub(crate) async fn key_change_against_key_change_to_one_key(arena: &Arena) -> usize {
    let mut accounts = Vec::new();
    for _ in 0..2 + arena.dice.below(4) {
        accounts.push(arena.account().await);
    }
    let key = arena.key();
    let changes = accounts.iter().map(|account| change(arena, account, &key));
    let results = arena.race(changes.collect()).await;
    let holder = holder(arena, &key).await.expect("nobody has the key");
    for (account, result) in accounts.iter().zip(&results) {
        match result {
            Ok(None) => {
                assert_eq!(holder, account.id());
                assert!(
                    holder_is_none(arena, account.key()).await,
                    "C313: both keys are valid"
                );
            }
            Ok(Some(taken_by)) => {
                assert_eq!(*taken_by, holder, "G4");
                assert_eq!(self::holder(arena, account.key()).await, Some(account.id()));
            }
            Err(problem) => panic!("{problem}"),
        }
    }
    let winners = results.iter().filter(|result| **result == Ok(None)).count();
    assert_eq!(winners, 1, "G4: {results:?}");
    winners
}

/// Of several changes of one account, all from the same old key, one is made.
pub(crate) async fn key_change_against_key_change_of_one_account(arena: &Arena) -> usize {
    let account = arena.account().await;
    let keys: Vec<Jwk> = (0..2 + arena.dice.below(4)).map(|_| arena.key()).collect();
    let changes = keys.iter().map(|key| change(arena, &account, key));
    let results = arena.race(changes.collect()).await;
    for (key, result) in keys.iter().zip(&results) {
        match result {
            Ok(None) => assert_eq!(holder(arena, key).await, Some(account.id())),
            Ok(Some(_)) => panic!("the key is nobody else's"),
            Err(problem) => {
                assert!(refuses_the_old_key(problem), "{problem}");
                assert!(holder_is_none(arena, key).await, "C313: two keys are valid");
            }
        }
    }
    assert!(
        holder_is_none(arena, account.key()).await,
        "C313: the old key is valid"
    );
    let winners = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(winners, 1, "{results:?}");
    winners
}

/// C313: a request with the old key is served, or refused. It is refused once the change is answered.
pub(crate) async fn key_change_against_new_order(arena: &Arena) -> usize {
    let account = arena.account().await;
    let key = arena.key();
    let answered = Arc::new(AtomicBool::new(false));
    let changing: Contender<Tried<bool>> = {
        let (change, answered) = (change(arena, &account, &key), answered.clone());
        Box::pin(async move {
            let changed = change.await?;
            answered.store(true, Ordering::SeqCst);
            Ok(changed.is_none())
        })
    };
    let mut contenders = vec![changing];
    for key in [account.key(), account.key(), &key] {
        contenders.push(order(arena, account.id(), key, &answered));
    }
    let results = arena.race(contenders).await;
    assert_eq!(results[0], Ok(true));
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(refused.kind, ProblemType::Unauthorized);
    }
    assert!(
        !results[1..3].contains(&Ok(true)),
        "C313: the old key was valid afterwards"
    );
    assert!(
        holder_is_none(arena, account.key()).await,
        "C313: the old key is valid"
    );
    assert_eq!(holder(arena, &key).await, Some(account.id()));
    results[1..3].iter().filter(|result| result.is_ok()).count()
}

/// E4, G4: a key that one account changes to while others register with it is one account's.
pub(crate) async fn key_change_against_registration(arena: &Arena) -> usize {
    let account = arena.account().await;
    let key = arena.key();
    let changing: Contender<Tried<AccountId>> = {
        let (change, id) = (change(arena, &account, &key), account.id());
        Box::pin(async move { Ok(change.await?.unwrap_or(id)) })
    };
    let mut contenders = vec![changing];
    for _ in 0..1 + arena.dice.below(3) {
        let (ra, key) = (arena.ra.clone(), key.clone());
        contenders.push(Box::pin(async move {
            let registered = ra.register(PROVISIONER, key, NewAccount::default()).await;
            tried(registered).map(|(account, _)| account.id())
        }));
    }
    let results = arena.race(contenders).await;
    let holder = holder(arena, &key).await.expect("nobody has the key");
    assert!(results.iter().all(|result| *result == Ok(holder)), "{results:?}");
    let kept = self::holder(arena, account.key()).await == Some(account.id());
    assert_ne!(kept, holder == account.id(), "C313");
    usize::from(holder == account.id())
}

/// F7, C309: however many register with a one-time key, it makes one account. Those who share the account's key share
/// the account.
pub(crate) async fn registration_against_registration_with_one_external_key(arena: &Arena) -> usize {
    let terms = Terms {
        one_time: true,
        names: NameLimits::default(),
        upstream: None,
        expires: None,
    };
    let external = ExternalAccountKey::new(KeyId::random(), PROVISIONER.to_owned(), terms, arena.clock.now());
    arena.store.create_external_account_key(&external).await.unwrap();
    let (shared, crowd) = (Key::new(), 2 + arena.dice.below(9));
    let registrations = (0..crowd).map(|_| {
        let own = (!arena.dice.one_in(3)).then(Key::new);
        let (ra, key, request) = bound(arena, own.as_ref().unwrap_or(&shared), &external);
        let registration: Contender<Tried<(AccountId, bool)>> = Box::pin(async move {
            let registered = ra.register(PROVISIONER, key, request).await;
            tried(registered).map(|(account, new)| (account.id(), new))
        });
        registration
    });
    let results = arena.race(registrations.collect()).await;
    let user = arena
        .store
        .account_by_one_time_key(PROVISIONER, external.kid())
        .await;
    let user = user.unwrap().expect("C309: nobody has used it").value.id();
    for result in &results {
        match result {
            Ok((id, _)) => assert_eq!(*id, user, "C309: two accounts"),
            Err(problem) => assert_eq!(problem.kind, ProblemType::Unauthorized, "{problem}"),
        }
    }
    let winners = results
        .iter()
        .filter(|result| matches!(result, Ok((_, true))))
        .count();
    assert_eq!(winners, 1, "C309: {results:?}");
    winners
}

/// Gives the account this key; who has it already, if somebody else does.
fn change(arena: &Arena, account: &Account, key: &Jwk) -> Contender<Tried<Option<AccountId>>> {
    let (ra, id) = (arena.ra.clone(), account.id());
    let change = KeyChange {
        new_key: key.clone(),
        account: String::new(),
        old_key: account.key().clone(),
    };
    Box::pin(async move {
        let account = signed_by(signer(&ra, id).await?, &change.old_key)?;
        Ok(match tried(ra.change_key(&account, change).await)? {
            KeyChanged::Done(_) => None,
            KeyChanged::Taken(name) => Some(name.id()),
        })
    })
}

/// Orders something, signing with this key. Tells whether that was begun after the change was answered.
fn order(arena: &Arena, id: AccountId, key: &Jwk, answered: &Arc<AtomicBool>) -> Contender<Tried<bool>> {
    let (ra, key, answered) = (arena.ra.clone(), key.clone(), answered.clone());
    let request = arena.request(1);
    let (journal, steps) = (arena.journal.clone(), arena.dice.some() / 4);
    Box::pin(async move {
        journal.steps(steps).await;
        let late = answered.load(Ordering::SeqCst);
        let account = signed_by(signer(&ra, id).await?, &key)?;
        tried(ra.new_order(&account, request).await)?;
        Ok(late)
    })
}

/// As the server does: only the account's own key verifies the signature.
fn signed_by(account: Account, key: &Jwk) -> Tried<Account> {
    match account.key() == key {
        true => Ok(account),
        false => Err(Problem::unauthorized("the signature does not verify")),
    }
}

fn refuses_the_old_key(problem: &Problem) -> bool {
    [ProblemType::Unauthorized, ProblemType::Malformed].contains(&problem.kind)
}

async fn holder(arena: &Arena, key: &Jwk) -> Option<AccountId> {
    let found = arena.store.account_by_key(PROVISIONER, &key.thumbprint()).await;
    found.unwrap().map(|account| account.value.id())
}

async fn holder_is_none(arena: &Arena, key: &Jwk) -> bool {
    holder(arena, key).await.is_none()
}

/// A registration of this key that the external key vouches for.
fn bound(
    arena: &Arena,
    key: &Key,
    external: &ExternalAccountKey,
) -> (Arc<acme_proxy::ra::RegistrationAuthority>, Jwk, NewAccount) {
    const URL: &str = "https://ra.example.com/acme/acme/new-account";
    let header = json!({ "alg": "HS256", "kid": external.kid().as_str(), "url": URL });
    let (protected, payload) = (b64(header.to_string()), b64(key.jwk.to_string()));
    let mac = hmac::Key::new(hmac::HMAC_SHA256, external.mac_key().as_bytes());
    let tag = hmac::sign(&mac, format!("{protected}.{payload}").as_bytes());
    let binding = json!({ "protected": protected, "payload": payload, "signature": b64(tag) });
    let jwk: Jwk = serde_json::from_value(key.jwk.clone()).unwrap();
    let request = NewAccount {
        binding: Some(Unverified::parse(&binding.to_string(), URL, &jwk)),
        ..NewAccount::default()
    };
    (arena.ra.clone(), jwk, request)
}
