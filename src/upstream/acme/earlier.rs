//! Accounts that were before the current one, at this CA or at the one that was configured before: an order is led to its
//! end, and its certificate revoked, by the account that has opened it.

use std::sync::Arc;

use crate::acme::problem::cleaned;
use crate::upstream::Error;
use crate::upstream::Settings;
use crate::upstream::account;
use crate::upstream::account::Registered;
use crate::upstream::account::record::Record;
use crate::upstream::account::record::unkept;
use crate::upstream::acme::Ca;
use crate::upstream::acme::Session;
use crate::upstream::acme::Standing;
use crate::upstream::http::Client;

/// What is known of an account that has opened an order.
pub(crate) enum Earlier {
    /// Its CA knows it by the key that is here.
    Usable(Arc<Session>),
    /// Its key is here, and its CA does not take it: it has deactivated or lost the account.
    Refused,
    /// Its key is not here.
    Unknown,
}

impl Ca {
    /// The account under this URL, which has opened an order. Most often it is the current one.
    pub(crate) async fn session_of(&self, account: &str) -> Result<Arc<Session>, Error> {
        let current = self.session().await?;
        if account.is_empty() || current.registered.url == account {
            return Ok(current);
        }
        let url = cleaned(account, 200);
        match self.earlier(account).await? {
            Earlier::Usable(session) => Ok(session),
            // RFC 8555 §7.3.6: the CA cancels what the account has pending, and shows it to nobody.
            Earlier::Refused => Err(Error::OrderUnseen(format!(
                "the CA does not know the account {url} any more, which has opened the order"
            ))),
            Earlier::Unknown => {
                let unknown = format!(
                    "the account {url} has opened the order, and its key is not here; acme-proxy upstream import brings it"
                );
                Err(Error::transient(unknown).of_nobody_here())
            }
        }
    }

    /// The account under this URL among those that were kept.
    pub(crate) async fn earlier(&self, url: &str) -> Result<Earlier, Error> {
        let mut found = Earlier::Unknown;
        let records = self.vault.others().await.map_err(unkept)?;
        for record in records.iter().filter_map(|bytes| Record::of_any(bytes)) {
            // It may have been kept with a key that it has no more, or in the middle of a change.
            for account in record.accounts().into_iter().filter(|account| account.url == url) {
                let session = self.session_at(&record.ca_url, account).await;
                match session.map_err(Error::of_nobody_here)? {
                    Some(session) => return Ok(Earlier::Usable(Arc::new(session))),
                    None => found = Earlier::Refused,
                }
            }
        }
        Ok(found)
    }

    async fn session_at(&self, directory: &str, account: Registered) -> Result<Option<Session>, Error> {
        let (client, standing) = match directory == self.settings.directory {
            true => (self.client.clone(), Standing::Earlier),
            false => (self.client_of(directory)?, Standing::Elsewhere),
        };
        match account::stands(&client, &account).await.map_err(Error::from) {
            Ok(true) => {}
            Ok(false) | Err(Error::Permanent(_)) => return Ok(None),
            Err(unclear) => return Err(unclear),
        }
        Ok(Some(Session::begin(client, directory, account, standing).await?))
    }

    /// The way to another CA. Its requests are not counted among this one's.
    fn client_of(&self, directory: &str) -> Result<Client, Error> {
        let settings = Settings {
            directory: directory.to_owned(),
            ..self.settings.clone()
        };
        Client::new(&settings).map_err(|error| Error::transient(error.to_string()))
    }
}
