//! Rules about names and addresses: step-ca's `policy.x509` with its `allow`, `deny` and `allowWildcardNames`.
//!
//! A `*` stands for exactly one label, and `deny` wins. Where a wildcard would cover a denied name it is refused, which
//! step-ca does not do.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::acme::external_account::NameLimits;
use crate::acme::identifier::DnsName;
use crate::acme::identifier::Identifier;
use crate::policy::decision::Decision;
use crate::policy::decision::first_of;
use crate::policy::network::InvalidNetwork;
use crate::policy::network::Network;

/// Which names and addresses may be ordered. The default admits all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRules {
    /// A name must match one of these; `None` admits all, an empty list none.
    pub allow: Option<Vec<NamePattern>>,
    /// A name may match none of these, whatever `allow` says.
    pub deny: Vec<NamePattern>,
    /// The same, written as common names.
    pub deny_common_names: Vec<NamePattern>,
    /// Whether wildcards may be ordered at all.
    pub wildcards: bool,
    /// An address must be in one of these networks; `None` admits all, an empty list none.
    pub allow_networks: Option<Vec<IpNet>>,
    /// An address may be in none of these, whatever `allow_networks` says.
    pub deny_networks: Vec<IpNet>,
}

impl Default for NameRules {
    fn default() -> Self {
        Self {
            allow: None,
            deny: Vec::new(),
            deny_common_names: Vec::new(),
            wildcards: true,
            allow_networks: None,
            deny_networks: Vec::new(),
        }
    }
}

impl NameRules {
    /// What the rules say about the identifier. `prefix` is what the rules' places begin with.
    pub(crate) fn decision(&self, prefix: &str, identifier: &Identifier) -> Decision {
        let decided = |allowed, key: &str, pattern: Option<String>, why| Decision {
            allowed,
            place: format!("{prefix}x509{key}"),
            pattern,
            why,
        };
        if identifier.is_wildcard() && !self.wildcards {
            let why = "the policy of this server does not allow wildcards";
            return decided(false, ".allowWildcardNames", None, why);
        }
        let rules = match identifier {
            Identifier::Dns(_) | Identifier::Wildcard(_) => self.about_names(identifier),
            Identifier::Ip(address) => self.about_addresses(address),
        };
        match rules {
            Applying {
                denied: Some((key, pattern)),
                ..
            } => {
                let why = "the policy of this server denies this identifier";
                decided(false, &key, Some(pattern), why)
            }
            Applying {
                allowed: Some((key, pattern)),
                ..
            } => decided(true, &key, Some(pattern), "it is allowed"),
            Applying { list: Some(key), .. } => {
                let why = "the policy of this server does not allow this identifier";
                decided(false, key, None, why)
            }
            Applying { .. } => decided(true, "", None, "no rule is against it"),
        }
    }

    fn about_names(&self, identifier: &Identifier) -> Applying {
        let covered = |pattern: &NamePattern| pattern.covered_by(identifier);
        let denied = first_of(&self.deny, ".deny.dns", covered);
        let denied = denied.or_else(|| first_of(&self.deny_common_names, ".deny.cn", covered));
        let list = self.allow.as_deref();
        let covers = |pattern: &NamePattern| pattern.covers(identifier);
        let allowed = first_of(list.unwrap_or_default(), ".allow.dns", covers);
        Applying {
            denied: denied.map(shown),
            allowed: allowed.map(shown),
            list: list.map(|_| ".allow.dns"),
        }
    }

    fn about_addresses(&self, address: &IpAddr) -> Applying {
        let holds = |network: &IpNet| network.contains(address);
        let list = self.allow_networks.as_deref();
        Applying {
            denied: first_of(&self.deny_networks, ".deny.ip", holds).map(shown),
            allowed: first_of(list.unwrap_or_default(), ".allow.ip", holds).map(shown),
            list: list.map(|_| ".allow.ip"),
        }
    }
}

/// The rules that are about one identifier, each with its key.
struct Applying {
    denied: Option<(String, String)>,
    allowed: Option<(String, String)>,
    /// The list that it must be in, if there is one.
    list: Option<&'static str>,
}

fn shown<T: fmt::Display>((key, pattern): (String, &T)) -> (String, String) {
    (key, pattern.to_string())
}

impl fmt::Display for NameRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deny = [self.deny.as_slice(), &self.deny_common_names].concat();
        write_list(f, "name", self.allow.as_ref(), &deny)?;
        f.write_str(match self.wildcards {
            true => "; ",
            false => ", and no wildcards; ",
        })?;
        write_list(f, "address", self.allow_networks.as_ref(), &self.deny_networks)
    }
}

