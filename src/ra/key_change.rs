//! Giving an account another key (RFC 8555 §7.3.5).

use crate::acme::account::Account;
use crate::acme::id::AccountName;
use crate::acme::problem::{Problem, ProblemType};
use crate::jose::key_change::KeyChange;
use crate::ra::account::usable;
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{StoreError, Versioned};

/// What came of a key change.
#[derive(Debug)]
pub enum KeyChanged {
    /// The account has the new key, and the old one is nobody's.
    Done(Account),
    /// The new key is another account's; nothing has changed.
    Taken(AccountName),
}

impl RegistrationAuthority {
    /// Gives the account, which has signed with the key in it, the key that has signed the change.
    ///
    /// # Errors
    ///
    /// `malformed` if the old key is not the account's, or the new one is; `badPublicKey` if the new one is not
    /// the client's alone; `unauthorized` if the account is deactivated.
    pub async fn change_key(&self, account: &Account, change: KeyChange) -> Result<KeyChanged, Refusal> {
        let KeyChange { new_key, old_key, .. } = change;
        let thumbprint = new_key.thumbprint();
        for _ in 0..MAX_CONFLICTS {
            let Some(stored) = self.store.account(account.id()).await? else {
                return Err(Problem::not_found().into());
            };
            let version = stored.version;
            let current = usable(stored)?;
            // Both keys count: a request that was signed before another change, by the key that is retired since, must
            // not take the account back.
            if *account.key() != old_key || *current.key() != old_key {
                return Err(Problem::malformed("oldKey is not the account's current key").into());
            }
            if new_key == old_key {
                return Err(Problem::malformed("the new key is the account's already").into());
            }
            if let Some(shared) = self.shared_with_others(&new_key).await? {
                return Err(Problem::new(ProblemType::BadPublicKey, format!("the new key {shared}")).into());
            }
            if let Some(holder) = self
                .store
                .account_by_key(account.provisioner(), &thumbprint)
                .await?
            {
                return Ok(KeyChanged::Taken(holder.value.name()));
            }
            let next = current.with_key(new_key.clone());
            match self
                .store
                .update_account(Versioned::with(version, next.clone()))
                .await
            {
                Ok(()) => return Ok(KeyChanged::Done(next)),
                // The account has changed, or the key has been taken since.
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::acme::id::AccountId;
    use crate::clock::Clock;
    use crate::jose::jwk::{Curve, Jwk};
    use crate::policy::{Policy, Settings};
    use crate::store::Store as _;
    use crate::store::sled::SledStore;

    fn key() -> Jwk {
        Jwk::Ec {
            crv: Curve::P256,
            x: AccountId::random().to_string(),
            y: AccountId::random().to_string(),
        }
    }

    fn change(account: &Account, old_key: &Jwk) -> KeyChange {
        KeyChange {
            new_key: key(),
            account: account.id().to_string(),
            old_key: old_key.clone(),
        }
    }

    #[tokio::test]
    async fn c313_a_retired_key_whose_request_was_under_way_does_not_take_the_account_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(crate::store::Settings {
            path: directory.path().join("db"),
            reserve_bytes: 0,
            cache_bytes: 1 << 20,
            gather: Duration::ZERO,
        });
        let policy = Policy::new(Settings {
            provisioners: Vec::new(),
            rules: crate::policy::rules::Rules::default(),
            routes: crate::policy::routes::Routes::default(),
            issuance_deadline: Duration::ZERO,
            order_lifetime: Duration::ZERO,
            wishes: std::collections::BTreeMap::new(),
            limits: crate::policy::limits::Limits::default(),
            blocked_keys: crate::policy::blocked_keys::BlockedKeys::default(),
        });
        let store = Arc::new(store.unwrap());
        let clock = Clock::system();
        let signer = Account::new("acme".to_owned(), key(), Vec::new(), true, clock.now());
        store.create_account(&signer).await.unwrap();
        let ra = RegistrationAuthority::new(store.clone(), policy, clock);
        let Ok(KeyChanged::Done(changed)) = ra.change_key(&signer, change(&signer, signer.key())).await
        else {
            panic!("the key is not changed")
        };
        // The signatures of these were good, by the key that the account had when they came.
        for old_key in [signer.key(), changed.key()] {
            let refused = ra.change_key(&signer, change(&signer, old_key)).await;
            assert!(matches!(refused, Err(Refusal::Problem(_))), "{refused:?}");
        }
        let stored = store.account(signer.id()).await.unwrap().unwrap();
        assert_eq!(stored.value, changed);
    }
}
