//! How much there may be of one name: days of validity, and orders within a time.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use crate::acme::identifier::Identifier;
use crate::policy::names::NamePattern;
use crate::policy::names::listed;

/// The longest time that orders can be counted for: so long at least they are kept after their certificate has expired.
pub const LONGEST_COUNT: Duration = Duration::from_hours(30 * 24);

/// What each of some names may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameLimit {
    /// The names that it is about, if it is not about all.
    pub names: Vec<NamePattern>,
    /// The addresses that it is about, if it is not about all.
    pub networks: Vec<IpNet>,
    /// How many days a certificate with one of these may be valid at most.
    pub days: Option<u32>,
    /// How many orders with one of these may be finalized.
    pub quota: Option<Quota>,
}

/// So many orders within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub orders: u32,
    /// Within which time.
    pub within: Duration,
}

impl NameLimit {
    /// Whether it is about the identifier, or about a name that the identifier stands for.
    pub(crate) fn is_about(&self, identifier: &Identifier) -> bool {
        if self.names.is_empty() && self.networks.is_empty() {
            return true;
        }
        match identifier {
            Identifier::Dns(_) | Identifier::Wildcard(_) => {
                self.names.iter().any(|pattern| pattern.covered_by(identifier))
            }
            Identifier::Ip(address) => self.networks.iter().any(|network| network.contains(address)),
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} orders within ", self.orders)?;
        match self.within.as_secs() {
            seconds if seconds % 3600 == 0 => write!(f, "{} h", seconds / 3600),
            seconds if seconds % 60 == 0 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{seconds} s"),
        }
    }
}

impl fmt::Display for NameLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.days.map(|days| format!("{days} days"));
        let quota = self.quota.map(|quota| quota.to_string());
        let most: Vec<String> = days.into_iter().chain(quota).collect();
        write!(f, "at most {}", most.join(" and "))?;
        if self.names.is_empty() && self.networks.is_empty() {
            return f.write_str(" for each name");
        }
        let names = [listed(&self.names), listed(&self.networks)];
        let names: Vec<String> = names.into_iter().filter(|text| !text.is_empty()).collect();
        write!(f, " for each of {}", names.join(", "))
    }
}
