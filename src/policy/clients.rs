//! Rules about the networks that clients may call from.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::decision::Decision;
use crate::policy::decision::first_of;
use crate::policy::names::write_list;

/// Which networks clients may call from. The default admits all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientRules {
    /// A client must be in one of these, if there are any.
    pub allow: Vec<IpNet>,
    /// A client may be in none of these, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

impl ClientRules {
    /// Whether there is a rule.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// What the rules say about a client at this address. Where there are rules, one whose address is not known is not
    /// admitted. `prefix` is what the rules' places begin with.
    pub(crate) fn decision(&self, prefix: &str, address: Option<IpAddr>) -> Decision {
        let decided = |allowed, key: &str, network: Option<&IpNet>, why| Decision {
            allowed,
            place: format!("{prefix}{key}"),
            pattern: network.map(ToString::to_string),
            why,
        };
        // On a socket for both, an IPv4 client has an IPv6 address.
        let address = address.map(|address| address.to_canonical());
        let holds = |network: &IpNet| address.is_some_and(|address| network.contains(&address));
        if let Some((key, network)) = first_of(&self.deny, "clients.deny", holds) {
            let why = "the policy of this server denies your address";
            return decided(false, &key, Some(network), why);
        }
        if self.is_empty() {
            return decided(true, "clients", None, "there is no rule about addresses");
        }
        match first_of(&self.allow, "clients.allow", holds) {
            Some((key, network)) => decided(true, &key, Some(network), "the address may call"),
            None if self.allow.is_empty() && address.is_some() => {
                decided(true, "clients.deny", None, "no rule denies the address")
            }
            None => {
                let why = "the policy of this server does not allow your address";
                decided(false, "clients.allow", None, why)
            }
        }
    }
}

impl fmt::Display for ClientRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allow = (!self.allow.is_empty()).then_some(&self.allow);
        write_list(f, "client", allow, &self.deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn deny_wins_and_who_is_in_no_allowed_network_is_refused() {
        let none: &[&str] = &[];
        for (allow, deny, address, allowed, rule) in [
            (none, none, Some("192.0.2.1"), true, "p.clients"),
            (none, none, None, true, "p.clients"),
            (
                &["10.0.0.0/8"],
                none,
                Some("10.1.2.3"),
                true,
                "p.clients.allow[0]",
            ),
            (
                &["10.0.0.0/8"],
                none,
                Some("::ffff:10.1.2.3"),
                true,
                "p.clients.allow[0]",
            ),
            (&["10.0.0.0/8"], none, Some("192.0.2.1"), false, "p.clients.allow"),
            (
                &["10.0.0.0/8"],
                none,
                Some("2001:db8::1"),
                false,
                "p.clients.allow",
            ),
            (&["10.0.0.0/8"], none, None, false, "p.clients.allow"),
            (
                &["10.0.0.0/8"],
                &["192.0.2.0/24", "10.1.0.0/16"],
                Some("10.1.2.3"),
                false,
                "p.clients.deny[1]",
            ),
            (
                none,
                &["2001:db8::/32"],
                Some("2001:db8::1"),
                false,
                "p.clients.deny[0]",
            ),
            (none, &["2001:db8::/32"], Some("10.0.0.1"), true, "p.clients.deny"),
            (none, &["2001:db8::/32"], None, false, "p.clients.allow"),
        ] {
            let rules = ClientRules {
                allow: networks(allow),
                deny: networks(deny),
            };
            let address = address.map(|address: &str| address.parse().unwrap());
            let decision = rules.decision("p.", address);
            assert_eq!(
                (decision.allowed, decision.place.as_str()),
                (allowed, rule),
                "{rules}: {address:?}"
            );
        }
    }
}
