//! The rules of one level, and the levels that hold together: those of the whole authority, of a provisioner, and of the
//! external account key that the client's account was made with. Each of them must admit.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::identifier::Identifier;
use crate::acme::problem::Problem;
use crate::acme::problem::cleaned;
use crate::policy::clients::ClientRules;
use crate::policy::decision::Decision;
use crate::policy::names::NameRules;
use crate::policy::per_name::NameLimit;
use crate::policy::per_name::Quota;

/// The rules of one level. The default admits everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What the places of the rules begin with, up to the key: `authority.policy.`
    pub prefix: String,
    /// Which names and addresses may be ordered.
    pub names: NameRules,
    /// From where.
    pub clients: ClientRules,
    /// How much of each.
    pub per_name: Vec<NameLimit>,
}

impl Rules {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        let Self {
            names,
            clients,
            per_name,
            ..
        } = self;
        *names == NameRules::default() && clients.is_empty() && per_name.is_empty()
    }

    /// Where they stand, for people.
    pub fn place(&self) -> &str {
        self.prefix.trim_end_matches([' ', '.', ':'])
    }

    /// What they say about an identifier.
    pub fn about_name(&self, identifier: &Identifier) -> Decision {
        self.names.decision(&self.prefix, identifier)
    }

    /// What they say about a client.
    pub fn about_client(&self, address: Option<IpAddr>) -> Decision {
        self.clients.decision(&self.prefix, address)
    }

    /// The limits that an identifier has, each with its place.
    fn limits_of(&self, identifier: &Identifier) -> impl Iterator<Item = (String, &NameLimit)> {
        let numbered = self.per_name.iter().enumerate();
        let own = numbered.filter(|(_, limit)| limit.is_about(identifier));
        own.map(|(index, limit)| (format!("{}per_name[{index}]", self.prefix), limit))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names.fmt(f)?;
        if !self.clients.is_empty() {
            write!(f, "; {}", self.clients)?;
        }
        self.per_name.iter().try_for_each(|limit| write!(f, "; {limit}"))
    }
}

/// A bound on the validity of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Longest {
    /// At most so many days.
    pub days: u32,
    /// Where the rule stands.
    pub place: String,
    /// The identifier that it is about.
    pub identifier: Identifier,
}

/// How many orders there may be for an identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedQuota {
    /// So many.
    pub quota: Quota,
    /// Where the rule stands.
    pub place: String,
}

/// The levels that hold for somebody's orders.
#[derive(Debug, Clone)]
pub struct Levels<'a> {
    /// Those of the authority and of the provisioner.
    of_server: [&'a Rules; 2],
    /// Those of the external account key, if the account has one.
    of_key: Option<&'a Rules>,
}

impl<'a> Levels<'a> {
    /// The levels: general rules, the provisioner's, and the key's.
    pub(crate) fn new(general: &'a Rules, provisioner: &'a Rules, of_key: Option<&'a Rules>) -> Self {
        Self {
            of_server: [general, provisioner],
            of_key,
        }
    }

    /// All of them, in the order in which they are asked.
    pub fn all(&self) -> impl Iterator<Item = &'a Rules> + use<'a> {
        self.of_server.into_iter().chain(self.of_key)
    }

    /// Why an identifier is refused, if it is: the first level's word that refuses it.
    pub(crate) fn refusal(&self, identifier: &Identifier) -> Option<String> {
        let refused =
            |rules: &&Rules| Some(rules.about_name(identifier)).filter(|decision| !decision.allowed);
        let of_server = self.of_server.iter().find_map(refused);
        let of_key = || {
            let decision = self.of_key.as_ref().and_then(refused)?;
            let why = "the external account key of this account is not for this name";
            Some(Decision { why, ..decision })
        };
        let decision = of_server.or_else(of_key)?;
        Some(format!("{} ({})", decision.why, decision.place))
    }

    /// Whether a client at this address may order.
    ///
    /// # Errors
    ///
    /// `unauthorized`.
    pub fn client(&self, address: Option<IpAddr>) -> Result<(), Problem> {
        let refused = self.all().map(|rules| rules.about_client(address));
        let Some(decision) = refused.into_iter().find(|decision| !decision.allowed) else {
            return Ok(());
        };
        let address = address.map_or("unknown".to_owned(), |address| address.to_canonical().to_string());
        let detail = format!("{}, {address} ({})", decision.why, decision.place);
        Err(Problem::unauthorized(detail))
    }

    /// The bound on the validity of a certificate for these: the shortest of all.
    pub fn longest<'i>(&self, identifiers: impl IntoIterator<Item = &'i Identifier>) -> Option<Longest> {
        let mut shortest: Option<Longest> = None;
        for identifier in identifiers {
            for (place, limit) in self.all().flat_map(|rules| rules.limits_of(identifier)) {
                let Some(days) = limit.days else { continue };
                if shortest.as_ref().is_none_or(|known| days < known.days) {
                    shortest = Some(Longest {
                        days,
                        place,
                        identifier: identifier.clone(),
                    });
                }
            }
        }
        shortest
    }

    /// The bound in days, if there is one.
    ///
    /// # Errors
    ///
    /// `malformed` if more is asked for: RFC 8555 §7.4 has no certificate issued with another validity than that.
    pub fn validity<'i>(
        &self,
        identifiers: impl IntoIterator<Item = &'i Identifier>,
        not_before: Option<Timestamp>,
        not_after: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Option<u32>, Problem> {
        let Some(longest) = self.longest(identifiers) else {
            return Ok(None);
        };
        let Longest {
            days,
            place,
            identifier,
        } = longest;
        let asked = not_after.map(|end| end.duration_since(not_before.unwrap_or(now)));
        let is_longer = |asked: jiff::SignedDuration| {
            Duration::try_from(asked).is_ok_and(|asked| asked > Duration::from_hours(24) * days)
        };
        match asked.is_some_and(is_longer) {
            false => Ok(Some(days)),
            true => Err(Problem::malformed(format!(
                "notAfter is too late: a certificate for {} is valid for at most {days} days ({place})",
                cleaned(&identifier.to_string(), 260)
            ))),
        }
    }

    /// How many orders there may be for an identifier.
    pub fn quotas(&self, identifier: &Identifier) -> Vec<PlacedQuota> {
        let limits = self.all().flat_map(|rules| rules.limits_of(identifier));
        let placed =
            |(place, limit): (String, &NameLimit)| limit.quota.map(|quota| PlacedQuota { quota, place });
        limits.filter_map(placed).collect()
    }
}
