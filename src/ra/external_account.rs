//! What can be done with external account keys (RFC 8555 §7.3.4): bind an account to one, and ask what the accounts of
//! one may order; and what the operator can do: add, list and revoke them.
//!
//! A key stands in the configuration or in the store. Of one that stands in both, the configuration's counts.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::account::Account;
use crate::acme::external_account::{Binding, ExternalAccountKey, KeyId, MacKey, NameLimits, Terms};
use crate::acme::id::AccountId;
use crate::acme::problem::{Problem, ProblemType};
use crate::acme::upstream::UpstreamName;
use crate::jose::eab::{BadBinding, Unverified};
use crate::policy::Provisioner;
use crate::policy::per_name::LONGEST_COUNT;
use crate::policy::rules::Rules;
use crate::ra::{MAX_CONFLICTS, Refusal, RegistrationAuthority};
use crate::store::{StoreError, Versioned};

/// A new key for the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// Its id, if it is not to be a random one.
    pub kid: Option<String>,
    /// The provisioner that it is for; may be left out if it is clear.
    pub provisioner: Option<String>,
    /// Whether it is for one account only.
    pub one_time: bool,
    /// The only names and addresses that its accounts may order, if there are any: patterns and networks.
    pub allow: Vec<String>,
    /// Names and addresses that they may not order.
    pub deny: Vec<String>,
    /// Whether they may order wildcards although one of the lists has an entry.
    pub wildcards: bool,
    /// The only networks that its clients may call from, if there are any.
    #[serde(default)]
    pub from: Vec<String>,
    /// How many days their certificates may be valid.
    #[serde(default)]
    pub days: Option<u32>,
    /// How many orders a name may have, and within which time.
    #[serde(default)]
    pub orders: Option<(u32, Duration)>,
    /// The upstream of their orders, whatever the names.
    #[serde(default)]
    pub upstream: Option<String>,
    /// How long accounts can be made with it.
    pub lifetime: Option<Duration>,
}

/// A key as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Its id.
    pub kid: KeyId,
    /// The provisioner that it is for.
    pub provisioner: String,
    /// Whether it stands in the configuration, not in the store.
    pub configured: bool,
    /// Whether it is for one account only.
    pub one_time: bool,
    /// The account that a one-time key was used for, and when.
    pub used: Option<(AccountId, Timestamp)>,
    /// The rules for its accounts' orders.
    pub rules: Rules,
    /// The upstream of its accounts' orders, whatever their names.
    pub upstream: Option<UpstreamName>,
    /// When it stops to be good for new accounts.
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// Why the operator does not get what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It can not be done like that.
    #[error("{0}")]
    Refused(String),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Refusal> for KeyError {
    /// What a client may not know, the operator has to.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Problem(problem) => Self::Refused(problem.detail),
            Refusal::Later { problem, cause, .. } => Self::Refused(format!("{} ({cause})", problem.detail)),
        }
    }
}

/// A key as registration sees it, wherever it stands.
struct Known {
    kid: KeyId,
    mac_key: MacKey,
    one_time: bool,
    rules: KeyRules,
    expires: Option<Timestamp>,
    revoked: bool,
}

/// What holds for the orders of a key's accounts.
pub(crate) struct KeyRules {
    /// Which orders they may have.
    pub(crate) rules: Rules,
    /// Where they are placed, whatever their names.
    pub(crate) upstream: Option<UpstreamName>,
}

impl RegistrationAuthority {
    /// Checks the binding of a new account, if one is needed or was sent, and gives it with the rules of its key.
    ///
    /// Where none is required and the provisioner has no key, a binding means nothing and is left out.
    pub(crate) async fn bind(
        &self,
        provisioner: &Provisioner,
        sent: Option<Result<Unverified, BadBinding>>,
    ) -> Result<Option<(Binding, KeyRules)>, Refusal> {
        let required = provisioner.external_accounts.required;
        let Some(sent) = sent else {
            return match required {
                false => Ok(None),
                true => Err(Problem::new(
                    ProblemType::ExternalAccountRequired,
                    "new accounts need an external account binding here; ask the operator of this server for a key",
                )
                .into()),
            };
        };
        if !required && !self.has_keys(provisioner).await? {
            return Ok(None);
        }
        let sent = sent.map_err(|bad| Problem::malformed(bad.to_string()))?;
        // What is no key id is no key's.
        let known = match sent.kid().parse() {
            Ok(kid) => self.known_key(provisioner, &kid).await?,
            Err(_) => None,
        };
        let verified = sent.verify(known.as_ref().map(|known| known.mac_key.as_bytes()));
        // The same answer for a key that does not exist and a MAC that is wrong.
        let (Some(known), Some(verified)) = (known, verified) else {
            let detail =
                "the external account binding does not verify under a key of this server; check kid and key";
            return Err(Problem::unauthorized(detail).into());
        };
        if let Some(problem) = known.ended(self.clock.now()) {
            return Err(problem.into());
        }
        let binding = Binding::new(known.kid, known.one_time, verified);
        Ok(Some((binding, known.rules)))
    }

