//! The addresses of the hosts that are called: CAs, proxies, the APIs and servers of DNS providers. They are looked up as this
//! machine does it, in `/etc/hosts` and at the servers of `/etc/resolv.conf`, in their order, but not by the C library: that
//! loads what `/etc/nsswitch.conf` names into the program, which is static, and dies of modules for another C library.
//!
//! Both files are read anew each time, so that a change needs no restart. Challenges are looked up elsewhere, by stricter rules.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::Hosts;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;
use reqwest::dns::Addrs;
use reqwest::dns::Resolve;
use reqwest::dns::Resolving;

use crate::acme::problem::cleaned;

const HOSTS: &str = "/etc/hosts";
const SERVERS: &str = "/etc/resolv.conf";

/// One server, which is asked again meanwhile. There may be three of them, and all have had their turn before a connection has to be there.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);

/// The addresses of `HOST:PORT`; an IPv6 address stands in brackets.
///
/// # Errors
///
/// The text is of another form, or the host has no address.
pub async fn sockets(text: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let parts = text.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let named = |(host, _): &(&str, u16)| !host.is_empty() && !host.contains(':');
    let (host, port) = parts.filter(named).ok_or(io::ErrorKind::InvalidInput)?;
    let found = addresses(host, &read(HOSTS), configured(&read(SERVERS))).await?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// For a client of HTTP.
pub(crate) struct Hostnames;

impl Resolve for Hostnames {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        Box::pin(async move {
            let found = addresses(name.as_str(), &read(HOSTS), configured(&read(SERVERS))).await?;
            let found: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(found)
        })
    }
}

/// A file that is not there says nothing.
fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

/// What stands in `resolv.conf`. If no server does, there is one on this machine, as resolv.conf(5) has it.
fn configured(file: &[u8]) -> (ResolverConfig, ResolverOpts) {
    parse_resolv_conf(file).unwrap_or_else(|_| {
        let here = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![here]);
        (config, ResolverOpts::default())
    })
}

/// What the hosts file says of a name is all that there is; DNS is asked only about the others. The first server that says
/// anything of a name is believed.
async fn addresses(
    host: &str,
    hosts: &[u8],
    (config, options): (ResolverConfig, ResolverOpts),
) -> io::Result<Vec<IpAddr>> {
    let written = in_hosts(host, hosts);
    if !written.is_empty() {
        return Ok(written);
    }
    let mut reason = String::new();
    for server in config.name_servers() {
        let (domain, search) = (config.domain().cloned(), config.search().to_vec());
        let alone = ResolverConfig::from_parts(domain, search, vec![server.clone()]);
        match ask(host, alone, options.clone()).await {
            Ok(found) => return Ok(found),
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                let text = format!("{host} has no address, neither in {HOSTS} nor in DNS");
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
            Err(error) => reason = format!("{}: {}", server.ip, cleaned(&error.to_string(), 200)),
        }
    }
    Err(io::Error::other(format!(
        "no DNS server of {SERVERS} tells the address of {host} ({reason})"
    )))
}

fn in_hosts(host: &str, file: &[u8]) -> Vec<IpAddr> {
    let mut hosts = Hosts::default();
    let Ok(mut name) = Name::from_ascii(host.to_ascii_lowercase()) else {
        return Vec::new();
    };
    name.set_fqdn(true);
    // Bytes that are no text end the reading, and what stands before them counts.
    let _ = hosts.read_hosts_conf(file);
    let of = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of);
    found
        .flat_map(|lookup| {
            lookup
                .answers()
                .iter()
                .filter_map(|r| r.data.ip_addr())
                .collect::<Vec<_>>()
        })
        .collect()
}

