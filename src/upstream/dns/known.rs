//! The DNS providers that acme-proxy knows, under lego's names, and what is configured for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::acme::secret::Secret;
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
    Known {
        names: &["acme-dns", "acmedns"],
        prefixes: &["ACME_DNS_"],
        timeout: 60,
        interval: 2,
        read: acme_dns::read,
    },
    Known {
        names: &["azuredns"],
        prefixes: &["AZURE_"],
        timeout: 120,
        interval: 2,
        read: azuredns::read,
    },
    Known {
        names: &["cloudflare"],
        prefixes: &["CLOUDFLARE_", "CF_"],
        timeout: 120,
        interval: 2,
        read: cloudflare::read,
    },
    Known {
        names: &["desec"],
        prefixes: &["DESEC_"],
        timeout: 120,
        interval: 4,
        read: desec::read,
    },
    Known {
        names: &["digitalocean"],
        prefixes: &["DO_"],
        timeout: 60,
        interval: 5,
        read: digitalocean::read,
    },
    Known {
        names: &["exec"],
        prefixes: &["EXEC_"],
        timeout: 60,
        interval: 2,
        read: exec::read,
    },
    Known {
        names: &["gcloud"],
        prefixes: &["GCE_"],
        timeout: 180,
        interval: 5,
        read: gcloud::read,
    },
    Known {
        names: &["httpreq"],
        prefixes: &["HTTPREQ_"],
        timeout: 60,
        interval: 2,
        read: httpreq::read,
    },
    Known {
        names: &["infoblox"],
        prefixes: &["INFOBLOX_"],
        timeout: 60,
        interval: 2,
        read: infoblox::read,
    },
    Known {
        names: &["ovh"],
        prefixes: &["OVH_"],
        timeout: 60,
        interval: 2,
        read: ovh::read,
    },
    Known {
        names: &["rfc2136", "dnsupdate"],
        prefixes: &["RFC2136_", "DNSUPDATE_"],
        timeout: 60,
        interval: 2,
        read: rfc2136::read,
    },
    Known {
        names: &["route53"],
        prefixes: &["AWS_"],
        timeout: 120,
        interval: 4,
        read: route53::read,
    },
];

/// The names of all providers.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter_map(|known| known.names.first().copied())
}

/// Reads the variables of the provider of this name; `None`: there is no such provider.
pub fn read(name: &str, mut values: BTreeMap<String, Secret>) -> Option<Reading> {
    let all = values.clone();
    let known = KNOWN.iter().find(|known| known.names.contains(&name))?;
    let for_all = values.remove_entry("LEGO_DISABLE_CNAME_SUPPORT");
    let mut legos = Variables::new(&["LEGO_"], for_all.into_iter().collect());
    let stay = legos.flag("DISABLE_CNAME_SUPPORT", false);
    let mut variables = Variables::new(known.prefixes, values);
    let timeout = variables.seconds("PROPAGATION_TIMEOUT", known.timeout);
    let interval = variables.seconds("POLLING_INTERVAL", known.interval);
    let provider = (known.read)(&mut variables);
    variables.finish();
    variables.errors.extend(legos.errors);
    let settings = match (provider, timeout, interval, stay) {
        (Ok(provider), Ok(propagation_timeout), Ok(polling_interval), Ok(stay)) => Ok(Dns01 {
            name: known.names.first().copied().unwrap_or_default(),
            provider,
            values: all,
            secrets: variables.secrets,
            roots: variables.roots,
            servers: Vec::new(),
            authority_port: 53,
            propagation_timeout,
            polling_interval,
            follow_aliases: !stay,
        }),
        (Err(noted), ..) | (_, Err(noted), ..) | (.., Err(noted), _) | (.., Err(noted)) => Err(noted),
    };
    Some(Reading {
        settings,
        errors: variables.errors,
        warnings: variables.warnings,
    })
}
