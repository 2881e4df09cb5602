//! Which upstream an order is placed at: the one that the client's external account key names, else the provisioner's,
//! else the one that claims the names, else the default one.
//!
//! All names of an order go to one CA: an order is one purchase.

use std::fmt;
use std::str::FromStr;

use crate::acme::identifier::DnsName;
use crate::acme::identifier::Identifier;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::upstream::UpstreamName;

/// A domain that an upstream claims: the name, and every name below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain(DnsName);

/// The text is no domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no domain; write e.g. \"example.org\", which stands for itself and every name below it")]
pub struct InvalidDomain;

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        text.parse().map(Self).map_err(|_| InvalidDomain)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Domain {
    fn holds(&self, name: &DnsName) -> bool {
        let above = name.as_str().strip_suffix(self.0.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }
}

/// The upstreams besides the default one, with what each of them claims.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// Each upstream with its domains. No domain is claimed twice.
    pub upstreams: Vec<(UpstreamName, Vec<Domain>)>,
}

/// The names of one order are claimed by different upstreams.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} and {} are for different CAs", names.0, names.1)]
pub struct Split {
    /// Two of the names that can not be in one certificate.
    pub names: (String, String),
    /// The upstreams that they are for.
    pub upstreams: (UpstreamName, UpstreamName),
}

impl Routes {
    /// Whether there is an upstream of this name.
    pub fn has(&self, upstream: UpstreamName) -> bool {
        upstream.is_default() || self.upstreams.iter().any(|(name, _)| *name == upstream)
    }

    /// What the upstream claims.
    pub fn domains_of(&self, upstream: UpstreamName) -> &[Domain] {
        let claims = self.upstreams.iter().find(|(name, _)| *name == upstream);
        claims.map_or(&[], |(_, domains)| domains.as_slice())
    }

    /// All names, to be shown.
    pub fn names(&self) -> String {
        let others = self.upstreams.iter().map(|(name, _)| name.to_string());
        let names = std::iter::once(UpstreamName::DEFAULT.to_string()).chain(others);
        names.collect::<Vec<_>>().join(", ")
    }

    /// The upstream that claims the names: for each of them the longest domain counts. An address is nobody's.
    ///
    /// # Errors
    ///
    /// [`Split`].
    pub fn of_names<'a>(
        &self,
        identifiers: impl IntoIterator<Item = &'a Identifier>,
    ) -> Result<UpstreamName, Split> {
        let mut first: Option<(&Identifier, UpstreamName)> = None;
        for identifier in identifiers {
            let upstream = self.of_name(identifier);
            match first {
                Some((known, other)) if other != upstream => {
                    return Err(Split {
                        names: (known.to_string(), identifier.to_string()),
                        upstreams: (other, upstream),
                    });
                }
                Some(_) => {}
                None => first = Some((identifier, upstream)),
            }
        }
        Ok(first.map_or(UpstreamName::DEFAULT, |(_, upstream)| upstream))
    }

    /// The same, for names.
    ///
    /// # Errors
    ///
    /// [`Split`].
    pub fn of_hosts(&self, hosts: &[DnsName]) -> Result<UpstreamName, Split> {
        let hosts: Vec<Identifier> = hosts.iter().cloned().map(Identifier::Dns).collect();
        self.of_names(&hosts)
    }

    fn of_name(&self, identifier: &Identifier) -> UpstreamName {
        let name = match identifier {
            Identifier::Dns(name) | Identifier::Wildcard(name) => name,
            Identifier::Ip(_) => return UpstreamName::DEFAULT,
        };
        let claims = self.upstreams.iter().flat_map(|(upstream, domains)| {
            domains
                .iter()
                .map(|domain| (domain.0.as_str().len(), domain, *upstream))
        });
        let claims = claims.filter(|(_, domain, _)| domain.holds(name));
        let longest = claims.max_by_key(|(length, _, _)| *length);
        longest.map_or(UpstreamName::DEFAULT, |(_, _, upstream)| upstream)
    }

    /// The upstream for an order: `chosen` by the key or the provisioner, or claimed by the names.
    ///
    /// # Errors
    ///
    /// `rejectedIdentifier` if the names are for different CAs; `serverInternal` if the chosen one is not configured.
    pub(crate) fn for_order<'a>(
        &self,
        chosen: Option<UpstreamName>,
        identifiers: impl IntoIterator<Item = &'a Identifier>,
    ) -> Result<UpstreamName, Problem> {
        match chosen {
            Some(chosen) if self.has(chosen) => Ok(chosen),
            Some(chosen) => Err(not_configured(chosen)),
            None => self.of_names(identifiers).map_err(|split| {
                let detail = format!("{split}; put them into separate orders");
                Problem::new(ProblemType::RejectedIdentifier, detail)
            }),
        }
    }
}

