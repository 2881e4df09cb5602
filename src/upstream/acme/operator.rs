//! What the operator does with the account at the CA. No request of ours is under way meanwhile, and the next one is
//! signed by the key that the account then has: no restart is needed.

use std::sync::atomic::Ordering;

use crate::upstream::account;
use crate::upstream::account::change;
use crate::upstream::account::change::Rotated;
use crate::upstream::account::change::Unchanged;
use crate::upstream::account::overview::Earlier;
use crate::upstream::account::overview::Overview;
use crate::upstream::account::overview::Progress;
use crate::upstream::account::portable::Portable;
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
        let _alone = self.using_account.write().await;
        let mut preparation = self.session.lock().await;
        let (client, settings, vault) = (&self.client, &self.settings, self.vault.as_ref());
        let registered = match again {
            true => change::register_again(client, settings, vault).await,
            false => account::ensure(client, settings, vault).await.map_err(Into::into),
        };
        self.begin_anew(&mut preparation);
        Ok((registered?.url, true))
    }

    /// Changes the account's key at the CA (RFC 8555 §7.3.5).
    ///
    /// # Errors
    ///
    /// Why it is as it was, or that nobody knows yet.
    pub async fn rotate_key(&self) -> Result<Rotated, Unchanged> {
        let _alone = self.using_account.write().await;
        let mut preparation = self.session.lock().await;
        let rotated = change::rotate(&self.client, &self.settings, self.vault.as_ref()).await;
        self.begin_anew(&mut preparation);
        rotated
    }

    /// The account with its private key.
    ///
    /// # Errors
    ///
    /// Why it can not be given out.
    pub async fn export(&self) -> Result<Portable, Unchanged> {
        if let Progress::Unregistered | Progress::Registering { .. } =
            self.overview().await.map_err(unkept)?.progress
        {
            return Err(Unchanged("there is no account yet".to_owned()));
        }
        let account = account::ensure(&self.client, &self.settings, self.vault.as_ref()).await?;
        tracing::info!(
            audit = true,
            ca.directory = self.settings.directory,
            key.thumbprint = account.key.thumbprint(),
            "account exported with its private key"
        );
        Ok(Portable::new(&self.settings.directory, account))
    }

    /// Takes an account from elsewhere, once the CA has said that its key is good. Gives its URL.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn import(&self, account: Portable, replace: bool) -> Result<String, Unchanged> {
        let _alone = self.using_account.write().await;
        let mut preparation = self.session.lock().await;
        let (client, settings, vault) = (&self.client, &self.settings, self.vault.as_ref());
        let imported = change::import(client, settings, vault, account, replace).await;
        self.begin_anew(&mut preparation);
        imported
    }

    /// Whatever was known of the account may not be so any more.
    fn begin_anew(&self, preparation: &mut Preparation) {
        *preparation = Preparation::default();
        self.disowned.store(false, Ordering::Release);
        self.account_changed.notify_one();
    }
}
