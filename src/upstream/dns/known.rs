//! The DNS providers that acme-proxy knows, under lego's names, and what is configured for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::upstream::Secret;
use crate::upstream::dns::Dns01;
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
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::rfc2136;
use crate::upstream::dns::route53;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Remark;
use crate::upstream::dns::variables::Variables;

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
