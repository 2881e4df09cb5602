//! Accounts that were before the current one, at this CA or at the one that was configured before: an order is led to its
//! end, and its certificate revoked, by the account that has opened it.

use std::sync::Arc;

use crate::acme::problem::cleaned;
use crate::upstream::Error;
use crate::upstream::Settings;
use crate::upstream::account;
use crate::upstream::account::record::Record;
use crate::upstream::account::record::unkept;
use crate::upstream::acme::Ca;
use crate::upstream::acme::Session;
use crate::upstream::http::Client;

impl Ca {
    /// The account under this URL, which has opened an order. Most often it is the current one.
    pub(crate) async fn session_of(&self, account: &str) -> Result<Arc<Session>, Error> {
        let current = self.session().await?;
        if current.registered.url == account {
            return Ok(current);
        }
        let earlier = self.earlier(account).await?;
        earlier.map(Arc::new).ok_or_else(|| {
            let unknown = format!(
                "the account {} has opened the order, and its key is not here; acme-proxy upstream import brings it",
                cleaned(account, 200)
            );
            Error::transient(unknown).of_nobody_here()
        })
    }

    /// The account under this URL among those that were kept, if the CA still knows it by the key that is here.
    pub(crate) async fn earlier(&self, url: &str) -> Result<Option<Session>, Error> {
        let records = self.vault.others().await.map_err(unkept)?;
        for record in records.iter().filter_map(|bytes| Record::of_any(bytes)) {
            let Some(account) = record.account().filter(|account| account.url == url) else {
                continue;
            };
            let at_its_ca = async {
                let client = self.client_of(&record.ca_url)?;
                // It may have been kept with a key that it has no more.
                match account::stands(&client, &account).await.map_err(Error::from) {
                    Ok(true) => {}
                    Ok(false) | Err(Error::Permanent(_)) => return Ok(None),
                    Err(unclear) => return Err(unclear),
                }
                let session = Session::begin(client, &record.ca_url, account, false).await?;
                Ok(Some(session))
            };
            let found: Result<_, Error> = at_its_ca.await;
            if let Some(session) = found.map_err(Error::of_nobody_here)? {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }

    fn client_of(&self, directory: &str) -> Result<Client, Error> {
        if directory == self.settings.directory {
            return Ok(self.client.clone());
        }
        let settings = Settings {
            directory: directory.to_owned(),
            ..self.settings.clone()
        };
        Client::new(&settings).map_err(|error| Error::transient(error.to_string()))
    }
}
