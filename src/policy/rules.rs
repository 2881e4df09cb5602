//! The rules of one level, and the levels that hold together: those of the whole authority, of a provisioner, and of the
//! external account key that the client's account was made with. Each of them must admit.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::acme::external_account::KeyId;
use crate::acme::external_account::NameLimits;
use crate::acme::identifier::Identifier;
use crate::acme::problem::Problem;
use crate::acme::problem::cleaned;
use crate::policy::clients::ClientRules;
use crate::policy::decision::Decision;
use crate::policy::names::InvalidLimit;
use crate::policy::names::NameRules;
use crate::policy::network::Network;
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
    /// The rules of an external account key of the store.
    ///
    /// # Errors
    ///
    /// What is no pattern or no network.
    pub fn of_key(kid: &KeyId, limits: &NameLimits) -> Result<Self, InvalidLimit> {
        let from = limits.from.iter().map(|text| {
            let Network(network) = text
                .parse()
                .map_err(|why| InvalidLimit::Network(text.clone(), why))?;
            Ok(network)
        });
        let quota = limits.orders.map(|(orders, within)| Quota { orders, within });
        let each = NameLimit {
            days: limits.days,
            quota,
            ..NameLimit::default()
        };
        Ok(Self {
            prefix: format!("external account key {kid}: "),
            names: limits.try_into()?,
            clients: ClientRules {
                allow: from.collect::<Result<_, _>>()?,
                deny: Vec::new(),
            },
            per_name: Vec::from_iter((each != NameLimit::default()).then_some(each)),
        })
    }

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

    /// Whether it matters from where a client calls.
    pub fn is_about_clients(&self) -> bool {
        !self.clients.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn level(prefix: &str, denied: &[&str], per_name: Vec<NameLimit>) -> Rules {
        Rules {
            prefix: prefix.to_owned(),
            names: NameRules {
                deny: denied.iter().map(|text| text.parse().unwrap()).collect(),
                ..NameRules::default()
            },
            clients: ClientRules::default(),
            per_name,
        }
    }

    fn limit(names: &[&str], days: Option<u32>, orders: Option<u32>) -> NameLimit {
        NameLimit {
            names: names.iter().map(|text| text.parse().unwrap()).collect(),
            networks: Vec::new(),
            days,
            quota: orders.map(|orders| Quota {
                orders,
                within: Duration::from_hours(1),
            }),
        }
    }

    fn dns(name: &str) -> Identifier {
        Identifier::dns(name).unwrap()
    }

    #[test]
    fn c413_the_first_level_that_refuses_a_name_says_so_with_its_rule() {
        let general = level("authority.policy.", &["a.example.com"], Vec::new());
        let provisioner = level("p.", &["b.example.com", "a.example.com"], Vec::new());
        let key = level("key: ", &["c.example.com", "b.example.com"], Vec::new());
        let levels = Levels::new(&general, &provisioner, Some(&key));
        for (name, told) in [
            (
                "a.example.com",
                Some("the policy of this server denies this identifier (authority.policy.x509.deny.dns[0])"),
            ),
            (
                "b.example.com",
                Some("the policy of this server denies this identifier (p.x509.deny.dns[0])"),
            ),
            (
                "c.example.com",
                Some("the external account key of this account is not for this name (key: x509.deny.dns[0])"),
            ),
            ("d.example.com", None),
        ] {
            assert_eq!(levels.refusal(&dns(name)).as_deref(), told, "{name}");
        }
        let places: Vec<&str> = levels.all().map(Rules::place).collect();
        assert_eq!(places, ["authority.policy", "p", "key"]);
    }

    #[test]
    fn h10_the_shortest_days_of_all_names_and_levels_count_also_for_a_wildcard_that_covers_one() {
        let general = level("g.", &[], vec![limit(&[], Some(90), None)]);
        let provisioner = level("p.", &[], vec![limit(&["a.example.com"], Some(7), Some(1))]);
        let levels = Levels::new(&general, &provisioner, None);
        let longest = |names: &[&str]| {
            let names: Vec<Identifier> = names.iter().map(|name| dns(name)).collect();
            let longest = levels.longest(&names).unwrap();
            (longest.days, longest.place)
        };
        assert_eq!(longest(&["b.example.com"]), (90, "g.per_name[0]".to_owned()));
        assert_eq!(longest(&["*.other.example"]), (90, "g.per_name[0]".to_owned()));
        for names in [
            &["a.example.com"][..],
            &["b.example.com", "a.example.com"],
            &["*.example.com"],
        ] {
            assert_eq!(longest(names), (7, "p.per_name[0]".to_owned()), "{names:?}");
        }
        assert_eq!(levels.quotas(&dns("*.example.com")).len(), 1);
        assert!(levels.quotas(&dns("b.example.com")).is_empty());
        assert!(levels.quotas(&Identifier::ip("10.0.0.1").unwrap()).is_empty());
        let none = Rules::default();
        assert_eq!(
            Levels::new(&none, &none, None).longest(&[dns("a.example.com")]),
            None
        );
    }

    #[test]
    fn h10_what_is_asked_for_is_measured_from_its_beginning_to_the_second() {
        let rules = level("p.", &[], vec![limit(&[], Some(1), None)]);
        let none = Rules::default();
        let levels = Levels::new(&none, &rules, None);
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let names = [dns("a.example.com")];
        let asked = |from: Option<i64>, to: Option<i64>| {
            let (from, to) = (from.map(at), to.map(at));
            levels
                .validity(&names, from, to, at(1000))
                .map_err(|problem| problem.kind)
        };
        assert_eq!(asked(None, None), Ok(Some(1)));
        assert_eq!(asked(None, Some(1000 + 86_400)), Ok(Some(1)));
        assert_eq!(asked(Some(5000), Some(5000 + 86_400)), Ok(Some(1)));
        let too_long = Err(crate::acme::problem::ProblemType::Malformed);
        assert_eq!(asked(None, Some(1000 + 86_401)), too_long);
        assert_eq!(asked(Some(999), Some(1000 + 86_400)), too_long);
    }
}
