//! `policy`: step-ca's rules about names and addresses, and ours about clients and about how much of each name, wherever
//! they stand.

use ipnet::IpNet;

use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::value::GoDuration;
use crate::policy::clients::ClientRules;
use crate::policy::names::NamePattern;
use crate::policy::names::NameRules;
use crate::policy::network::Network;
use crate::policy::per_name::LONGEST_COUNT;
use crate::policy::per_name::NameLimit;
use crate::policy::per_name::Quota;
use crate::policy::rules::Rules;

/// `policy`: the rules of one level.
pub(crate) fn rules(policy: &Section<'_>) -> Result<Rules, Reported> {
    policy.ignore("ssh", "no SSH certificates are issued");
    let names = name_rules(policy);
    let clients = policy.section("clients", |clients| {
        let (allow, deny) = (networks(clients, "allow"), networks(clients, "deny"));
        Ok(ClientRules {
            allow: allow?,
            deny: deny?,
        })
    });
    let per_name = policy.sections("per_name", name_limit);
    Ok(Rules {
        prefix: format!("{}.", policy.path()),
        names: names?,
        clients: clients?,
        per_name: per_name?,
    })
}

/// One of `per_name`.
fn name_limit(limit: &Section<'_>) -> Result<NameLimit, Reported> {
    const WITHIN: &str = "write e.g. \"orders\": 5, \"within\": \"168h\"";
    let names = limit.all_parsed("dns");
    let networks = networks(limit, "ip");
    let days = positive(limit, "days", "a number of days, e.g. 90");
    let orders = positive(limit, "orders", "a number of orders, e.g. 5");
    let within = limit.parsed::<GoDuration>("within");
    let (days, orders, within) = (days?, orders?, within?);
    let quota = match (orders, within) {
        (Some(_), Some(GoDuration(within))) if within > LONGEST_COUNT => Err(limit
            .place("within")
            .error("is longer than orders are counted; write \"720h\" at most")),
        (Some(_), Some(GoDuration(within))) if within.as_secs() < 60 => Err(limit
            .place("within")
            .error("is less than a minute; write e.g. \"168h\"")),
        (Some(orders), Some(GoDuration(within))) => Ok(Some(Quota { orders, within })),
        (Some(_), None) => Err(limit.place("within").error(format_args!("is missing; {WITHIN}"))),
        (None, Some(_)) => Err(limit.place("orders").error(format_args!("is missing; {WITHIN}"))),
        (None, None) if days.is_none() => Err(limit
            .place("days")
            .error("is missing, and so is orders: the entry limits nothing; write one of them")),
        (None, None) => Ok(None),
    };
    Ok(NameLimit {
        names: names?,
        networks: networks?,
        days,
        quota: quota?,
    })
}

fn positive(limit: &Section<'_>, key: &'static str, what: &str) -> Result<Option<u32>, Reported> {
    match limit.number::<u32>(key, what)? {
        Some((0, place)) => Err(place.error(format_args!(
            "0 would refuse every name; write {what}, or deny the names under x509"
        ))),
        Some((number, _)) => Ok(Some(number)),
        None => Ok(None),
    }
}

/// `x509`: step-ca's rules about names.
fn name_rules(policy: &Section<'_>) -> Result<NameRules, Reported> {
    policy.section("x509", |x509| {
        let allow = x509.section("allow", |allow| {
            let names: Result<Vec<NamePattern>, Reported> = allow.all_parsed("dns");
            let networks = networks(allow, "ip");
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
            let networks = networks(deny, "ip");
            let names: Result<Vec<NamePattern>, Reported> = deny.all_parsed("dns");
            // A common name that is accepted is always one of the DNS names, so that is where it is denied.
            let common_names: Result<Vec<NamePattern>, Reported> = deny.all_parsed("cn");
            let mut others = 0;
            for key in ["email", "uri"] {
                others += deny.texts(key)?.len();
                deny.ignore(key, "only DNS names and addresses can be ordered");
            }
            Ok((names?, common_names?, networks?, others))
        });
        let wildcards = x509.flag("allowWildcardNames");
        let ((names, networks, others), wildcards) = (allow?, wildcards?);
        let (deny, deny_common_names, deny_networks, denied_others) = deny?;
        let denies_names = !deny.is_empty() || !deny_common_names.is_empty();
        let denies_any = denies_names || !deny_networks.is_empty() || denied_others > 0;
        // As in step-ca: rules that allow something allow nothing of a kind that they say nothing about.
        let allows_any = !names.is_empty() || !networks.is_empty() || others > 0;
        let allow = allowed(names, allows_any && !denies_names);
        Ok(NameRules {
            wildcards: wildcards.unwrap_or(!allows_any && !denies_any),
            allow,
            deny,
            deny_common_names,
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

/// Networks, or single addresses.
fn networks(rules: &Section<'_>, key: &'static str) -> Result<Vec<IpNet>, Reported> {
    let networks = rules.all_parsed::<Network>(key)?;
    Ok(networks.into_iter().map(|Network(network)| network).collect())
}
