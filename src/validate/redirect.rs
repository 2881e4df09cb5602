//! Where a request of http-01 goes, and the rules for redirects (RFC 8555 §8.3, CONFORMANCE section 2, C603).
//!
//! Only [`Target::first`] and [`Chain::follow`] make a [`Target`], so that what is checked here holds for each hop.
//! The address that a target's host resolves to is the guard's business.

use std::collections::HashSet;
use std::net::IpAddr;

use url::Url;

use crate::acme::challenge::Token;
use crate::acme::identifier::DnsName;
use crate::acme::identifier::Identifier;
use crate::validate::Settings;

/// How many redirects are followed, as Boulder's documentation has it (its code follows eleven).
pub(crate) const MAX_REDIRECTS: usize = 10;

/// The longest path with query that a redirect may have, in bytes.
const MAX_PATH: usize = 2000;

/// Why a redirect is not followed. The texts are fixed: they go to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RefusedRedirect {
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooMany,
    #[error("a redirect loop")]
    Loop,
    #[error("a redirect with status 303; only 301, 302, 307 and 308 are followed")]
    SeeOther,
    #[error("a redirect without a readable URL in its Location")]
    Unreadable,
    #[error("a redirect to another scheme than http and https")]
    Scheme,
    #[error("a redirect to another port than 80 and 443")]
    Port,
    #[error("a redirect to a URL with a user name or password")]
    UserInfo,
    #[error("a redirect to a path of more than {MAX_PATH} bytes")]
    TooLong,
    #[error("a redirect to a host that is no DNS name and no IP address")]
    Host,
    #[error(
        "a redirect to a host that ends in .well-known; a '/' seems to be missing in the web server's redirect rule"
    )]
    MissingSlash,
}

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Name(DnsName),
    Address(IpAddr),
}

/// The ports that stand for 80 and 443: others only in tests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    http: u16,
    tls: u16,
}

impl Ports {
    /// The settings' ports.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            http: settings.http_port,
            tls: settings.tls_port,
        }
    }

    /// Where http-01 starts.
    pub(crate) fn http(self) -> u16 {
        self.http
    }

    fn dialled(self, port: u16) -> Option<u16> {
        match port {
            80 => Some(self.http),
            443 => Some(self.tls),
            port if port == self.http || port == self.tls => Some(port),
            _ => None,
        }
    }
}

/// One request's destination.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: Url,
    host: Host,
    port: u16,
}

impl Target {
    /// The URL that RFC 8555 §8.3 has the key authorization at, dialled at the configured port.
    pub(crate) fn first(
        identifier: &Identifier,
        token: &Token,
        ports: Ports,
    ) -> Result<Self, RefusedRedirect> {
        let host = match identifier {
            Identifier::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            Identifier::Ip(IpAddr::V4(_)) | Identifier::Dns(_) => identifier.to_string(),
            Identifier::Wildcard(_) => return Err(RefusedRedirect::Host),
        };
        let url = format!("http://{host}/.well-known/acme-challenge/{}", token.as_str());
        let url = Url::parse(&url).map_err(|_| RefusedRedirect::Unreadable)?;
        Self::new(url, ports)
    }

    fn new(mut url: Url, ports: Ports) -> Result<Self, RefusedRedirect> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(RefusedRedirect::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(RefusedRedirect::UserInfo);
        }
        let port = url.port_or_known_default().and_then(|port| ports.dialled(port));
        let port = port.ok_or(RefusedRedirect::Port)?;
        let host = host(&url)?;
        url.set_fragment(None);
        let target = Self { url, host, port };
        match target.path_and_query().len() > MAX_PATH {
            true => Err(RefusedRedirect::TooLong),
            false => Ok(target),
        }
    }

    /// Whom to look up, or the address itself.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The port to dial.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the scheme is https.
    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The request target, e.g. `/.well-known/acme-challenge/abc`.
    pub(crate) fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// The value of the `Host` header field: the URL's authority.
    pub(crate) fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// The URL, for the log.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }
}

fn host(url: &Url) -> Result<Host, RefusedRedirect> {
    match url.host() {
        Some(url::Host::Ipv4(address)) => Ok(Host::Address(address.into())),
        Some(url::Host::Ipv6(address)) => Ok(Host::Address(address.into())),
        Some(url::Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.ends_with(".well-known") {
                return Err(RefusedRedirect::MissingSlash);
            }
            name.parse().map(Host::Name).map_err(|_| RefusedRedirect::Host)
        }
        None => Err(RefusedRedirect::Host),
    }
}

/// The targets of one attempt so far.
#[derive(Debug)]
pub(crate) struct Chain {
    ports: Ports,
    current: Target,
    seen: HashSet<Url>,
}

impl Chain {
    /// A chain that starts, and so far ends, at the target.
    pub(crate) fn new(first: Target, ports: Ports) -> Self {
        Self {
            ports,
            seen: HashSet::from([first.url.clone()]),
            current: first,
        }
    }

    /// The target to ask next.
    pub(crate) fn current(&self) -> &Target {
        &self.current
    }

    /// How many redirects have been followed.
    pub(crate) fn redirects(&self) -> usize {
        self.seen.len().saturating_sub(1)
    }