    /// What the account's external account key is for, as of now: it may have changed since the account was made.
    pub(crate) async fn rules_of_key(&self, account: &Account) -> Result<Option<KeyRules>, Refusal> {
        let Some(binding) = account.binding() else {
            return Ok(None);
        };
        let provisioner = self.provisioner_of(account)?;
        match self.known_key(provisioner, binding.kid()).await? {
            Some(known) if !known.revoked => Ok(Some(known.rules)),
            Some(_) | None => {
                let detail = "the external account key that this account was made with was revoked; \
                              register anew with another key";
                Err(Problem::unauthorized(detail).into())
            }
        }
    }

    /// What a new account of this key could order, and why none can be made with it, if so.
    ///
    /// # Errors
    ///
    /// The provisioner has no such key.
    pub(crate) async fn rules_of_kid(
        &self,
        provisioner: &Provisioner,
        kid: &str,
    ) -> Result<(KeyId, KeyRules, Option<Problem>), KeyError> {
        let known = match kid.parse() {
            Ok(kid) => self.known_key(provisioner, &kid).await?,
            Err(_) => None,
        };
        let known = known.ok_or_else(|| {
            let name = &provisioner.name;
            KeyError::Refused(format!(
                "provisioner {name} has no external account key {kid:?}; acme-proxy eab list shows all keys"
            ))
        })?;
        let user = self
            .store
            .account_by_one_time_key(&provisioner.name, &known.kid)
            .await?;
        let problem = known.ended(self.clock.now()).or_else(|| user.map(|_| used()));
        Ok((known.kid, known.rules, problem))
    }

    /// Whether new accounts of the provisioner need an external account key.
    pub fn requires_external_account(&self, provisioner: &str) -> bool {
        let provisioner = self.policy.provisioner(provisioner);
        provisioner.is_some_and(|provisioner| provisioner.external_accounts.required)
    }

