//! Names, ports and DNS servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::acme::identifier::DnsName;
use crate::app::deep::{Check, Facts, Finding};
use crate::app::listen::NO_IPV6;
use crate::validate::inspection::{Heard, Inspection};

/// How long a name may take to be looked up.
const LOOKUP: Duration = Duration::from_secs(10);

pub(crate) async fn names(facts: &Facts) -> Vec<Finding> {
    let mut looked_up = JoinSet::new();
    for (place, name) in facts.config.server.names.iter().cloned().enumerate() {
        let settings = facts.config.validate.clone();
        looked_up.spawn(async move {
            let addresses = async {
                let inspection = Inspection::new(&settings).map_err(|error| error.to_string())?;
                inspection.addresses(&name).await
            };
            let found = timeout(LOOKUP, addresses).await;
            let found = found.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            (place, of_name(&name, found))
        });
    }
    let mut findings = looked_up.join_all().await;
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

fn of_name(name: &DnsName, found: Result<Vec<IpAddr>, String>) -> Finding {
    let addresses = match found {
        Ok(addresses) => addresses,
        Err(why) => {
            return Finding::failure(
                Check::Name,
                name,
                format!("clients do not find the daemon by this name: {why}"),
                "create an A or AAAA record for it, or take it out of dnsNames",
            );
        }
    };
    let (here, elsewhere): (Vec<IpAddr>, Vec<IpAddr>) = addresses
        .into_iter()
        .partition(|address| is_of_this_host(*address));
    let fix = "this is right behind a load balancer or NAT; otherwise correct the DNS record";
    match (here.as_slice(), elsewhere.as_slice()) {
        (here, []) => Finding::ok(
            Check::Name,
            name,
            format!("resolves to this host: {}", listed(here)),
        ),
        ([], elsewhere) => Finding::warning(
            Check::Name,
            name,
            format!("resolves to {}, which is not this host", listed(elsewhere)),
            fix,
        ),
        (here, elsewhere) => Finding::warning(
            Check::Name,
            name,
            format!(
                "resolves to this host ({}) and to another one ({})",
                listed(here),
                listed(elsewhere)
            ),
            fix,
        ),
    }
}

/// Only an address of this host can be bound.
fn is_of_this_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn listed(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

pub(crate) async fn ports(facts: &Facts) -> Vec<Finding> {
    let runs = facts.daemon_runs().await;
    let mut findings = vec![port("address", facts.config.server.address, runs)];
    findings.extend(facts.config.metrics.map(|address| port("metrics", address, runs)));
    findings
}

fn port(key: &str, address: SocketAddr, daemon_runs: bool) -> Finding {
    let subject = format!("{key} {address}");
    let bound = match TcpListener::bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == Some(NO_IPV6) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        bound => bound,
    };
    let kind = bound.map(drop).map_err(|error| (error.kind(), error));
    match (kind, daemon_runs) {
        (Ok(()), false) => Finding::ok(Check::Port, subject, "is free, and may be bound"),
        (Ok(()), true) => Finding::warning(
            Check::Port,
            subject,
            "a daemon runs with this store, and does not listen here: it has read another configuration",
            "restart the daemon",
        ),
        (Err((io::ErrorKind::AddrInUse, _)), true) => {
            Finding::ok(Check::Port, subject, "the running daemon listens here")
        }
        (Err((io::ErrorKind::AddrInUse, _)), false) => Finding::failure(
            Check::Port,
            subject,
            "is in use by another process",
            format!(
                "stop it, or choose another port (ss -ltnp 'sport = :{}' shows who it is)",
                address.port()
            ),
        ),
        (Err((io::ErrorKind::PermissionDenied, _)), true) => Finding::ok(
            Check::Port,
            subject,
            "only a service with CAP_NET_BIND_SERVICE may bind it; the daemon runs",
        ),
        (Err((io::ErrorKind::PermissionDenied, _)), false) => Finding::warning(
            Check::Port,
            subject,
            "may not be bound by this user, as he is here",
            "the service needs AmbientCapabilities=CAP_NET_BIND_SERVICE, as in systemd/acme-proxy.service; or choose a port above 1023",
        ),
        (Err((io::ErrorKind::AddrNotAvailable, _)), _) => Finding::failure(
            Check::Port,
            subject,
            "is no address of this host",
            format!("write \":{}\", or an address of this host", address.port()),
        ),
        (Err((_, error)), _) => Finding::failure(
            Check::Port,
            subject,
            format!("can not be bound: {error}"),
            "write \":443\"",
        ),
    }
}

/// A resolver that answers, but does not know the CA, is of no use for the CA's names alone.
pub(crate) async fn resolvers(facts: &Facts) -> Vec<Finding> {
    let inspection = match Inspection::new(&facts.config.validate) {
        Ok(inspection) => inspection,
        Err(error) => {
            return vec![Finding::failure(
                Check::Resolver,
                "",
                error.to_string(),
                "name DNS servers in authority.config.validation.resolvers",
            )];
        }
    };
    let host = facts.config.upstreams.first().and_then(|upstream| {
        let url = url::Url::parse(&upstream.settings.directory).ok()?;
        url.domain()?.parse::<DnsName>().ok()
    });
    let asked = match &host {
        Some(host) => host.to_string(),
        None => "the root".to_owned(),
    };
    let heard = inspection.heard(host.as_ref()).await;
    let findings = heard.into_iter().map(|heard| of_resolver(heard, &asked));
    findings.collect()
}

fn of_resolver(heard: Heard, asked: &str) -> Finding {
    let Heard {
        server,
        over_udp,
        over_tcp,
    } = heard;
    match (over_udp, over_tcp) {
        (Ok(answer), Ok(_)) => Finding::ok(
            Check::Resolver,
            server,
            format!("over UDP and TCP, for {asked}: {answer}"),
        ),
        (Ok(_), Err(why)) => Finding::warning(
            Check::Resolver,
            server,
            format!("answers over UDP, and not over TCP: {why}; TXT records that are long are not found"),
            "open TCP port 53 in the firewall",
        ),
        (Err(why), Ok(_)) => Finding::warning(
            Check::Resolver,
            server,
            format!("answers over TCP, and not over UDP: {why}; every look-up is slow"),
            "open UDP port 53 in the firewall",
        ),
        (Err(why), Err(_)) => Finding::failure(
            Check::Resolver,
            server,
            format!("gives no usable answer for {asked}: {why}"),
            "correct authority.config.validation.resolvers, or /etc/resolv.conf, or the firewall (port 53, UDP and TCP)",
        ),
    }
}