async fn ask(host: &str, config: ResolverConfig, options: ResolverOpts) -> Result<Vec<IpAddr>, NetError> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.timeout = options.timeout.min(SERVER_TIMEOUT);
    options.attempts = 0;
    Ok(builder.build()?.lookup_ip(host).await?.iter().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_proto::op::Message;
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::RData;
    use hickory_proto::rr::Record;
    use hickory_resolver::config::ConnectionConfig;
    use tokio::net::UdpSocket;

    use super::*;

    /// A server that knows these names, and denies the others.
    async fn server(zone: &'static [(&'static str, &'static str)]) -> NameServerConfig {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 512];
            loop {
                let (length, asker) = socket.recv_from(&mut packet).await.unwrap();
                let mut message = Message::from_vec(&packet[..length]).unwrap().into_response();
                let question = message.queries[0].clone();
                let known = zone
                    .iter()
                    .filter(|(name, _)| question.name().to_ascii() == *name);
                let records = known
                    .clone()
                    .map(|(_, ip)| RData::from(ip.parse::<IpAddr>().unwrap()));
                for data in records.filter(|data| data.record_type() == question.query_type()) {
                    message.add_answer(Record::from_rdata(question.name().clone(), 60, data));
                }
                if known.count() == 0 {
                    message.metadata.response_code = ResponseCode::NXDomain;
                }
                socket.send_to(&message.to_vec().unwrap(), asker).await.unwrap();
            }
        });
        at(address)
    }

    fn at(address: SocketAddr) -> NameServerConfig {
        let mut udp = ConnectionConfig::udp();
        udp.port = address.port();
        NameServerConfig::new(address.ip(), true, vec![udp])
    }

    async fn look_up(host: &str, hosts: &str, servers: Vec<NameServerConfig>) -> Result<Vec<String>, String> {
        let search = vec![Name::from_ascii("corp.example.").unwrap()];
        let config = ResolverConfig::from_parts(None, search, servers);
        let found = addresses(host, hosts.as_bytes(), (config, ResolverOpts::default())).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    const ZONE: &[(&str, &str)] = &[
        ("ca.example.", "192.0.2.1"),
        ("ca.example.", "2001:db8::1"),
        ("ca.corp.example.", "10.0.0.1"),
    ];

    #[tokio::test]
    async fn t4_a_host_is_looked_up_in_the_hosts_file_and_else_in_dns_with_its_search_list() {
        let dns = server(ZONE).await;
        let look_up = |host, hosts| look_up(host, hosts, vec![dns.clone()]);
        assert_eq!(
            look_up("ca.example", "").await.unwrap(),
            ["2001:db8::1", "192.0.2.1"]
        );
        assert_eq!(look_up("ca", "").await.unwrap(), ["10.0.0.1"]);
        // Not the IPv6 address that DNS has.
        let hosts = "# a relay\n10.0.0.9 relay CA.example # here\nno address\n";
        assert_eq!(look_up("ca.example", hosts).await.unwrap(), ["10.0.0.9"]);
        assert_eq!(look_up("Relay", hosts).await.unwrap(), ["10.0.0.9"]);
        let error = look_up("none.example", hosts).await.unwrap_err();
        assert_eq!(
            error,
            "none.example has no address, neither in /etc/hosts nor in DNS"
        );
    }

    #[tokio::test]
    async fn t4_the_next_server_is_asked_only_where_one_does_not_answer() {
        let nobody = UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let (first, second) = (server(&[]).await, server(ZONE).await);
        let found = look_up("ca.example", "", vec![at(nobody), second.clone()]).await;
        assert_eq!(found.unwrap().len(), 2);
        let error = look_up("ca.example", "", vec![first, second]).await.unwrap_err();
        assert!(error.contains("has no address"), "{error}");
        let error = look_up("ca.example", "", vec![at(nobody)]).await.unwrap_err();
        let begins = "no DNS server of /etc/resolv.conf tells the address of ca.example (127.0.0.1: ";
        assert!(error.starts_with(begins), "{error}");
    }

    #[tokio::test]
    async fn addresses_need_no_look_up_and_what_has_no_port_is_refused() {
        for text in ["10.0.0.53:53", "[2001:db8::53]:5353"] {
            assert_eq!(sockets(text).await.unwrap(), [text.parse().unwrap()]);
        }
        assert!(
            sockets("localhost:53")
                .await
                .unwrap()
                .iter()
                .all(|a| a.ip().is_loopback())
        );
        for text in [
            "",
            "ca.example",
            "ca.example:",
            "ca.example:70000",
            "2001:db8::53",
        ] {
            let error = sockets(text).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn without_a_server_in_resolv_conf_there_is_one_on_this_machine() {
        for file in ["", "nameserver\n", "search corp.example\n"] {
            let (config, _) = configured(file.as_bytes());
            let servers: Vec<_> = config
                .name_servers()
                .iter()
                .map(|server| server.ip.to_string())
                .collect();
            assert_eq!(servers, ["127.0.0.1"], "{file}");
        }
    }
}