pub(crate) fn write_list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    allow: Option<&Vec<T>>,
    deny: &[T],
) -> fmt::Result {
    match allow {
        None => write!(f, "every {what}")?,
        Some(allow) if allow.is_empty() => write!(f, "no {what}")?,
        Some(allow) => write!(f, "only {}", listed(allow))?,
    }
    match deny.is_empty() {
        true => Ok(()),
        false => write!(f, ", but not {}", listed(deny)),
    }
}

impl TryFrom<&NameLimits> for NameRules {
    type Error = InvalidLimit;

    /// As for rules that allow something, what is allowed is all that is.
    fn try_from(limits: &NameLimits) -> Result<Self, InvalidLimit> {
        let (allow, allow_networks) = sorted(&limits.allow)?;
        let (deny, deny_networks) = sorted(&limits.deny)?;
        let allows_any = !limits.allow.is_empty();
        Ok(Self {
            wildcards: limits.wildcards || (!allows_any && limits.deny.is_empty()),
            allow: allows_any.then_some(allow),
            deny,
            deny_common_names: Vec::new(),
            allow_networks: allows_any.then_some(allow_networks),
            deny_networks,
        })
    }
}

/// Patterns for names, and networks, told apart.
fn sorted(texts: &[String]) -> Result<(Vec<NamePattern>, Vec<IpNet>), InvalidLimit> {
    let (mut patterns, mut networks) = (Vec::new(), Vec::new());
    for text in texts {
        // Addresses first: the text of an IPv4 address would be a name, too.
        match (text.parse(), text.parse()) {
            (Ok(Network(network)), _) => networks.push(network),
            (Err(InvalidNetwork::Syntax), Ok(pattern)) => patterns.push(pattern),
            (Err(InvalidNetwork::Syntax), Err(_)) => return Err(InvalidLimit::Names(text.clone())),
            (Err(why), _) => return Err(InvalidLimit::Network(text.clone(), why)),
        }
    }
    Ok((patterns, networks))
}

/// A limit of a key that can not be kept to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimit {
    /// The text is no pattern for names and no network.
    #[error(
        "{0:?} stands for no names; write one name (host.example.com), *.example.com for all names one label below, or \
         an address or network (10.0.0.0/8)"
    )]
    Names(String),
    /// The text is no network that can be used.
    #[error("{0:?} {1}")]
    Network(String, InvalidNetwork),
}

pub(crate) fn listed<T: fmt::Display>(patterns: &[T]) -> String {
    let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// A name (`host.example.com`), or all names exactly one label below a name (`*.example.com`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    name: String,
    one_label_below: bool,
}

impl NamePattern {
    /// Whether the pattern admits all that the identifier stands for.
    fn covers(&self, identifier: &Identifier) -> bool {
        match (self.one_label_below, identifier) {
            (false, Identifier::Dns(name)) => name.as_str() == self.name,
            (true, Identifier::Dns(name)) => parent(name.as_str()) == Some(&self.name),
            (true, Identifier::Wildcard(base)) => base.as_str() == self.name,
            (false, Identifier::Wildcard(_)) | (_, Identifier::Ip(_)) => false,
        }
    }

    /// Whether the identifier stands for any name that the pattern means: a certificate for `*.example.com` would
    /// serve the denied `host.example.com` too.
    pub(crate) fn covered_by(&self, identifier: &Identifier) -> bool {
        let is_below = |base: &DnsName| !self.one_label_below && parent(&self.name) == Some(base.as_str());
        let below_wildcard = matches!(identifier, Identifier::Wildcard(base) if is_below(base));
        self.covers(identifier) || below_wildcard
    }
}

/// The name without its leftmost label. Comparing whole parents is what keeps `evilexample.com` apart from
/// `example.com`.
fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.one_label_below { "*." } else { "" })?;
        f.write_str(&self.name)
    }
}

/// The text is no pattern for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no pattern for DNS names; write one name (host.example.com), or *.example.com for all names one label below, \
     internationalised names as A-labels (xn--)"
)]
pub struct InvalidPattern;

