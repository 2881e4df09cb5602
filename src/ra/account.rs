//! What can be done with accounts (RFC 8555 §7.3).

use std::net::IpAddr;

use crate::acme::account::{Account, AccountStatus, Contact};
use crate::acme::id::AccountName;
use crate::acme::problem::{Problem, ProblemType};
use crate::jose::eab::{BadBinding, Unverified};
use crate::jose::jwk::Jwk;
use crate::ra::external_account::used;
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{Registration, StoreError, Versioned};

/// A request for an account (RFC 8555 §7.3).
#[derive(Debug, Default)]
pub struct NewAccount {
    /// Contact URLs.
    pub contact: Vec<String>,
    /// Whether the client agrees to the terms of service.
    pub terms_of_service_agreed: bool,
    /// Whether the client only wants to find its account.
    pub only_return_existing: bool,
    /// The external account binding, if there is one. A bad one matters only to a request that is to make an account.
    pub binding: Option<Result<Unverified, BadBinding>>,
    /// The address that the request came from, if it is known.
    pub address: Option<IpAddr>,
}

/// A change of an account (RFC 8555 §7.3.2, §7.3.6).
#[derive(Debug, Default)]
pub struct AccountUpdate {
    /// The new contacts, if they are to change.
    pub contact: Option<Vec<String>>,
    /// Whether the account is to be deactivated.
    pub deactivate: bool,
}

impl RegistrationAuthority {
    /// Finds the key's account, or makes one. Tells whether it is new.
    ///
    /// # Errors
    ///
    /// `accountDoesNotExist` if only an existing one was wanted, `userActionRequired` if the terms of service were not
    /// agreed to, `badPublicKey` if the key is not the client's alone, `externalAccountRequired` without a binding where one is
    /// needed, `unauthorized` if the binding is not by a key that may be used, the policy does not admit the client's address or
    /// the account is deactivated,
    /// `rateLimited` if its address has made too many, and what is wrong with the binding's form or the contacts.
    pub async fn register(
        &self,
        provisioner: &str,
        key: Jwk,
        request: NewAccount,
    ) -> Result<(Account, bool), Refusal> {
        let rules = self
            .policy
            .provisioner(provisioner)
            .ok_or_else(Problem::not_found)?;
        let thumbprint = key.thumbprint();
        // RFC 8555 §7.3.1: for a known key the other fields of the request are ignored.
        if let Some(existing) = self.store.account_by_key(provisioner, &thumbprint).await? {
            return Ok((usable(existing)?, false));
        }
        if request.only_return_existing {
            return Err(Problem::new(ProblemType::AccountDoesNotExist, "no account has this key").into());
        }
        if let Some(shared) = self.shared_with_others(&key).await? {
            return Err(
                Problem::new(ProblemType::BadPublicKey, format!("the account's key {shared}")).into(),
            );
        }
        let (binding, of_key) = self.bind(rules, request.binding).await?.unzip();
        self.check_newcomer(rules, of_key, request.address)?;
        if let Some(terms) = &rules.terms_of_service
            && !request.terms_of_service_agreed
        {
            let detail = format!("agree to the terms of service first: {terms}");
            return Err(Problem::new(ProblemType::UserActionRequired, detail).into());
        }
        let contact = contacts(&request.contact)?;
        let agreed = request.terms_of_service_agreed;
        let account = Account::new(provisioner.to_owned(), key, contact, agreed, self.clock.now());
        let account = match binding {
            Some(binding) => account.bound(binding),
            None => account,
        };
        if let Some(address) = request.address {
            self.limits.new_account(address, self.clock.now())?;
        }
        match self.store.create_account(&account).await? {
            Registration::Created => {
                if let Some(binding) = account.binding() {
                    tracing::info!(
                        audit = true, account.id = %account.id(), eab.kid = %binding.kid(), provisioner,
                        "external account key used"
                    );
                }
                Ok((account, true))
            }
            Registration::Exists(existing) => Ok((usable(existing)?, false)),
            Registration::KeyUsed => Err(used().into()),
        }
    }

    /// The account that signs under this name and this provisioner.
    ///
    /// # Errors
    ///
    /// `accountDoesNotExist`, or `unauthorized` (401, RFC 8555 §7.3.6) if it is deactivated.
    pub async fn signing_account(&self, provisioner: &str, name: &AccountName) -> Result<Account, Refusal> {
        let unknown = || {
            Problem::new(
                ProblemType::AccountDoesNotExist,
                "the account in kid does not exist; register first",
            )
        };
        match self.store.account(name.id()).await? {
            Some(found) if found.value.provisioner() == provisioner && found.value.name() == *name => {
                usable(found)
            }
            Some(_) | None => Err(unknown().into()),
        }
    }

    /// Changes an account.
    ///
    /// # Errors
    ///
    /// What is wrong with the contacts.
    pub async fn update_account(&self, account: &Account, update: AccountUpdate) -> Result<Account, Refusal> {
        let contact = update.contact.as_deref().map(contacts).transpose()?;
        for _ in 0..MAX_CONFLICTS {
            let Some(stored) = self.store.account(account.id()).await? else {
                return Err(Problem::not_found().into());
            };
            let version = stored.version;
            let current = usable(stored)?;
            let mut next = match &contact {
                Some(contact) => current.clone().with_contact(contact.clone()),
                None => current.clone(),
            };
            if update.deactivate {
                next = next.deactivated(self.clock.now());
            }
            if next == current {
                return Ok(current);
            }
            match self
                .store
                .update_account(Versioned::with(version, next.clone()))
                .await
            {
                Ok(()) => return Ok(next),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}

/// RFC 8555 §7.3.6: "If a server receives a POST or POST-as-GET from a deactivated account, it MUST return an error
/// response with status code 401 (Unauthorized) and type "urn:ietf:params:acme:error:unauthorized"."
pub(crate) fn usable(account: Versioned<Account>) -> Result<Account, Refusal> {
    match account.value.status() {
        AccountStatus::Valid => Ok(account.value),
        AccountStatus::Deactivated => Err(Problem::unauthorized("the account is deactivated")
            .with_status(401)
            .into()),
    }
}

fn contacts(urls: &[String]) -> Result<Vec<Contact>, Problem> {
    if urls.len() > Contact::MAX {
        let detail = format!("an account has at most {} contacts", Contact::MAX);
        return Err(Problem::new(ProblemType::InvalidContact, detail));
    }
    urls.iter().map(|url| url.parse()).collect()
}
