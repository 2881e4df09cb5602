//! What the policy is asked: about each new order, about the same order when it is finalized, and by the operator, who
//! wants to know which rule decides. All three ask it here.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::account::Account;
use crate::acme::challenge::ChallengeType;
use crate::acme::external_account::KeyId;
use crate::acme::id::AccountId;
use crate::acme::identifier::Identifier;
use crate::acme::order::{Order, after};
use crate::acme::problem::{NamedIdentifier, Problem, ProblemType, cleaned};
use crate::acme::upstream::UpstreamName;
use crate::policy::Provisioner;
use crate::policy::decision::Decision;
use crate::policy::per_name::Quota;
use crate::policy::rules::{Levels, Longest, PlacedQuota, Rules};
use crate::ra::account::usable;
use crate::ra::external_account::{KeyError, KeyRules};
use crate::ra::{Refusal, RegistrationAuthority};
use crate::store::{NameQuota, StoreError};

/// Whose orders the policy is asked about.
pub(crate) struct Applicant<'a> {
    provisioner: &'a Provisioner,
    key: Option<KeyRules>,
}

/// What an order may be made of.
pub(crate) struct Admitted {
    /// Its identifiers, each with the challenges to offer.
    pub(crate) identifiers: Vec<(Identifier, Vec<ChallengeType>)>,
    /// Where it goes.
    pub(crate) upstream: UpstreamName,
}

/// The orders of a name, held against how many there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The rule.
    pub rule: PlacedQuota,
    /// How many there are.
    pub orders: usize,
    /// When there may be another one, if there may be none now.
    pub free_at: Option<Timestamp>,
}

/// What the operator wants to know of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Question {
    /// The name or address that somebody would order.
    pub name: String,
    /// The account that would order it; its URL will do.
    pub account: Option<String>,
    /// In place of an account: the external account key that a new one would be made with.
    #[serde(default)]
    pub eab: Option<String>,
    /// The provisioner; may be left out if it is clear.
    pub provisioner: Option<String>,
    /// The address that the client would call from, if that matters.
    pub from: Option<IpAddr>,
}

/// What the policy says to an order for one name, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The name.
    pub name: String,
    /// The provisioner.
    pub provisioner: String,
    /// The account.
    pub account: Option<AccountId>,
    /// The external account key that it was made with, or would be.
    pub key: Option<KeyId>,
    /// What each level says.
    pub levels: Vec<Level>,
    /// The challenges that the client would be offered, and where the order would go.
    pub way: Option<(Vec<ChallengeType>, UpstreamName)>,
    /// How long its certificate may be valid.
    pub longest: Option<Longest>,
    /// Its orders.
    pub counts: Vec<Count>,
    /// What the client would read, if there would be no order.
    pub refusal: Option<Problem>,
}

/// What one level says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Where its rules stand.
    pub place: String,
    /// Whether there are any.
    pub is_empty: bool,
    /// About the name, if it is one.
    pub name: Option<Decision>,
    /// About the client, if an address was given.
    pub client: Option<Decision>,
    /// Whether some of them are about clients.
    pub is_about_clients: bool,
}

/// What the store is to see to when the order is finalized.
pub(crate) fn quotas_of(levels: &Levels<'_>, order: &Order, now: Timestamp) -> Vec<NameQuota> {
    let of_name = |name: &Identifier| {
        let rules = levels.quotas(name).into_iter();
        let name = name.clone();
        rules.map(move |rule| NameQuota {
            name: name.clone(),
            since: counting_from(&rule.quota, now),
            orders: most_of(&rule.quota),
        })
    };
    order.identifiers().flat_map(of_name).collect()
}

/// From when on orders count.
fn counting_from(quota: &Quota, now: Timestamp) -> Timestamp {
    now.checked_sub(quota.within).unwrap_or(Timestamp::MIN)
}

fn most_of(quota: &Quota) -> usize {
    usize::try_from(quota.orders).unwrap_or(usize::MAX)
}

