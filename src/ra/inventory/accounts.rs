//! Accounts as operators see them, and their end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::account::{Account, AccountStatus};
use crate::acme::id::{AccountId, AccountName};
use crate::ra::RegistrationAuthority;
use crate::ra::account::AccountUpdate;
use crate::ra::external_account::KeyError;
use crate::ra::inventory::{Found, Part, SCANNED, Walk, account_named, parsed};
use crate::store::Versioned;

/// Which accounts are wanted: those for which all of it is true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountFilter {
    /// Those with a contact that has this in it.
    #[serde(default)]
    pub contact: Option<String>,
    /// Those with this status (RFC 8555 §7.1.6).
    #[serde(default)]
    pub status: Option<String>,
    /// Those whose key has this RFC 7638 thumbprint.
    #[serde(default)]
    pub key_thumbprint: Option<String>,
}

/// An account.
#[derive(Debug, Serialize)]
pub struct AccountRecord {
    /// Its id.
    pub id: AccountId,
    /// The id that it was imported with, which is the one in its URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_id: Option<String>,
    /// RFC 8555 §7.1.6.
    pub status: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was deactivated.
    pub deactivated: Option<Timestamp>,
    /// The provisioner that it was made under.
    pub provisioner: String,
    /// The RFC 7638 thumbprint of its key.
    pub key_thumbprint: String,
    /// Whom to write to.
    pub contact: Vec<String>,
    /// Whether its client has agreed to the terms of service.
    pub terms_of_service_agreed: bool,
    /// The external account key that it was made with.
    pub eab_kid: Option<String>,
}

/// An account with its orders.
#[derive(Debug, Serialize)]
pub struct AccountDetails {
    /// What the list shows.
    #[serde(flatten)]
    pub record: AccountRecord,
    /// How many of its orders have which status.
    pub orders: BTreeMap<String, usize>,
    /// It has more orders than were counted.
    pub has_more_orders: bool,
}

impl RegistrationAuthority {
    /// A part of the accounts that are wanted.
    ///
    /// # Errors
    ///
    /// What is wrong with the filter; the store's.
    pub async fn account_records(
        &self,
        filter: &AccountFilter,
        part: &Part,
    ) -> Result<Found<AccountRecord>, KeyError> {
        let status = filter.status.as_deref().map(status_named).transpose()?;
        let wanted = |account: &AccountRecord| {
            let has = |contact: &String| account.contact.iter().any(|url| url.contains(contact.as_str()));
            let is = |thumbprint: &String| account.key_thumbprint == *thumbprint;
            filter.contact.as_ref().is_none_or(has)
                && filter.key_thumbprint.as_ref().is_none_or(is)
                && status.is_none_or(|status| account.status == status.to_string())
        };
        let after = part.after.as_deref().map(parsed).transpose()?;
        let ids = self.store.all_accounts(after, SCANNED).await?;
        let mut walk = Walk::new(part, ids.len());
        let mut records = Vec::new();
        for id in ids {
            if walk.is_over(records.len(), id).await {
                break;
            }
            let account = self.store.account(id).await?;
            let account = account.map(|account| record_of(&account.value));
            records.extend(account.filter(wanted));
        }
        Ok(walk.found(records))
    }

    /// The account with this id, and its orders counted.
    ///
    /// # Errors
    ///
    /// There is none; the store's.
    pub async fn account_details(&self, id: &str) -> Result<AccountDetails, KeyError> {
        let account = self.account_of_operator(id).await?.value;
        let now = self.clock.now();
        let orders = self.store.orders_of(account.id(), None, SCANNED).await?;
        let has_more_orders = orders.len() >= SCANNED;
        let mut counted = BTreeMap::new();
        for id in orders {
            if let Some(order) = self.store.order(id).await? {
                let of_status: &mut usize = counted.entry(order.value.status(now).to_string()).or_default();
                *of_status = of_status.saturating_add(1);
            }
        }
        Ok(AccountDetails {
            record: record_of(&account),
            orders: counted,
            has_more_orders,
        })
    }

    /// Ends the account for good, as its owner could (RFC 8555 §7.3.6).
    ///
    /// # Errors
    ///
    /// There is none, or it has ended already; the store's.
    pub async fn deactivate_by_operator(&self, id: &str) -> Result<AccountRecord, KeyError> {
        let account = self.account_of_operator(id).await?.value;
        if let Some(at) = account.deactivated_at() {
            return Err(KeyError::Refused(format!(
                "the account {id} is deactivated already, since {at:.0}"
            )));
        }
        let update = AccountUpdate {
            deactivate: true,
            ..AccountUpdate::default()
        };
        let deactivated = self.update_account(&account, update).await;
        let deactivated = deactivated?;
        tracing::info!(target: "acme_proxy::operator", audit = true, account.id = %account.id(), "account deactivated by the operator");
        Ok(record_of(&deactivated))
    }

    /// The account that the operator means, by its id or URL.
    pub(crate) async fn account_of_operator(&self, text: &str) -> Result<Versioned<Account>, KeyError> {
        let account = self.store.account(account_named(text)?.id()).await?;
        account.ok_or_else(|| KeyError::Refused(format!("there is no account {text:?}")))
    }
}

fn status_named(text: &str) -> Result<AccountStatus, KeyError> {
    let all = [AccountStatus::Valid, AccountStatus::Deactivated];
    let found = all.into_iter().find(|status| status.to_string() == text);
    found.ok_or_else(|| {
        KeyError::Refused(format!(
            "{text:?} is no status of an account; there are valid and deactivated"
        ))
    })
}

fn record_of(account: &Account) -> AccountRecord {
    AccountRecord {
        id: account.id(),
        foreign_id: match account.name() {
            AccountName::Ours(_) => None,
            AccountName::Foreign(foreign) => Some(foreign.to_string()),
        },
        status: account.status().to_string(),
        created: account.created(),
        deactivated: account.deactivated_at(),
        provisioner: account.provisioner().to_owned(),
        key_thumbprint: account.key().thumbprint(),
        contact: account
            .contact()
            .iter()
            .map(|contact| contact.as_str().to_owned())
            .collect(),
        terms_of_service_agreed: account.terms_of_service_agreed(),
        eab_kid: account.binding().map(|binding| binding.kid().to_string()),
    }
}
