//! `authority.config.validation`: how challenges reach the network.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::Overrides;
use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::reader::all;
use crate::config::value::DnsServer;
use crate::policy::network::Network;
use crate::validate::Settings;

/// The budget of one attempt: with retries, well inside the time that clients wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The settings, without our own listeners.
pub(crate) fn read(section: &Section<'_>, overrides: &Overrides) -> Result<Settings, Reported> {
    let resolvers = section.all_parsed::<DnsServer>("resolvers");
    let allow = networks(section, "allow", true);
    let deny = networks(section, "deny", false);
    let http_port = port(section, "http_port", overrides.http_port, 80);
    let tls_port = port(section, "tls_port", overrides.tls_port, 443);
    let configured = resolvers?.into_iter().map(|DnsServer(address)| address).collect();
    Ok(Settings {
        resolvers: overrides.resolver.map_or(configured, |resolver| vec![resolver]),
        allow: allow?,
        deny: deny?,
        own_listeners: Vec::new(),
        http_port: http_port?,
        tls_port: tls_port?,
        timeout: TIMEOUT,
    })
}

fn networks(section: &Section<'_>, key: &'static str, opens: bool) -> Result<Vec<IpNet>, Reported> {
    // Of each kind that is refused by default, the address that an attacker would want most.
    let guarded: [(IpAddr, &str); 4] = [
        (Ipv4Addr::LOCALHOST.into(), "this host itself"),
        (Ipv6Addr::LOCALHOST.into(), "this host itself"),
        (
            Ipv4Addr::new(169, 254, 169, 254).into(),
            "the metadata service of clouds",
        ),
        (
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
            "the link's neighbours",
        ),
    ];
    all(section.texts(key)?.iter().map(|text| {
        let Network(network) = text.parsed()?;
        if opens && network.prefix_len() == 0 {
            return Err(
                text.wrong("would open every address, this host's own too; write the networks that you need")
            );
        }
        let opened = guarded
            .iter()
            .find(|(address, _)| opens && network.contains(address));
        if let Some((_, what)) = opened {
            text.place.warn(format_args!(
                "{network} lets any client have a connection made to {what}"
            ));
        }
        Ok(network)
    }))
}

fn port(section: &Section<'_>, key: &'static str, flag: Option<u16>, default: u16) -> Result<u16, Reported> {
    const WHAT: &str = "a port between 1 and 65535";
    let written = section.number::<u16>(key, WHAT)?;
    let port = match (flag, written) {
        (Some(port), _) => port,
        (None, Some((0, place))) => return Err(place.error(format_args!("0 is no port; write {WHAT}"))),
        (None, Some((port, _))) => port,
        (None, None) => default,
    };
    if port != default {
        let place = section.place(key);
        place.warn(format_args!(
            "challenges are looked for on port {port} instead of {default}; for tests only"
        ));
    }
    Ok(port)
}
