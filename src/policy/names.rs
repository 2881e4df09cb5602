//! Rules about names: step-ca's `policy.x509` with its `allow`, `deny` and `allowWildcardNames`.
//!
//! A `*` stands for exactly one label, and `deny` wins. Where a wildcard would cover a denied name it is refused, which
//! step-ca does not do.

use std::fmt;
use std::str::FromStr;

use crate::acme::external_account::NameLimits;
use crate::acme::identifier::Identifier;

/// Which names may be ordered. The default admits every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRules {
    /// A name must match one of these; `None` admits all, an empty list none.
    pub allow: Option<Vec<NamePattern>>,
    /// A name may match none of these, whatever `allow` says.
    pub deny: Vec<NamePattern>,
    /// Whether wildcards may be ordered at all.
    pub wildcards: bool,
}

impl Default for NameRules {
    fn default() -> Self {
        Self {
            allow: None,
            deny: Vec::new(),
            wildcards: true,
        }
    }
}

impl NameRules {
    /// Why the rules refuse the identifier, if they do.
    pub(crate) fn refusal(&self, identifier: &Identifier) -> Option<&'static str> {
        if identifier.is_wildcard() && !self.wildcards {
            return Some("the policy of this server does not allow wildcards");
        }
        if self.deny.iter().any(|pattern| pattern.covered_by(identifier)) {
            return Some("the policy of this server denies this name");
        }
        match &self.allow {
            Some(allow) if !allow.iter().any(|pattern| pattern.covers(identifier)) => {
                Some("the policy of this server does not allow this name")
            }
            Some(_) | None => None,
        }
    }
}

impl TryFrom<&NameLimits> for NameRules {
    type Error = InvalidPattern;

    fn try_from(limits: &NameLimits) -> Result<Self, InvalidPattern> {
        let patterns = |texts: &[String]| -> Result<Vec<NamePattern>, InvalidPattern> {
            texts.iter().map(|text| text.parse()).collect()
        };
        let (allow, deny) = (patterns(&limits.allow)?, patterns(&limits.deny)?);
        Ok(Self {
            wildcards: limits.wildcards || (allow.is_empty() && deny.is_empty()),
            allow: (!allow.is_empty()).then_some(allow),
            deny,
        })
    }
}

impl fmt::Display for NameRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.allow {
            None => f.write_str("every name")?,
            Some(allow) if allow.is_empty() => f.write_str("no name at all")?,
            Some(allow) => write!(f, "only {}", listed(allow))?,
        }
        if !self.deny.is_empty() {
            write!(f, ", but not {}", listed(&self.deny))?;
        }
        f.write_str(match self.wildcards {
            true => "",
            false => ", and no wildcards",
        })
    }
}

fn listed(patterns: &[NamePattern]) -> String {
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
        let base = identifier.base().as_str();
        match (self.one_label_below, identifier) {
            (false, Identifier::Dns(_)) => base == self.name,
            (true, Identifier::Dns(_)) => parent(base) == Some(&self.name),
            (true, Identifier::Wildcard(_)) => base == self.name,
            (false, Identifier::Wildcard(_)) => false,
        }
    }

    /// Whether the identifier stands for any name that the pattern means: a certificate for `*.example.com` would
    /// serve the denied `host.example.com` too.
    fn covered_by(&self, identifier: &Identifier) -> bool {
        let below_wildcard = identifier.is_wildcard()
            && !self.one_label_below
            && parent(&self.name) == Some(identifier.base().as_str());
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
            assert_eq!(rules.refusal(&identifier).is_none(), *admitted, "{rules}: {name}");
        }
    }

    #[test]
    fn an_empty_allow_list_admits_nothing() {
        let none = NameRules {
            allow: Some(Vec::new()),
            ..NameRules::default()
        };
        assert!(
            none.refusal(&Identifier::dns("www.example.com").unwrap())
                .is_some()
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
}