/// What the configuration does not have any more.
pub(crate) fn not_configured(upstream: UpstreamName) -> Problem {
    let detail = format!(
        "the CA that this is for, {upstream}, is not configured here; tell the operator of this server"
    );
    Problem::new(ProblemType::ServerInternal, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let claims = |name: &str, domains: &[&str]| {
            let domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
            (name.parse().unwrap(), domains)
        };
        Routes {
            upstreams: vec![
                claims("org", &["example.org", "example.net"]),
                claims("deep", &["deep.example.org"]),
                claims("idle", &[]),
            ],
        }
    }

    fn routed(names: &[&str]) -> Result<String, Problem> {
        let identifiers: Vec<Identifier> = names
            .iter()
            .map(|name| Identifier::dns(name).or_else(|_| Identifier::ip(name)).unwrap())
            .collect();
        let upstream = routes().for_order(None, &identifiers)?;
        Ok(upstream.to_string())
    }

    #[test]
    fn an_order_goes_where_the_longest_domain_of_its_names_leads() {
        for (names, upstream) in [
            (&["www.example.com"][..], "default"),
            (&["example.org"], "org"),
            (&["*.example.org"], "org"),
            (&["WWW.Example.ORG", "a.b.example.net"], "org"),
            (&["deep.example.org", "a.deep.example.org"], "deep"),
            (&["*.deep.example.org"], "deep"),
            (&["notexample.org"], "default"),
            (&["example.org.example.com"], "default"),
            (&["192.0.2.1", "www.example.com"], "default"),
            (&["2001:db8::1"], "default"),
        ] {
            assert_eq!(routed(names).as_deref(), Ok(upstream), "{names:?}");
        }
    }

    #[test]
    fn names_of_different_upstreams_are_no_order_and_the_client_reads_which() {
        for (names, told) in [
            (
                &["www.example.com", "www.example.org"][..],
                ["www.example.com", "www.example.org"],
            ),
            (
                &["a.example.org", "example.net", "a.deep.example.org"],
                ["a.example.org", "a.deep.example.org"],
            ),
            (&["example.org", "192.0.2.1"], ["example.org", "192.0.2.1"]),
        ] {
            let problem = routed(names).unwrap_err();
            assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
            let [one, other] = told;
            let text = format!("{one} and {other} are for different CAs; put them into separate orders");
            assert_eq!(problem.detail, text);
        }
    }

    #[test]
    fn what_was_chosen_is_not_changed_by_the_names() {
        let name = Identifier::dns("www.example.org").unwrap();
        for chosen in ["default", "deep", "idle"] {
            let chosen: UpstreamName = chosen.parse().unwrap();
            assert_eq!(routes().for_order(Some(chosen), [&name]), Ok(chosen));
        }
        let gone = routes()
            .for_order(Some("gone".parse().unwrap()), [&name])
            .unwrap_err();
        assert_eq!(gone.kind, ProblemType::ServerInternal);
        assert!(gone.detail.contains("gone"), "{}", gone.detail);
    }

    #[test]
    fn a_domain_is_a_name() {
        for text in [
            "",
            ".example.org",
            "*.example.org",
            "org",
            "example.org.",
            "192.0.2.1",
            "a b",
        ] {
            assert_eq!(
                text.parse::<Domain>().map(|domain| domain.to_string()),
                Err(InvalidDomain),
                "{text:?}"
            );
        }
        assert_eq!(
            "Example.ORG".parse::<Domain>().unwrap().to_string(),
            "example.org"
        );
    }
}