    /// The provisioners that want external account keys and have none that could be used.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn provisioners_without_key(&self) -> Result<Vec<String>, StoreError> {
        let (stored, now) = (self.store.external_account_keys().await?, self.clock.now());
        let usable = |provisioner: &Provisioner| {
            let of_store = |key: &ExternalAccountKey| {
                let expired = key.terms().expires.is_some_and(|expires| expires <= now);
                key.provisioner() == provisioner.name && key.revoked().is_none() && !expired
            };
            !provisioner.external_accounts.keys.is_empty() || stored.iter().any(of_store)
        };
        let provisioners = self.policy.provisioners().iter();
        let without = provisioners.filter(|p| p.external_accounts.required && !usable(p));
        Ok(without.map(|provisioner| provisioner.name.clone()).collect())
    }

    /// Makes a key and stores it.
    ///
    /// # Errors
    ///
    /// What is wrong with the request, in a sentence for the operator.
    pub async fn add_external_account_key(&self, new: NewKey) -> Result<ExternalAccountKey, KeyError> {
        let provisioner = self.provisioner_for_key(new.provisioner.as_deref())?;
        let kid = match new.kid {
            None => KeyId::random(),
            Some(text) => text
                .parse()
                .map_err(|error| KeyError::Refused(format!("{text:?} {error}")))?,
        };
        let taken = || {
            KeyError::Refused(format!(
                "provisioner {} has a key {kid} already",
                provisioner.name
            ))
        };
        if configured(provisioner, &kid).is_some() {
            return Err(taken());
        }
        let names = NameLimits {
            allow: new.allow,
            deny: new.deny,
            wildcards: new.wildcards,
            from: new.from,
            days: new.days,
            orders: new.orders,
        };
        Rules::of_key(&kid, &names).map_err(|error| KeyError::Refused(error.to_string()))?;
        if names.days == Some(0) || names.orders.is_some_and(|(orders, _)| orders == 0) {
            let text = "0 days or orders would refuse every name; write 1 or more";
            return Err(KeyError::Refused(text.to_owned()));
        }
        let minute = Duration::from_secs(60);
        if names
            .orders
            .is_some_and(|(_, within)| within > LONGEST_COUNT || within < minute)
        {
            let text = "orders are counted within a minute at least and 720h at most";
            return Err(KeyError::Refused(text.to_owned()));
        }
        let upstream = new.upstream.map(|text| self.upstream_named(&text)).transpose()?;
        let now = self.clock.now();
        let expires = new.lifetime.map(|lifetime| {
            let expires = now.checked_add(lifetime);
            expires.map_err(|_| KeyError::Refused("it would expire too far in the future".to_owned()))
        });
        let terms = Terms {
            one_time: new.one_time,
            names,
            upstream,
            expires: expires.transpose()?,
        };
        let key = ExternalAccountKey::new(kid.clone(), provisioner.name.clone(), terms, now);
        match self.store.create_external_account_key(&key).await {
            Ok(()) => {}
            Err(StoreError::Conflict) => return Err(taken()),
            Err(error) => return Err(error.into()),
        }
        tracing::info!(
            audit = true, eab.kid = %kid, provisioner = key.provisioner(), eab.one_time = key.terms().one_time,
            "external account key added"
        );
        Ok(key)
    }

    /// All keys, those of the configuration first.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn external_account_keys(&self) -> Result<Vec<KeyEntry>, KeyError> {
        let mut entries = Vec::new();
        for provisioner in self.policy.provisioners() {
            for key in &provisioner.external_accounts.keys {
                entries.push(KeyEntry {
                    kid: key.kid.clone(),
                    provisioner: provisioner.name.clone(),
                    configured: true,
                    one_time: key.one_time,
                    used: None,
                    rules: key.rules.clone(),
                    upstream: key.upstream,
                    expires: None,
                    revoked: None,
                });
            }
        }
        for key in self.store.external_account_keys().await? {
            entries.push(KeyEntry {
                kid: key.kid().clone(),
                provisioner: key.provisioner().to_owned(),
                configured: false,
                one_time: key.terms().one_time,
                used: None,
                rules: rules_of(&key)?,
                upstream: key.terms().upstream,
                expires: key.terms().expires,
                revoked: key.revoked(),
            });
        }
        for entry in &mut entries {
            let account = self
                .store
                .account_by_one_time_key(&entry.provisioner, &entry.kid)
                .await?;
            entry.used = account.map(|account| (account.value.id(), account.value.created()));
        }
        Ok(entries)
    }

    /// Revokes a key of the store: no account can be made with it, and those that there are can order nothing. Gives
    /// the name of its provisioner.
    ///
    /// # Errors
    ///
    /// There is no such key, or several; or it stands in the configuration.
    pub async fn revoke_external_account_key(
        &self,
        kid: &str,
        provisioner: Option<&str>,
    ) -> Result<String, KeyError> {
        let entries = self.external_account_keys().await?;
        let asked = |entry: &&KeyEntry| {
            entry.kid.as_str() == kid && provisioner.is_none_or(|name| entry.provisioner == name)
        };
        let found: Vec<&KeyEntry> = entries.iter().filter(asked).collect();
        let entry = match found.as_slice() {
            [] => return Err(KeyError::Refused(format!("there is no key {kid:?}"))),
            [entry] => *entry,
            [..] if found.iter().any(|entry| entry.configured) => return Err(in_the_file(kid)),
            [..] => {
                let text = format!("several provisioners have a key {kid:?}; name one with --provisioner");
                return Err(KeyError::Refused(text));
            }
        };
        if entry.configured {
            return Err(in_the_file(kid));
        }
        for _ in 0..MAX_CONFLICTS {
            let stored = self.store.external_account_key(&entry.provisioner, &entry.kid);
            let Some(Versioned { value, version }) = stored.await? else {
                break;
            };
            let revoked = Versioned::with(version, value.revoke(self.clock.now()));
            match self.store.update_external_account_key(revoked).await {
                Ok(()) => {
                    tracing::info!(
                        audit = true, eab.kid = %entry.kid, provisioner = entry.provisioner,
                        "external account key revoked"
                    );
                    return Ok(entry.provisioner.clone());
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// The provisioner that the operator means.
    pub(crate) fn provisioner_for_key(&self, named: Option<&str>) -> Result<&Provisioner, KeyError> {
        let all = self.policy.provisioners();
        let listed = || {
            let names: Vec<&str> = all.iter().map(|provisioner| provisioner.name.as_str()).collect();
            names.join(", ")
        };
        if let Some(named) = named {
            let found = self.policy.provisioner(named);
            return found.ok_or_else(|| {
                KeyError::Refused(format!(
                    "there is no provisioner {named:?}; there are: {}",
                    listed()
                ))
            });
        }
        let requiring: Vec<&Provisioner> = all.iter().filter(|p| p.external_accounts.required).collect();
        match (requiring.as_slice(), all) {
            ([one], _) => Ok(one),
            ([], [one]) => Ok(one),
            _ => Err(KeyError::Refused(format!(
                "name the provisioner with --provisioner; there are: {}",
                listed()
            ))),
        }
    }

    /// The upstream that the operator means.
    fn upstream_named(&self, text: &str) -> Result<UpstreamName, KeyError> {
        let routes = self.policy.routes();
        let named = text.parse().ok().filter(|name| routes.has(*name));
        named.ok_or_else(|| {
            let names = routes.names();
            KeyError::Refused(format!("there is no upstream {text:?}; there are: {names}"))
        })
    }

    async fn known_key(&self, provisioner: &Provisioner, kid: &KeyId) -> Result<Option<Known>, StoreError> {
        // The store is asked even if the configuration has the key, so that the time tells nothing of where it stands.
        let stored = self.store.external_account_key(&provisioner.name, kid).await?;
        if let Some(key) = configured(provisioner, kid) {
            return Ok(Some(key));
        }
        let Some(Versioned { value: key, .. }) = stored else {
            return Ok(None);
        };
        Ok(Some(Known {
            kid: key.kid().clone(),
            mac_key: key.mac_key().clone(),
            one_time: key.terms().one_time,
            rules: KeyRules {
                rules: rules_of(&key)?,
                upstream: key.terms().upstream,
            },
            expires: key.terms().expires,
            revoked: key.revoked().is_some(),
        }))
    }

    async fn has_keys(&self, provisioner: &Provisioner) -> Result<bool, StoreError> {
        if !provisioner.external_accounts.keys.is_empty() {
            return Ok(true);
        }
        let stored = self.store.external_account_keys().await?;
        Ok(stored.iter().any(|key| key.provisioner() == provisioner.name))
    }
}

impl Known {
    /// Why no account can be made with it any more.
    fn ended(&self, now: Timestamp) -> Option<Problem> {
        if self.revoked {
            return Some(Problem::unauthorized("the external account key was revoked"));
        }
        let is_over = self.expires.is_some_and(|expires| expires <= now);
        is_over.then(|| Problem::unauthorized("the external account key has expired"))
    }
}

/// A one-time key has its account.
pub(crate) fn used() -> Problem {
    Problem::unauthorized("the external account key has been used already; it is for one account")
}

fn configured(provisioner: &Provisioner, kid: &KeyId) -> Option<Known> {
    let mut keys = provisioner.external_accounts.keys.iter();
    let key = keys.find(|key| key.kid == *kid)?;
    Some(Known {
        kid: key.kid.clone(),
        mac_key: key.mac_key.clone(),
        one_time: key.one_time,
        rules: KeyRules {
            rules: key.rules.clone(),
            upstream: key.upstream,
        },
        expires: None,
        revoked: false,
    })
}

fn rules_of(key: &ExternalAccountKey) -> Result<Rules, StoreError> {
    Rules::of_key(key.kid(), &key.terms().names).map_err(|_| {
        StoreError::Corrupt(format!(
            "the names of external account key {} can not be read",
            key.kid()
        ))
    })
}

fn in_the_file(kid: &str) -> KeyError {
    KeyError::Refused(format!(
        "the key {kid:?} stands in the configuration, under eabKeys; remove it there and restart the daemon"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_reads_what_is_wrong_with_the_store_and_not_what_its_client_is_told() {
        let hangs = StoreError::Stalled { seconds: 31 };
        let told = KeyError::from(Refusal::from(hangs.clone())).to_string();
        assert!(told.contains(&hangs.to_string()), "{told}");
        let refused = Problem::unauthorized("the account is deactivated");
        let told = KeyError::from(Refusal::from(refused)).to_string();
        assert_eq!(told, "the account is deactivated");
    }
}