    /// Follows a redirect: the location is a URL, or a reference relative to the current one (RFC 9110 §10.2.2).
    pub(crate) fn follow(&mut self, location: &str) -> Result<(), RefusedRedirect> {
        if self.redirects() >= MAX_REDIRECTS {
            return Err(RefusedRedirect::TooMany);
        }
        if location.is_empty() {
            return Err(RefusedRedirect::Unreadable);
        }
        let url = self.current.url.join(location);
        let next = Target::new(url.map_err(|_| RefusedRedirect::Unreadable)?, self.ports)?;
        if !self.seen.insert(next.url.clone()) {
            return Err(RefusedRedirect::Loop);
        }
        self.current = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { http: 80, tls: 443 };

    fn chain() -> Chain {
        let name = Identifier::dns("www.example.com").unwrap();
        let first = Target::first(&name, &Token::random(), PORTS).unwrap();
        Chain::new(first, PORTS)
    }

    #[test]
    fn c603_redirects_that_are_not_followed() {
        use RefusedRedirect::*;
        let long = format!("/{}", "a".repeat(MAX_PATH));
        let huge = format!("http://b.example.com/{}", "a".repeat(10_000));
        let table = [
            ("", Unreadable),
            ("http://", Unreadable),
            ("http://[fe80::1%25eth0]/", Unreadable),
            ("http://[fe80::1%eth0]/", Unreadable),
            ("http://b.example.com:99999/", Unreadable),
            ("gopher://b.example.com/", Scheme),
            ("file:///etc/passwd", Scheme),
            ("ftp://b.example.com/", Scheme),
            ("javascript:alert(1)", Scheme),
            ("http://b.example.com:22/", Port),
            ("https://b.example.com:8443/", Port),
            ("http://b.example.com:0/", Port),
            ("http://user@b.example.com/", UserInfo),
            ("http://user:secret@b.example.com/", UserInfo),
            ("//:secret@b.example.com/", UserInfo),
            (&long, TooLong),
            (&huge, TooLong),
            ("http://localhost/", Host),
            ("http://under_score.example.com/", Host),
            ("http://b.example.com../", Host),
            ("http://www.example.com.well-known/acme-challenge/x", MissingSlash),
        ];
        for (location, refusal) in table {
            let mut chain = chain();
            assert_eq!(chain.follow(location), Err(refusal), "{location}");
            assert_eq!(chain.redirects(), 0);
        }
    }

    #[test]
    fn redirects_that_are_followed_go_where_they_say() {
        let name = |name: &str| Host::Name(name.parse().unwrap());
        let table = [
            ("/other?a=b#c", name("www.example.com"), 80, "/other?a=b"),
            (
                "other",
                name("www.example.com"),
                80,
                "/.well-known/acme-challenge/other",
            ),
            ("//b.example.com/x", name("b.example.com"), 80, "/x"),
            ("https://b.example.com/x", name("b.example.com"), 443, "/x"),
            ("HTTPS://B.Example.COM./x", name("b.example.com"), 443, "/x"),
            ("https://b.example.com:80/x", name("b.example.com"), 80, "/x"),
            ("http://b.example.com:443/x", name("b.example.com"), 443, "/x"),
            (
                "http://10.0.0.5",
                Host::Address("10.0.0.5".parse().unwrap()),
                80,
                "/",
            ),
            (
                "http://0x7f.1/",
                Host::Address("127.0.0.1".parse().unwrap()),
                80,
                "/",
            ),
            (
                "http://2130706433/",
                Host::Address("127.0.0.1".parse().unwrap()),
                80,
                "/",
            ),
            ("https://[::1]/", Host::Address("::1".parse().unwrap()), 443, "/"),
        ];
        for (location, host, port, path) in table {
            let mut chain = chain();
            chain.follow(location).unwrap();
            let target = chain.current();
            assert_eq!((target.host(), target.port()), (&host, port), "{location}");
            assert_eq!(target.path_and_query(), path);
        }
    }

    #[test]
    fn in_tests_the_configured_ports_stand_for_80_and_443() {
        let ports = Ports {
            http: 5002,
            tls: 5001,
        };
        let name = Identifier::dns("www.example.com").unwrap();
        let first = Target::first(&name, &Token::random(), ports).unwrap();
        assert_eq!(
            (first.port(), first.authority().as_str()),
            (5002, "www.example.com")
        );
        let table = [
            ("https://b.example.com/", Ok(5001)),
            ("http://b.example.com:5002/", Ok(5002)),
            ("https://b.example.com:5001/", Ok(5001)),
            ("http://b.example.com:5003/", Err(RefusedRedirect::Port)),
        ];
        for (location, port) in table {
            let mut chain = Chain::new(first.clone(), ports);
            assert_eq!(chain.follow(location).map(|()| chain.current().port()), port);
        }
    }

    #[test]
    fn c603_ten_redirects_are_followed_and_the_eleventh_is_not() {
        let mut chain = chain();
        for hop in 0..MAX_REDIRECTS {
            chain.follow(&format!("/{hop}")).unwrap();
        }
        assert_eq!(chain.redirects(), 10);
        assert_eq!(chain.follow("/11"), Err(RefusedRedirect::TooMany));
    }

    #[test]
    fn c603_a_url_that_was_asked_before_is_a_loop() {
        let mut chain = chain();
        chain.follow("/a").unwrap();
        chain.follow("/b").unwrap();
        assert_eq!(
            chain.follow("HTTP://WWW.example.com:80/a#x"),
            Err(RefusedRedirect::Loop)
        );
    }
}