impl RegistrationAuthority {
    /// # Errors
    ///
    /// `unauthorized` if the account's external account key has been revoked; not found if its provisioner is gone.
    pub(crate) async fn applicant(&self, account: &Account) -> Result<Applicant<'_>, Refusal> {
        Ok(Applicant {
            provisioner: self.provisioner_of(account)?,
            key: self.rules_of_key(account).await?,
        })
    }

    /// All rules that hold for the applicant.
    pub(crate) fn levels_of<'a>(&'a self, applicant: &'a Applicant<'_>) -> Levels<'a> {
        self.policy.levels(applicant.provisioner, applicant.rules())
    }

    /// What an order for these would be made of.
    ///
    /// # Errors
    ///
    /// Why they can not be ordered.
    pub(crate) fn admitted(
        &self,
        applicant: &Applicant<'_>,
        requested: &[NamedIdentifier],
    ) -> Result<Admitted, Problem> {
        let provisioner = applicant.provisioner;
        let identifiers = self.policy.admit(provisioner, applicant.rules(), requested)?;
        let chosen = applicant.key.as_ref().and_then(|key| key.upstream);
        let names = identifiers.iter().map(|(identifier, _)| identifier);
        let upstream = self
            .policy
            .routes()
            .for_order(chosen.or(provisioner.upstream), names)?;
        Ok(Admitted {
            identifiers,
            upstream,
        })
    }

    /// # Errors
    ///
    /// Why the order's names could not be ordered any more.
    pub(crate) fn still_admits(&self, applicant: &Applicant<'_>, order: &Order) -> Result<(), Problem> {
        let (provisioner, rules) = (applicant.provisioner, applicant.rules());
        self.policy.still_admits(provisioner, rules, order.identifiers())
    }

    /// Whether an account may be made from this address, with a key that has these rules.
    pub(crate) fn check_newcomer(
        &self,
        provisioner: &Provisioner,
        key: Option<KeyRules>,
        address: Option<IpAddr>,
    ) -> Result<(), Problem> {
        let applicant = Applicant { provisioner, key };
        self.levels_of(&applicant).client(address)
    }

    /// Whether each of the names may have one more order.
    ///
    /// # Errors
    ///
    /// `rateLimited`, with when to come again.
    pub(crate) async fn check_quotas<'i>(
        &self,
        levels: &Levels<'_>,
        identifiers: impl Iterator<Item = &'i Identifier>,
    ) -> Result<(), Refusal> {
        let now = self.clock.now();
        for identifier in identifiers {
            for count in self.counts(levels, identifier, now).await? {
                if let Some(free_at) = count.free_at {
                    return Err(too_many(identifier, &count.rule, free_at, now));
                }
            }
        }
        Ok(())
    }

    /// The name's orders, held against each rule about their number.
    async fn counts(
        &self,
        levels: &Levels<'_>,
        identifier: &Identifier,
        now: Timestamp,
    ) -> Result<Vec<Count>, StoreError> {
        let mut counts = Vec::new();
        for rule in levels.quotas(identifier) {
            let within = rule.quota.within;
            let since = counting_from(&rule.quota, now);
            let orders = self.store.orders_for(identifier, since).await?;
            let most = most_of(&rule.quota);
            // Once this one does not count any more, one fewer do than may.
            let last = orders.len().checked_sub(most).and_then(|index| orders.get(index));
            counts.push(Count {
                free_at: last.map(|last| after(after(*last, within), Duration::from_nanos(1))),
                orders: orders.len(),
                rule,
            });
        }
        Ok(counts)
    }

    /// Says what would become of an order for one name, and which rules decide.
    ///
    /// # Errors
    ///
    /// There is no such account, key or provisioner.
    pub async fn explain(&self, question: Question) -> Result<Explanation, KeyError> {
        let stored = match &question.account {
            Some(text) => Some(self.account_of_operator(text).await?),
            None => None,
        };
        let account = stored.as_ref().map(|account| account.value.clone());
        let provisioner = match (&account, question.provisioner.as_deref()) {
            (Some(account), Some(named)) if account.provisioner() != named => {
                let theirs = account.provisioner();
                let text = format!("the account is one of provisioner {theirs}, not of {named:?}");
                return Err(KeyError::Refused(text));
            }
            (Some(account), _) => self.provisioner_for_key(Some(account.provisioner()))?,
            (None, named) => self.provisioner_for_key(named)?,
        };
        let named = match question.name.parse::<IpAddr>() {
            Ok(_) => "ip",
            Err(_) => "dns",
        };
        let named = NamedIdentifier {
            kind: named.to_owned(),
            value: question.name.clone(),
        };
        let mut kid = account
            .as_ref()
            .and_then(Account::binding)
            .map(|binding| binding.kid().clone());
        let (key, unusable) = match (&account, &question.eab) {
            (Some(account), _) => match self.rules_of_key(account).await {
                Ok(key) => (key, None),
                Err(refusal) => (None, Some(told(refusal)?)),
            },
            (None, Some(named)) => {
                let (known, rules, unusable) = self.rules_of_kid(provisioner, named).await?;
                kid = Some(known);
                (Some(rules), unusable)
            }
            (None, None) => (None, None),
        };
        let applicant = Applicant { provisioner, key };
        let levels = self.levels_of(&applicant);
        let identifier = Identifier::dns(&named.value)
            .or_else(|_| Identifier::ip(&named.value))
            .ok();
        let place_of = |rules: &Rules| Level {
            place: rules.place().to_owned(),
            is_empty: rules.is_empty(),
            name: identifier.as_ref().map(|identifier| rules.about_name(identifier)),
            client: question.from.map(|from| rules.about_client(Some(from))),
            is_about_clients: rules.is_about_clients(),
        };
        let client = match question.from {
            Some(from) => levels.client(Some(from)),
            None => Ok(()),
        };
        let admitted = self.admitted(&applicant, &[named]);
        let (mut longest, mut counts) = (None, Vec::new());
        if let Some(identifier) = &identifier {
            longest = levels.longest([identifier]);
            counts = self.counts(&levels, identifier, self.clock.now()).await?;
        }
        let quotas = self.check_quotas(&levels, identifier.iter()).await;
        let quotas = quotas.err().map(told).transpose()?;
        // In the order of a request: who signs, from where, what for, how much of it.
        let signer = stored.and_then(|account| usable(account).err());
        let signer = signer.map(told).transpose()?;
        let refusal = signer.or(unusable).or(client.err());
        let (way, refused) = match admitted {
            Ok(Admitted {
                identifiers,
                upstream,
            }) => {
                let challenges = identifiers.into_iter().next().map(|(_, challenges)| challenges);
                (Some((challenges.unwrap_or_default(), upstream)), None)
            }
            Err(problem) => (None, Some(problem)),
        };
        Ok(Explanation {
            name: identifier.as_ref().map_or(question.name, ToString::to_string),
            provisioner: provisioner.name.clone(),
            levels: levels.all().map(place_of).collect(),
            account: account.map(|account| account.id()),
            key: kid,
            way,
            longest,
            counts,
            refusal: refusal.or(refused).or(quotas),
        })
    }
}

