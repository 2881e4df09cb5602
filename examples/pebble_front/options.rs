//! What Pebble is told: its command line, and what of its configuration concerns acme-proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Pebble's options.
pub(crate) struct Options {
    /// `-config`, read.
    pub(crate) pebble: Pebble,
    /// `-dnsserver`, where names are looked up that are to be validated.
    pub(crate) dns_server: SocketAddr,
    /// `-strict`.
    pub(crate) strict: bool,
}

#[derive(Deserialize)]
struct Config {
    pebble: Pebble,
}

/// What of the configuration has a meaning for acme-proxy, or for the Pebble behind it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pebble {
    pub(crate) listen_address: SocketAddr,
    pub(crate) management_listen_address: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    #[serde(default)]
    pub(crate) external_account_binding_required: bool,
    /// Key identifiers, and MAC keys in base64url.
    #[serde(default, rename = "externalAccountMACKeys", alias = "externalAccountMacKeys")]
    pub(crate) external_account_mac_keys: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) domain_blocklist: Vec<String>,
}

impl Options {
    /// Reads the command line, and the file that it names.
    pub(crate) fn from_arguments(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let (mut config, mut dns_server, mut strict) = (None, None, false);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} wants a value"))
            };
            match argument.as_str() {
                "-config" => config = Some(value()?),
                "-dnsserver" => dns_server = Some(value()?.parse()?),
                "-strict" => strict = true,
                _ => bail!("{argument} is no option of Pebble"),
            }
        }
        let config = std::fs::read_to_string(config.context("-config is missing")?)?;
        let config: Config = serde_json::from_str(&config)?;
        Ok(Self {
            pebble: config.pebble,
            dns_server: dns_server.context("-dnsserver is missing")?,
            strict,
        })
    }
}
