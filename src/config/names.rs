//! `policy`: step-ca's rules about names and addresses, wherever they stand.

use ipnet::IpNet;

use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::value::Network;
use crate::policy::names::NamePattern;
use crate::policy::names::NameRules;

/// `policy`: step-ca's rules about names.
pub(crate) fn name_rules(policy: &Section<'_>) -> Result<NameRules, Reported> {
    policy.ignore("ssh", "no SSH certificates are issued");
    policy.section("x509", |x509| {
        let allow = x509.section("allow", |allow| {
            let names: Result<Vec<NamePattern>, Reported> = allow.all_parsed("dns");
            let networks = networks(allow);
            let mut others = 0;
            for key in ["cn", "email", "uri"] {
                others += allow.texts(key)?.len();
                allow.ignore(
                    key,
                    "it makes no identifier admissible; write names under dns, addresses under ip",
                );
            }
            Ok((names?, networks?, others))
        });
        let deny = x509.section("deny", |deny| {
            let networks = networks(deny);
            let names: Result<Vec<NamePattern>, Reported> = deny.all_parsed("dns");
            // A common name that is accepted is always one of the DNS names, so that is where it is denied.
            let common_names: Result<Vec<NamePattern>, Reported> = deny.all_parsed("cn");
            for key in ["email", "uri"] {
                deny.ignore(key, "only DNS names and addresses can be ordered");
            }
            Ok(([names?, common_names?].concat(), networks?))
        });
        let wildcards = x509.flag("allowWildcardNames");
        let ((names, networks, others), (deny, deny_networks), wildcards) = (allow?, deny?, wildcards?);
        // As in step-ca: rules that allow something allow nothing of a kind that they say nothing about.
        let allows_any = !names.is_empty() || !networks.is_empty() || others > 0;
        let allow = allowed(names, allows_any && deny.is_empty());
        Ok(NameRules {
            wildcards: wildcards.unwrap_or(!allows_any && deny.is_empty() && deny_networks.is_empty()),
            allow,
            deny,
            allow_networks: allowed(networks, allows_any && deny_networks.is_empty()),
            deny_networks,
        })
    })
}

fn allowed<T>(listed: Vec<T>, nothing_else: bool) -> Option<Vec<T>> {
    match (listed.is_empty(), nothing_else) {
        (false, _) => Some(listed),
        (true, true) => Some(Vec::new()),
        (true, false) => None,
    }
}

/// `ip`: networks, or single addresses.
fn networks(rules: &Section<'_>) -> Result<Vec<IpNet>, Reported> {
    let networks = rules.all_parsed::<Network>("ip")?;
    Ok(networks.into_iter().map(|Network(network)| network).collect())
}
