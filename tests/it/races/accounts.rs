//! Races for an account: its key, its end.

use acme_proxy::acme::account::AccountStatus;
use acme_proxy::acme::id::AccountId;
use acme_proxy::ra::account::{AccountUpdate, NewAccount};
use acme_proxy::store::Store as _;

use crate::races::arena::{Arena, Contender, PROVISIONER, Tried, signer, tried};

/// E4, C305: however many register with one key, there is one account, which is new to one of them.
pub(crate) async fn registration_against_registration(arena: &Arena) -> usize {
    let key = arena.key();
    let registrations = (0..2 + arena.dice.below(11)).map(|_| {
        let (ra, key) = (arena.ra.clone(), key.clone());
        let registration: Contender<Tried<(AccountId, bool)>> = Box::pin(async move {
            let registered = ra.register(PROVISIONER, key, NewAccount::default()).await;
            tried(registered).map(|(account, new)| (account.id(), new))
        });
        registration
    });
    let results = arena.race(registrations.collect()).await;
    let accounts: Vec<(AccountId, bool)> = results.into_iter().map(Result::unwrap).collect();
    let (id, _) = accounts[0];
    assert!(accounts.iter().all(|(other, _)| *other == id), "E4: {accounts:?}");
    let found = arena.store.account_by_key(PROVISIONER, &key.thumbprint()).await;
    assert_eq!(found.unwrap().unwrap().value.id(), id, "E4");
    let winners = accounts.iter().filter(|(_, new)| *new).count();
    assert_eq!(winners, 1, "E4: {accounts:?}");
    winners
}

/// E11: a change of the contacts does not bring back an account that is deactivated, and none of those that were
/// answered is lost.
pub(crate) async fn update_against_deactivation(arena: &Arena) -> usize {
    let account = arena.account().await;
    let crowd = 2 + arena.dice.below(5);
    let updates = (0..crowd).map(|number| {
        let (ra, id) = (arena.ra.clone(), account.id());
        let change = AccountUpdate {
            contact: (number > 0).then(|| vec![format!("mailto:a{number}@example.com")]),
            deactivate: number == 0,
        };
        let update: Contender<Tried<()>> = Box::pin(async move {
            let account = signer(&ra, id).await?;
            tried(ra.update_account(&account, change).await).map(drop)
        });
        update
    });
    let results = arena.race(updates.collect()).await;
    assert_eq!(results[0], Ok(()));
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(refused.status, 401, "{refused}");
    }
    let stored = arena.store.account(account.id()).await.unwrap().unwrap();
    assert_eq!(stored.value.status(), AccountStatus::Deactivated, "E11");
    let winners = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(
        usize::try_from(stored.version).unwrap(),
        1 + winners,
        "an update is lost"
    );
    winners
}
