//! Accounts that come from a step-ca: each goes on here under its own URL, once, and takes no other's place.

use serde::{Deserialize, Serialize};

use crate::acme::account::{Account, AccountStatus};
use crate::acme::id::AccountName;
use crate::ra::RegistrationAuthority;
use crate::store::{Registration, StoreError};

/// What came of the import of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Imported {
    /// It is here now; or would be, if it was only to be seen.
    Now,
    /// It was here before, and stays as it is.
    Before,
    /// The same, but it is valid here, and deactivated where it comes from.
    StillValid,
    /// It was here before, under this other provisioner, and stays there.
    Elsewhere(String),
    /// Its key is this account's, and stays so.
    KeyTaken(AccountName),
}

impl RegistrationAuthority {
    /// Takes an account over. Never overwrites one, so that it can be done again.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn import_account(&self, account: &Account, dry_run: bool) -> Result<Imported, StoreError> {
        if let Some(outcome) = self.in_the_way(account).await? {
            return Ok(outcome);
        }
        if dry_run {
            return Ok(Imported::Now);
        }
        match self.store.create_account(account).await {
            Ok(Registration::Created) => Ok(Imported::Now),
            // Somebody was faster.
            Ok(Registration::Exists(_) | Registration::KeyUsed) | Err(StoreError::Conflict) => {
                self.in_the_way(account).await?.ok_or(StoreError::Conflict)
            }
            Err(error) => Err(error),
        }
    }

    async fn in_the_way(&self, account: &Account) -> Result<Option<Imported>, StoreError> {
        let (provisioner, thumbprint) = (account.provisioner(), account.key().thumbprint());
        if let Some(here) = self.store.account(account.id()).await? {
            let here = here.value;
            return Ok(Some(match (here.status(), account.status()) {
                _ if here.provisioner() != provisioner => Imported::Elsewhere(here.provisioner().to_owned()),
                (AccountStatus::Valid, AccountStatus::Deactivated) => Imported::StillValid,
                (AccountStatus::Valid | AccountStatus::Deactivated, _) => Imported::Before,
            }));
        }
        let holder = self.store.account_by_key(provisioner, &thumbprint).await?;
        Ok(holder.map(|holder| Imported::KeyTaken(holder.value.name())))
    }
}
