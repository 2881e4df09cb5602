//! The configurations of Pebble and of acme-proxy, made from the one that the tests have written for Pebble alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::challenge_dns::ChallengeDns;
use crate::options::Options;

/// acme-proxy's own EAB at Pebble. That which the tests want of their clients is acme-proxy's affair.
const EAB_KID: &str = "kid-of-acme-proxy";
const EAB_HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// The program that solves Pebble's own challenges.
const DNS01: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/loopback/dns01.sh");

/// Who listens where.
pub(crate) struct Settings<'a> {
    /// For all files.
    pub(crate) directory: &'a Path,
    pub(crate) options: &'a Options,
    /// The DNS in which acme-proxy proves names to Pebble.
    pub(crate) dns: &'a ChallengeDns,
    /// The DNS in which the tests' clients prove names to acme-proxy.
    pub(crate) resolver: SocketAddr,
    pub(crate) pebble: SocketAddr,
    pub(crate) acme_proxy: SocketAddr,
    /// Of the certificate that both show.
    pub(crate) ca_root: PathBuf,
}

impl Settings<'_> {
    /// The name that acme-proxy goes by: every machine knows where it leads.
    pub(crate) const NAME: &'static str = "localhost";

    /// A client that trusts nobody but Pebble and acme-proxy.
    pub(crate) fn client(&self) -> anyhow::Result<reqwest::Client> {
        let root = reqwest::Certificate::from_pem(&std::fs::read(&self.ca_root)?)?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        Ok(client.resolve(Self::NAME, self.acme_proxy).build()?)
    }

    /// Writes a file of configuration, and says where it is.
    pub(crate) fn write(&self, name: &str, config: &Value) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// The URL of acme-proxy's directory.
    pub(crate) fn directory_url(&self) -> String {
        format!(
            "https://{}:{}/acme/acme/directory",
            Self::NAME,
            self.acme_proxy.port()
        )
    }

    /// For Pebble. Its management stays where the tests look for it.
    pub(crate) fn for_pebble(&self) -> Value {
        let told = &self.options.pebble;
        json!({ "pebble": {
            "listenAddress": self.pebble,
            "managementListenAddress": told.management_listen_address,
            "certificate": told.certificate,
            "privateKey": told.private_key,
            "externalAccountBindingRequired": true,
            "externalAccountMACKeys": { EAB_KID: EAB_HMAC_KEY },
        }})
    }

    /// For acme-proxy.
    pub(crate) fn for_acme_proxy(&self) -> anyhow::Result<Value> {
        let told = &self.options.pebble;
        let eab_keys = told.external_account_mac_keys.iter();
        let eab_keys = eab_keys.map(|(kid, key)| json!({ "kid": kid, "hmacKey": key, "reusable": true }));
        let eab_keys: Value = eab_keys.collect();
        let provisioner = match told.external_account_binding_required {
            true => json!({ "type": "ACME", "name": "acme", "requireEAB": true, "eabKeys": eab_keys }),
            false => json!({ "type": "ACME", "name": "acme" }),
        };
        Ok(json!({
            "address": self.acme_proxy,
            "dnsNames": [Self::NAME],
            "tls": { "certificate": absolute(&told.certificate)?, "key": absolute(&told.private_key)? },
            "logger": { "format": "text" },
            "db": { "type": "sled", "dataSource": self.directory.join("db") },
            "authority": {
                "type": "externalcas",
                "policy": { "x509": {
                    "allowWildcardNames": true,
                    "deny": { "dns": told.domain_blocklist },
                }},
                "config": {
                    "ca_url": format!("https://{}/dir", self.pebble),
                    "ca_root": absolute(&self.ca_root)?,
                    "eab_kid": EAB_KID,
                    "eab_hmac_key": EAB_HMAC_KEY,
                    "dns01_txt": {
                        "provider": "exec",
                        "dns_servers": [self.dns.address],
                        "env_vars": {
                            "EXEC_PATH": DNS01,
                            "EXEC_POLLING_INTERVAL": "1",
                            "DNS_PORT": self.dns.management.port().to_string(),
                        },
                    },
                    "validation": {
                        "resolvers": [self.resolver],
                        "allow": ["127.0.0.0/8", "::1/128"],
                        "http_port": told.http_port,
                        "tls_port": told.tls_port,
                    },
                },
                "provisioners": [provisioner],
            },
        }))
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| path.display().to_string())
}