impl FromStr for NamePattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let stripped = text.strip_prefix("*.");
        let name = stripped.unwrap_or(text).to_ascii_lowercase();
        let good_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if name.len() > 253 || !name.split('.').all(good_label) {
            return Err(InvalidPattern);
        }
        Ok(Self {
            name,
            one_label_below: stripped.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<NamePattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn rules(allow: &[&str], deny: &[&str], wildcards: bool) -> NameRules {
        NameRules {
            allow: (!allow.is_empty()).then(|| patterns(allow)),
            deny: patterns(deny),
            wildcards,
            ..NameRules::default()
        }
    }

    #[test]
    fn rules_match_as_in_step_ca_and_deny_wins() {
        // allow, deny, wildcards, name, admitted
        let cases: &[(&[&str], &[&str], bool, &str, bool)] = &[
            (&[], &[], true, "www.example.com", true),
            (&[], &[], true, "*.example.com", true),
            (&["*.example.com"], &[], false, "www.example.com", true),
            (&["*.Example.COM"], &[], false, "www.example.com", true),
            (&["*.example.com"], &[], false, "example.com", false),
            (&["*.example.com"], &[], false, "a.b.example.com", false),
            (&["*.example.com"], &[], false, "wwwexample.com", false),
            (&["example.com"], &[], false, "www.example.com", false),
            (&["*.local"], &[], false, "host.local", true),
            (&["*.example.com"], &[], false, "*.example.com", false),
            (&["*.example.com"], &[], true, "*.example.com", true),
            (&["www.example.com"], &[], true, "*.example.com", false),
            (
                &["*.example.com"],
                &["www.example.com"],
                true,
                "www.example.com",
                false,
            ),
            (
                &["*.example.com"],
                &["www.example.com"],
                true,
                "web.example.com",
                true,
            ),
            (
                &["*.example.com"],
                &["www.example.com"],
                true,
                "*.example.com",
                false,
            ),
            (
                &["*.example.com"],
                &["a.b.example.com"],
                true,
                "*.example.com",
                true,
            ),
            (
                &["*.example.com"],
                &["*.example.com"],
                true,
                "www.example.com",
                false,
            ),
            (&[], &["*.example.com"], true, "*.example.com", false),
            (&[], &["*.example.com"], true, "www.example.net", true),
        ];
        for (allow, deny, wildcards, name, admitted) in cases {
            let rules = rules(allow, deny, *wildcards);
            let identifier = Identifier::dns(name).unwrap();
            assert_eq!(
                rules.decision("", &identifier).allowed,
                *admitted,
                "{rules}: {name}"
            );
        }
    }

    #[test]
    fn addresses_have_rules_of_their_own() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let rules = NameRules {
            allow_networks: Some(networks(&["10.0.0.0/8", "2001:db8::/32"])),
            deny_networks: networks(&["10.1.0.0/16"]),
            ..NameRules::default()
        };
        for (address, admitted) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            let identifier = Identifier::ip(address).unwrap();
            assert_eq!(rules.decision("", &identifier).allowed, admitted, "{address}");
        }
        let no_address = NameRules {
            allow_networks: Some(Vec::new()),
            ..NameRules::default()
        };
        let allowed = |identifier: Identifier| no_address.decision("", &identifier).allowed;
        assert!(!allowed(Identifier::ip("10.0.0.1").unwrap()));
        assert!(allowed(Identifier::dns("www.example.com").unwrap()));
    }

    #[test]
    fn an_empty_allow_list_admits_nothing() {
        let none = NameRules {
            allow: Some(Vec::new()),
            ..NameRules::default()
        };
        let decision = none.decision("p.", &Identifier::dns("www.example.com").unwrap());
        assert_eq!(
            (decision.allowed, decision.place.as_str()),
            (false, "p.x509.allow.dns")
        );
    }

    #[test]
    fn texts_that_are_no_patterns_are_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*.*.example.com",
            "a.*.com",
            ".example.com",
            "a..b",
            "example.com.",
            "ü.de",
            "a_b",
        ] {
            assert_eq!(text.parse::<NamePattern>(), Err(InvalidPattern), "{text}");
        }
    }

    #[test]
    fn limits_of_a_key_admit_what_they_allow_of_names_and_addresses_alike() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rules = |allow: &[&str], deny: &[&str], wildcards| {
            NameRules::try_from(&NameLimits {
                allow: texts(allow),
                deny: texts(deny),
                wildcards,
                ..NameLimits::default()
            })
        };
        assert_eq!(rules(&[], &[], false), Ok(NameRules::default()));
        let admitted = |rules: &NameRules| {
            let identifiers = [
                Identifier::dns("www.example.com").unwrap(),
                Identifier::dns("*.example.com").unwrap(),
                Identifier::dns("www.example.net").unwrap(),
                Identifier::ip("10.0.0.1").unwrap(),
            ];
            identifiers.map(|identifier| rules.decision("", &identifier).allowed)
        };
        let names = rules(&["*.example.com"], &[], false).unwrap();
        assert_eq!(admitted(&names), [true, false, false, false]);
        let wildcards = rules(&["*.example.com"], &[], true).unwrap();
        assert_eq!(admitted(&wildcards), [true, true, false, false]);
        let networks = rules(&["10.0.0.0/8"], &[], true).unwrap();
        assert_eq!(admitted(&networks), [false, false, false, true]);
        let denied = rules(&[], &["www.example.net", "10.0.0.1"], false).unwrap();
        assert_eq!(admitted(&denied), [true, false, false, false]);
        for wrong in ["10.0.0.1/8", "a..b", "*", ""] {
            let error = rules(&[wrong], &[], false).unwrap_err();
            assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
        }
    }
}
