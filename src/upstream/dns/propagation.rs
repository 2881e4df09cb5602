//! Whether a record has arrived, asked at the zone's authoritative servers (RFC 8555 §8.4: the CA asks them, too): a
//! resolver may remember for minutes that the name was not there.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::RecordType;
use tokio::task::JoinSet;

use crate::acme::problem::cleaned;
use crate::upstream::SetupError;
use crate::upstream::dns::Record as Wanted;
use crate::upstream::dns::provider::ancestors;

/// One question to one server.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

/// A delegation of `_acme-challenge` that is longer goes in circles.
const MAX_ALIASES: usize = 8;

/// Zones with more authoritative addresses are not asked at all of them.
const MAX_AUTHORITIES: usize = 16;

/// What has become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It is there.
    Seen,
    /// An authoritative server says that it is not there.
    Missing,
    /// No authoritative server can be asked, and a resolver that does not know it may only remember that it was not
    /// there.
    Unclear,
}

/// Looks records up.
#[derive(Clone)]
pub(crate) struct Lookout {
    resolver: TokioResolver,
    authority_port: u16,
}

impl Lookout {
    /// One that starts from these servers; none: from the system's.
    ///
    /// # Errors
    ///
    /// [`SetupError::Dns`] if none are given and the system's resolver can not be read.
    pub(crate) fn new(servers: &[SocketAddr], authority_port: u16) -> Result<Self, SetupError> {
        let unusable = |e: NetError| SetupError::Dns(cleaned(&e.to_string(), 200));
        let mut builder = match servers {
            [] => TokioResolver::builder_tokio().map_err(unusable)?,
            servers => TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(servers.iter().map(name_server).collect()),
                TokioRuntimeProvider::default(),
            ),
        };
        plain(builder.options_mut());
        Ok(Self {
            resolver: builder.build().map_err(unusable)?,
            authority_port,
        })
    }

    /// Where the record has to be: `_acme-challenge` is often delegated by CNAME, and lego follows it. A target that is
    /// no host name is left alone.
    ///
    /// # Errors
    ///
    /// Why nobody knows: only a server that says so makes sure that there is no alias.
    pub(crate) async fn canonical(&self, name: &str) -> Result<String, String> {
        let mut name = name.to_owned();
        for _ in 0..MAX_ALIASES {
            let answer = match self.resolver.lookup(name.as_str(), RecordType::CNAME).await {
                Ok(answer) => answer,
                Err(error) if is_denial(&error) => break,
                Err(error) => {
                    let error = cleaned(&error.to_string(), 200);
                    return Err(format!("DNS does not tell whether {name} is an alias: {error}"));
                }
            };
            let alias = answer.answers().iter().find_map(|record| match &record.data {
                RData::CNAME(target) => Some(target.0.to_ascii().to_ascii_lowercase()),
                _ => None,
            });
            match alias.filter(|alias| is_plain(alias)) {
                Some(alias) => name = alias,
                None => break,
            }
        }
        Ok(name)
    }

    /// The addresses of the servers that the name's zone is delegated to; none if they can not be found.
    pub(crate) async fn authorities(&self, name: &str) -> Vec<SocketAddr> {
        for zone in ancestors(name) {
            let zone = format!("{zone}.");
            let answer = match self.resolver.lookup(zone.as_str(), RecordType::NS).await {
                Ok(answer) => answer,
                Err(error) if is_denial(&error) => continue,
                // Whatever lies above may be another zone.
                Err(_) => break,
            };
            // An alias is answered with the servers of the zone that it leads to.
            let own = |record: &&Record| record.name.to_ascii().eq_ignore_ascii_case(&zone);
            let servers = answer.answers().iter().filter(own);
            let servers: Vec<_> = servers
                .filter_map(|record| match &record.data {
                    RData::NS(server) => Some(server.0.clone()),
                    _ => None,
                })
                .collect();
            if servers.is_empty() {
                continue;
            }
            let mut addresses = Vec::new();
            for server in servers {
                let Ok(found) = self.resolver.lookup_ip(server).await else {
                    continue;
                };
                addresses.extend(found.iter().map(|ip| SocketAddr::new(ip, self.authority_port)));
            }
            addresses.truncate(MAX_AUTHORITIES);
            return addresses;
        }
        Vec::new()
    }

    /// Whether every authoritative server that answers has the record. If none answers, because there are none or this
    /// host may not talk to them, the configured servers are asked.
    pub(crate) async fn sees(&self, wanted: &Wanted, authorities: &[SocketAddr]) -> Sight {
        let mut asked = JoinSet::new();
        for resolver in authorities.iter().filter_map(authoritative) {
            let wanted = wanted.clone();
            asked.spawn(async move { has(&resolver, &wanted).await });
        }
        let mut seen = false;
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Some(true)) => seen = true,
                Ok(Some(false)) => return Sight::Missing,
                Ok(None) | Err(_) => {}
            }
        }
        match seen || has(&self.resolver, wanted).await == Some(true) {
            true => Sight::Seen,
            false => Sight::Unclear,
        }
    }
}

/// Whether the record is there; `None`: nobody says.
async fn has(resolver: &TokioResolver, wanted: &Wanted) -> Option<bool> {
    match resolver.lookup(wanted.name.as_str(), RecordType::TXT).await {
        Ok(answer) => Some(answer.answers().iter().any(|found| match &found.data {
            RData::TXT(txt) => txt.txt_data.concat() == wanted.value.as_bytes(),
            _ => false,
        })),
        Err(error) if is_denial(&error) => Some(false),
        Err(_) => None,
    }
}

fn is_denial(error: &NetError) -> bool {
    error.is_nx_domain() || error.is_no_records_found()
}

fn authoritative(address: &SocketAddr) -> Option<TokioResolver> {
    let config = ResolverConfig::from_name_servers(vec![name_server(address)]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    plain(builder.options_mut());
    builder.options_mut().recursion_desired = false;
    builder.build().ok()
}

fn plain(options: &mut ResolverOpts) {
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = DNS_TIMEOUT;
    options.attempts = 1;
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut udp = ConnectionConfig::udp();
    udp.port = address.port();
    let mut tcp = ConnectionConfig::tcp();
    tcp.port = address.port();
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

/// Whether a name is safe as a program's argument, even if the program hands it to a shell, and in a URL.
fn is_plain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    name.len() > 1 && name.len() <= 254 && !name.starts_with('-') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t4_an_alias_that_a_shell_would_act_on_is_not_plain() {
        assert!(is_plain("_acme-challenge.www.example.net."));
        for odd in ["$(reboot).example.", "a b.", "-rf.", "a;b.", "", "."] {
            assert!(!is_plain(odd), "{odd}");
        }
    }
}
