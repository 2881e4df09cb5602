//! Who keeps the zone: what acme-proxy wants of a DNS provider, and which ones it knows, under lego's names.
//!
//! A provider changes one value of one name and leaves every other value alone: a wildcard and its base name, or two
//! orders, have their values under one name, and the zone's owner may have some there, too.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::upstream::Secret;
use crate::upstream::dns::Dns01;
use crate::upstream::dns::Record;
use crate::upstream::dns::acme_dns;
use crate::upstream::dns::azuredns;
use crate::upstream::dns::cloudflare;
use crate::upstream::dns::desec;
use crate::upstream::dns::digitalocean;
use crate::upstream::dns::exec;
use crate::upstream::dns::gcloud;
use crate::upstream::dns::httpreq;
use crate::upstream::dns::infoblox;
use crate::upstream::dns::ovh;
use crate::upstream::dns::rfc2136;
use crate::upstream::dns::route53;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Remark;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;

/// What is to become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is to be there. If it is there already, all is well.
    Present,
    /// It is to be gone. If it is gone already, all is well.
    Withdraw,
}

impl Action {
    /// The values that a name is to have when it has these; `None`: nothing is to be done.
    pub fn on(self, mut values: Vec<String>, value: &str) -> Option<Vec<String>> {
        let is_there = values.iter().any(|known| known == value);
        match (self, is_there) {
            (Self::Present, true) | (Self::Withdraw, false) => None,
            (Self::Present, false) => {
                values.push(value.to_owned());
                Some(values)
            }
            (Self::Withdraw, true) => {
                values.retain(|known| known != value);
                Some(values)
            }
        }
    }
}

/// A DNS provider. It may be called again after any failure, and is called once at a time for a name.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// Makes it so, for this value of this name and no other.
    ///
    /// # Errors
    ///
    /// What went wrong, for the log.
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String>;
}

/// What became of the settings.
#[derive(Debug)]
pub struct Reading {
    /// The settings, with the system's DNS servers.
    pub settings: Result<Dns01, Noted>,
    /// What is wrong.
    pub errors: Vec<Remark>,
    /// What has no effect.
    pub warnings: Vec<Remark>,
}

struct Known {
    /// Its name, and others that lego knows it by.
    names: &'static [&'static str],
    /// What its variables begin with.
    prefixes: &'static [&'static str],
    /// Seconds that a record may take to become visible, unless configured.
    timeout: u32,
    /// Seconds between two looks, unless configured.
    interval: u32,
    read: fn(&mut Variables) -> Result<Arc<dyn Provider>, Noted>,
}

const KNOWN: [Known; 12] = [
    known(&["acme-dns", "acmedns"], &["ACME_DNS_"], (60, 2), acme_dns::read),
    known(&["azuredns"], &["AZURE_"], (120, 2), azuredns::read),
    known(
        &["cloudflare"],
        &["CLOUDFLARE_", "CF_"],
        (120, 2),
        cloudflare::read,
    ),
    known(&["desec"], &["DESEC_"], (120, 4), desec::read),
    known(&["digitalocean"], &["DO_"], (60, 5), digitalocean::read),
    known(&["exec"], &["EXEC_"], (60, 2), exec::read),
    known(&["gcloud"], &["GCE_"], (180, 5), gcloud::read),
    known(&["httpreq"], &["HTTPREQ_"], (60, 2), httpreq::read),
    known(&["infoblox"], &["INFOBLOX_"], (60, 2), infoblox::read),
    known(&["ovh"], &["OVH_"], (60, 2), ovh::read),
    known(
        &["rfc2136", "dnsupdate"],
        &["RFC2136_", "DNSUPDATE_"],
        (60, 2),
        rfc2136::read,
    ),
    known(&["route53"], &["AWS_"], (120, 4), route53::read),
];

const fn known(
    names: &'static [&'static str],
    prefixes: &'static [&'static str],
    (timeout, interval): (u32, u32),
    read: fn(&mut Variables) -> Result<Arc<dyn Provider>, Noted>,
) -> Known {
    Known {
        names,
        prefixes,
        timeout,
        interval,
        read,
    }
}

/// The names of all providers.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter_map(|known| known.names.first().copied())
}

/// Reads the variables of the provider of this name; `None`: there is no such provider.
pub fn read(name: &str, values: BTreeMap<String, Secret>) -> Option<Reading> {
    let known = KNOWN.iter().find(|known| known.names.contains(&name))?;
    let mut variables = Variables::new(known.prefixes, values);
    let timeout = variables.seconds("PROPAGATION_TIMEOUT", known.timeout);
    let interval = variables.seconds("POLLING_INTERVAL", known.interval);
    let provider = (known.read)(&mut variables);
    variables.finish();
    let settings = match (provider, timeout, interval) {
        (Ok(provider), Ok(propagation_timeout), Ok(polling_interval)) => Ok(Dns01 {
            name: known.names.first().copied().unwrap_or_default(),
            provider,
            secrets: variables.secrets,
            roots: variables.roots,
            servers: Vec::new(),
            authority_port: 53,
            propagation_timeout,
            polling_interval,
        }),
        (Err(noted), ..) | (_, Err(noted), _) | (.., Err(noted)) => Err(noted),
    };
    Some(Reading {
        settings,
        errors: variables.errors,
        warnings: variables.warnings,
    })
}

/// The names that a zone of this name could have, the longest first, without a final dot. A top-level domain is nobody's
/// zone.
pub fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    let whole = Some(name.trim_end_matches('.'));
    let names = std::iter::successors(whole, |name| name.split_once('.').map(|(_, parent)| parent));
    names.filter(|name| name.contains('.'))
}

/// The name within its zone; empty for the zone's own.
pub fn within<'n>(name: &'n str, zone: &str) -> &'n str {
    let name = name.trim_end_matches('.');
    let inner = name.strip_suffix(zone.trim_end_matches('.'));
    inner.map_or(name, |inner| inner.trim_end_matches('.'))
}

/// The value as zone files and most APIs write it. It is base64url, and needs no escapes.
pub fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_a_zone_could_have_end_above_the_top_level_domain() {
        let names: Vec<_> = ancestors("_acme-challenge.www.example.com.").collect();
        assert_eq!(
            names,
            [
                "_acme-challenge.www.example.com",
                "www.example.com",
                "example.com"
            ]
        );
        assert_eq!(ancestors("com.").count(), 0);
        assert_eq!(
            within("_acme-challenge.www.example.com.", "example.com"),
            "_acme-challenge.www"
        );
        assert_eq!(within("example.com.", "example.com."), "");
    }

    #[test]
    fn only_our_own_value_changes() {
        let values = || vec!["theirs".to_owned(), "ours".to_owned()];
        assert_eq!(Action::Present.on(values(), "ours"), None);
        assert_eq!(
            Action::Withdraw.on(values(), "ours"),
            Some(vec!["theirs".to_owned()])
        );
        assert_eq!(Action::Withdraw.on(values(), "gone"), None);
        assert_eq!(Action::Present.on(values(), "new").unwrap().len(), 3);
    }
}
