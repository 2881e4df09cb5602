//! What the operator does with the account at the CA. No request of ours is under way meanwhile, and the next one is
//! signed by the key that the account then has: no restart is needed.

use std::sync::atomic::Ordering;

use tokio::sync::MutexGuard;
use tokio::sync::RwLockWriteGuard;

use crate::upstream::account;
use crate::upstream::account::change;
use crate::upstream::account::change::Rotated;
use crate::upstream::account::change::Unchanged;
use crate::upstream::account::overview::Confirmation;
use crate::upstream::account::overview::Earlier;
use crate::upstream::account::overview::Overview;
use crate::upstream::account::overview::Progress;
use crate::upstream::account::portable::Portable;
use crate::upstream::account::record::Record;
use crate::upstream::account::record::State;
use crate::upstream::account::record::unkept;
use crate::upstream::acme::Ca;
use crate::upstream::acme::Preparation;

impl Ca {
    /// What is known here about the account. The CA is not asked.
    ///
    /// # Errors
    ///
    /// The vault's.
    pub async fn overview(&self) -> Result<Overview, String> {
        Overview::of(&self.settings, self.vault.as_ref()).await
    }

    /// Asks the CA whether it knows the account. That spends nothing: it is a look at the account (RFC 8555 §7.3), and no
    /// registration.
    ///
    /// # Errors
    ///
    /// The vault's.
    pub async fn confirmed(&self) -> Result<Confirmation, String> {
        let _using = self.using_account.read().await;
        let Some(bytes) = self.vault.load().await? else {
            return Ok(Confirmation::Unregistered);
        };
        let Some(record) = Record::read(&self.settings, &bytes) else {
            return Ok(Confirmation::Unreadable);
        };
        if record.state == State::Registering {
            return Ok(Confirmation::Registering);
        }
        // After a change of the key that was cut off, the CA knows one of two.
        let (mut unclear, mut lost) = (None, None);
        for account in record.accounts() {
            let url = account.url.clone();
            match account::stands(&self.client, &account).await {
                Ok(true) => return Ok(Confirmation::Known { url }),
                Ok(false) => lost = Some(Confirmation::Lost { url }),
                Err(fault) => {
                    let why = fault.to_string();
                    unclear = Some(Confirmation::Unclear { url, why });
                }
            }
        }
        // It is lost only if the CA has disowned each of the keys.
        Ok(unclear.or(lost).unwrap_or(Confirmation::Unreadable))
    }

    /// The accounts of all other records: those before this one, and those of other CAs and EABs.
    ///
    /// # Errors
    ///
    /// The vault's.
    pub async fn earlier_accounts(&self) -> Result<Vec<Earlier>, String> {
        Earlier::all(self.vault.as_ref()).await
    }

    /// Registers now, if there is no account. `again`: makes another one if there is, which spends the EAB once more.
    /// Gives the account's URL, and whether it was not there before.
    ///
    /// # Errors
    ///
    /// Why there is no account, or no other one.
    pub async fn register(&self, again: bool) -> Result<(String, bool), Unchanged> {
        let overview = self.overview().await.map_err(unkept)?;
        if let (Progress::Registered { url, .. }, false) = (overview.progress, again) {
            return Ok((url, false));
        }
        let _alone = self.alone().await;
        let (client, settings, vault) = (&self.client, &self.settings, self.vault.as_ref());
        let registered = match again {
            true => account::alone(vault, change::register_again(client, settings, vault)).await?,
            false => account::ensure(client, settings, vault).await?,
        };
        Ok((registered.url, true))
    }

    /// Changes the account's key at the CA (RFC 8555 §7.3.5).
    ///
    /// # Errors
    ///
    /// Why it is as it was, or that nobody knows yet.
    pub async fn rotate_key(&self) -> Result<Rotated, Unchanged> {
        let _alone = self.alone().await;
        let (client, settings, vault) = (&self.client, &self.settings, self.vault.as_ref());
        account::alone(vault, change::rotate(client, settings, vault)).await
    }

    /// The account with its private key. If the CA has not named it yet, there is only the key: some CAs do not name an
    /// account again whose first answer was lost, and the operator has to look up its URL there.
    ///
    /// # Errors
    ///
    /// Why it can not be given out.
    pub async fn export(&self) -> Result<Portable, Unchanged> {
        let _alone = self.alone().await;
        let (settings, vault) = (&self.settings, self.vault.as_ref());
        let (key, url) = match Record::load(settings, vault).await? {
            None => return Err(Unchanged("there is no account yet".to_owned())),
            Some(record) if record.state == State::Registering => (record.key()?, None),
            Some(_) => {
                let account = account::ensure(&self.client, settings, vault).await?;
                (account.key, Some(account.url))
            }
        };
        tracing::info!(
            audit = true,
            ca.directory = settings.directory,
            key.thumbprint = key.thumbprint(),
            "account exported with its private key"
        );
        Ok(Portable::new(&settings.directory, url, key))
    }

    /// Takes an account from elsewhere, once the CA has said that its key is good. Gives its URL.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn import(&self, account: Portable, replace: bool) -> Result<String, Unchanged> {
        let _alone = self.alone().await;
        let (client, settings, vault) = (&self.client, &self.settings, self.vault.as_ref());
        account::alone(vault, change::import(client, settings, vault, account, replace)).await
    }

    /// Alone with the account. Whatever was known of it may not be so afterwards: it is prepared anew then, also if what is
    /// done is cut off.
    async fn alone(&self) -> (RwLockWriteGuard<'_, ()>, MutexGuard<'_, Preparation>) {
        let using = self.using_account.write().await;
        let mut preparation = self.session.lock().await;
        *preparation = Preparation::default();
        self.disowned.store(false, Ordering::Release);
        self.account_changed.notify_one();
        (using, preparation)
    }
}
