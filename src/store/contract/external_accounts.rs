//! External account keys, and the accounts that are bound to them.

use std::sync::Arc;

use crate::acme::account::Account;
use crate::acme::external_account::{Binding, ExternalAccountKey, KeyId, NameLimits, Terms};
use crate::store::contract::{Backend, account, all, at};
use crate::store::{Registration, StoreError, Versioned};

fn kid(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn key(kid: &str, provisioner: &str, created: u64) -> ExternalAccountKey {
    let terms = Terms {
        one_time: true,
        names: NameLimits {
            allow: vec!["*.example.com".to_owned()],
            ..NameLimits::default()
        },
        upstream: None,
        expires: Some(at(9)),
    };
    ExternalAccountKey::new(self::kid(kid), provisioner.to_owned(), terms, at(created))
}

/// The account, as if it had been made with the key.
fn bound(account: Account, kid: &str, one_time: bool) -> Account {
    let binding = serde_json::json!({ "kid": kid, "one_time": one_time, "jws": "{ \"payload\": \"x\" }" });
    account.bound(serde_json::from_value::<Binding>(binding).unwrap())
}

pub(crate) async fn c309_a_one_time_key_gets_one_account_however_many_use_it(backend: &impl Backend) {
    let store = backend.open().await;
    let attempts = (0..100).map(|_| {
        let store = Arc::clone(&store);
        async move {
            let account = bound(account(), "once", true);
            (store.create_account(&account).await.unwrap(), account)
        }
    });
    let mut created = Vec::new();
    for (registration, account) in all(attempts).await {
        match registration {
            Registration::Created => created.push(account),
            Registration::KeyUsed => assert_eq!(store.account(account.id()).await, Ok(None)),
            Registration::Exists(_) => panic!("each has a key of its own"),
        }
    }
    assert_eq!(created.len(), 1);
    let user = store.account_by_one_time_key("acme", &kid("once")).await.unwrap();
    assert_eq!(user.unwrap().value, created[0]);
    // Keys of the same id under another provisioner, and keys for many, are others.
    let elsewhere = Account::new(
        "other".to_owned(),
        account().key().clone(),
        Vec::new(),
        true,
        at(0),
    );
    for account in [
        bound(elsewhere, "once", true),
        bound(account(), "twice", false),
        bound(account(), "twice", false),
    ] {
        let registration = store.create_account(&account).await;
        assert!(
            matches!(registration, Ok(Registration::Created)),
            "{registration:?}"
        );
        assert_eq!(store.account(account.id()).await.unwrap().unwrap().value, account);
    }
    assert_eq!(
        store.account_by_one_time_key("acme", &kid("twice")).await,
        Ok(None)
    );
}

pub(crate) async fn a_one_time_key_stays_used_whatever_becomes_of_its_account(backend: &impl Backend) {
    let store = backend.open().await;
    let first = bound(account(), "once", true);
    store.create_account(&first).await.unwrap();
    let again = store.create_account(&first).await;
    assert!(matches!(
        again,
        Ok(Registration::Exists(_)) | Err(StoreError::Conflict)
    ));
    let same_key = Account::new("acme".to_owned(), first.key().clone(), Vec::new(), true, at(1));
    let again = store.create_account(&bound(same_key, "once", true)).await;
    assert!(matches!(again, Ok(Registration::Exists(_))), "{again:?}");
    let moved = first.with_key(account().key().clone());
    let written = store.update_account(Versioned::with(1, moved.clone())).await;
    assert_eq!(written, Ok(()));
    let user = store.account_by_one_time_key("acme", &kid("once")).await.unwrap();
    assert_eq!(user, Some(Versioned::with(2, moved.clone())));
    let ended = Versioned::with(2, moved.deactivated(at(5)));
    store.update_account(ended).await.unwrap();
    drop(store);
    let store = backend.open().await;
    let late = store.create_account(&bound(account(), "once", true)).await;
    assert!(matches!(late, Ok(Registration::KeyUsed)), "{late:?}");
}

pub(crate) async fn a_key_is_replaced_by_compare_and_swap(backend: &impl Backend) {
    let store = backend.open().await;
    let key = key("k1", "acme", 1);
    assert_eq!(store.create_external_account_key(&key).await, Ok(()));
    assert_eq!(
        store.create_external_account_key(&key).await,
        Err(StoreError::Conflict)
    );
    let read = store.external_account_key("acme", &kid("k1")).await.unwrap();
    assert_eq!(read, Some(Versioned::with(1, key.clone())));
    let revoked = Versioned::with(1, key.revoke(at(5)));
    assert_eq!(store.update_external_account_key(revoked.clone()).await, Ok(()));
    assert_eq!(
        store.update_external_account_key(revoked.clone()).await,
        Err(StoreError::Conflict)
    );
    let read = store.external_account_key("acme", &kid("k1")).await.unwrap();
    assert_eq!(read, Some(Versioned::with(2, revoked.value)));
    assert_eq!(store.external_account_key("acme", &kid("k2")).await, Ok(None));
    assert_eq!(store.external_account_key("other", &kid("k1")).await, Ok(None));
}

pub(crate) async fn keys_are_listed_the_oldest_first_and_are_there_after_reopening(backend: &impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.external_account_keys().await, Ok(Vec::new()));
    let keys = [
        key("c", "acme", 1),
        key("b", "other", 2),
        key("a", "acme", 3),
        key("b", "acme", 3),
    ];
    for key in keys.iter().rev() {
        store.create_external_account_key(key).await.unwrap();
    }
    assert_eq!(store.external_account_keys().await.unwrap(), keys);
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.external_account_keys().await.unwrap(), keys);
}