impl Applicant<'_> {
    fn rules(&self) -> Option<&Rules> {
        self.key.as_ref().map(|key| &key.rules)
    }
}

/// What the client would be told, unless we could not find out.
fn told(refusal: Refusal) -> Result<Problem, KeyError> {
    match refusal {
        Refusal::Later { ref problem, .. } if problem.kind == ProblemType::ServerInternal => {
            Err(refusal.into())
        }
        Refusal::Problem(problem) | Refusal::Later { problem, .. } => Ok(problem),
    }
}

/// 429 with a `Retry-After` (RFC 8555 §6.6), rounded up to whole seconds.
fn too_many(identifier: &Identifier, rule: &PlacedQuota, free_at: Timestamp, now: Timestamp) -> Refusal {
    let wait = Duration::try_from(free_at.duration_since(now)).unwrap_or_default();
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let detail = format!(
        "{} has had {}; try again in {seconds} seconds (the server's limit is {} in ca.json)",
        cleaned(&identifier.to_string(), 260),
        rule.quota,
        rule.place
    );
    Refusal::Later {
        problem: Problem::new(ProblemType::RateLimited, detail),
        retry_after: Duration::from_secs(seconds),
        cause: rule.place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_does_not_tell_is_explained_as_no_refusal() {
        let hangs = StoreError::Stalled { seconds: 31 };
        let error = told(hangs.clone().into()).unwrap_err().to_string();
        assert!(error.contains(&hangs.to_string()), "{error}");
        let limited = Refusal::Later {
            problem: Problem::new(ProblemType::RateLimited, "too many"),
            retry_after: Duration::from_secs(1),
            cause: "per_name[0]".to_owned(),
        };
        assert_eq!(told(limited).unwrap().detail, "too many");
    }
}
