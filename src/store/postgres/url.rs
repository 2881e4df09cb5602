//! The connection URL of `db.dataSource`, as libpq writes it (PostgreSQL 15, chapter 34.1.1.2), for several hosts.
//!
//! What would make a connection less safe than it looks is refused, and each refusal is a sentence that says what to
//! write. No sentence shows the URL itself: it may hold a password.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::acme::secret::Secret;

/// The port of PostgreSQL.
const PORT: u16 = 5432;

/// How long a host may take to let us in, unless the URL says something else.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that it may be told to take, in seconds.
const LONGEST_TIMEOUT: u64 = 60;

const EXAMPLE: &str = "write e.g. \"postgresql://acmeproxy@db1.example.com:5432,db2.example.com:5432/acmeproxy?sslmode=verify-full\"";

/// What is wrong with the URL, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(String);

/// What the URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionUrl {
    /// The hosts, in the order in which they are tried. There is at least one.
    pub hosts: Vec<Host>,
    /// Who we are there.
    pub user: String,
    /// The password, which should not be here.
    pub password: Option<Secret>,
    /// The name of the database.
    pub database: Option<String>,
    /// How connections over the network are protected.
    pub protection: Protection,
    /// Whether the password is only shown to a server that can tie it to this TLS connection.
    pub needs_channel_binding: bool,
    /// How long one address of a host may take to let us in.
    pub connect_timeout: Duration,
    /// What we are called in the server's list of sessions.
    pub application_name: String,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it is.
    pub place: HostPlace,
    /// Its port, which is also in the name of a socket.
    pub port: u16,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPlace {
    /// A host name or an address, without brackets.
    Network(String),
    /// The directory of its Unix socket.
    Directory(PathBuf),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            HostPlace::Network(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            HostPlace::Network(name) => write!(f, "{name}:{}", self.port),
            HostPlace::Directory(path) => write!(f, "{}/.s.PGSQL.{}", path.display(), self.port),
        }
    }
}

/// How connections over the network are protected (`sslmode`). A Unix socket needs no protection, and has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// They are not: `disable`.
    None,
    /// Whoever answers is believed: `require` without `sslrootcert`.
    Encrypted,
    /// The server shows a certificate of these roots, for whatever name: `verify-ca`, or `require` with `sslrootcert`.
    Root(PathBuf),
    /// The server shows a certificate for its name, of these roots or else of the system's: `verify-full`.
    Name(Option<PathBuf>),
}

impl ConnectionUrl {
    /// What is to be said about it although it can be used.
    pub fn warnings(&self) -> Vec<&'static str> {
        let is_exposed = |host: &Host| match &host.place {
            HostPlace::Network(name) => {
                let address: Result<std::net::IpAddr, _> = name.parse();
                name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
            }
            HostPlace::Directory(_) => false,
        };
        let mut warnings = Vec::new();
        if self.password.is_some() {
            warnings.push(
                "holds the password; take it out, write it into a file, and say \"password\": \"file:PATH\" in db",
            );
        }
        if self.hosts.iter().any(is_exposed) {
            match self.protection {
                Protection::None => warnings.push(
                    "sslmode=disable: everybody on the way to the database can read and change everything; write \
                     sslmode=verify-full",
                ),
                Protection::Encrypted => warnings.push(
                    "sslmode=require alone believes whoever answers; write sslmode=verify-full, and the database's root \
                     as sslrootcert",
                ),
                Protection::Root(_) | Protection::Name(_) => {}
            }
        }
        warnings
    }
}

fn wrong<T>(text: impl Into<String>) -> Result<T, InvalidUrl> {
    Err(InvalidUrl(text.into()))
}

impl FromStr for ConnectionUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let scheme = ["postgresql://", "postgres://"];
        let Some(rest) = scheme.iter().find_map(|scheme| text.strip_prefix(scheme)) else {
            return wrong(format!(
                "is no connection URL: it does not begin with postgresql://; {EXAMPLE}"
            ));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.contains(['/', '@']) {
            return wrong(
                "has more than one / or an @ behind the hosts; in a user name, a password or the path of a socket write \
                 / as %2F and @ as %40",
            );
        }
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains('@') {
            return wrong(
                "has more than one @; in a user name or a password write @ as %40, or better move the password into \
                 db.password",
            );
        }
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user, None),
        };
        let mut said = Parameters::default();
        said.take_query(query)?;
        said.also("user", user)?;
        said.also("password", password.unwrap_or_default())?;
        said.also("dbname", database)?;
        said.hosts_of(hosts)
    }
}

/// What the parameters say, until all of them are known.
#[derive(Default)]
struct Parameters(Vec<(&'static str, String)>);

/// Those that mean something here.
const KNOWN: [&str; 11] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "connect_timeout",
    "target_session_attrs",
    "application_name",
    "channel_binding",
];

/// Those of libpq that mean nothing here (PostgreSQL 17, chapter 34.1.2).
const FOREIGN: [&str; 25] = [
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "hostaddr",
    "krbsrvname",
    "options",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "servicefile",
    "ssl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslnegotiation",
    "sslsni",
    "tty",
];

/// Those of libpq that acme-proxy sets by itself.
const OURS: [&str; 8] = [
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "statement_timeout",
    "client_encoding",
    "load_balance_hosts",
];

impl Parameters {
    fn take_query(&mut self, query: &str) -> Result<(), InvalidUrl> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return wrong(
                    "has a parameter without a value behind the ?; write NAME=VALUE, with & between them; a ? in a password is \
                     written as %3F",
                );
            };
            if let Some(known) = KNOWN.into_iter().find(|known| *known == key) {
                if self.get(known).is_some() {
                    return wrong(format!("says {known} twice; write it once"));
                }
                self.0.push((known, decoded(value)?));
                continue;
            }
            match key {
                "sslcert" | "sslkey" | "sslpassword" => {
                    return wrong(format!(
                        "says {key}, and certificates of clients are not supported; use a password: \"password\": \
                         \"file:PATH\" in db"
                    ));
                }
                ours if OURS.contains(&ours) => {
                    return wrong(format!(
                        "says {ours}, which acme-proxy sets by itself; take it out"
                    ));
                }
                foreign if FOREIGN.contains(&foreign) => {
                    return wrong(format!(
                        "says {foreign}, which acme-proxy does not know; take it out, and write none but these: {}",
                        KNOWN.join(", ")
                    ));
                }
                // What is unknown may be a part of a password, so it is not shown.
                _ => {
                    return wrong(format!(
                        "has a parameter behind the ? that is not known; write none but these: {}; a ? in a password is \
                         written as %3F",
                        KNOWN.join(", ")
                    ));
                }
            }
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// What stands before the parameters.
    fn also(&mut self, key: &'static str, value: &str) -> Result<(), InvalidUrl> {
        let value = decoded(value)?;
        if value.is_empty() {
            return Ok(());
        }
        if self.get(key).is_some() {
            return wrong(format!("says {key} twice, once behind the ?; write it once"));
        }
        self.0.push((key, value));
        Ok(())
    }

    fn hosts_of(&self, written: &str) -> Result<ConnectionUrl, InvalidUrl> {
        let hosts = match (written.is_empty(), self.get("host")) {
            (false, Some(_)) => return wrong("says the hosts twice, once behind the ?; write them once"),
            (false, None) if self.get("port").is_some() => {
                return wrong(
                    "says port behind the ?; write each port behind its host, e.g. db1.example.com:5432",
                );
            }
            (false, None) => all(written.split(',').map(host))?,
            (true, Some(listed)) => self.listed(listed)?,
            (true, None) => return wrong(format!("names no host; {EXAMPLE}")),
        };
        let Some(user) = self.get("user") else {
            return wrong(
                "names no user; write it before the hosts: postgresql://acmeproxy@db1.example.com/acmeproxy",
            );
        };
        if let Some(other) = self
            .get("target_session_attrs")
            .filter(|attrs| *attrs != "read-write")
        {
            return match other {
                "any" | "read-only" | "primary" | "standby" | "prefer-standby" => wrong(format!(
                    "says target_session_attrs={other}, and acme-proxy can only work where it can write; write \
                     target_session_attrs=read-write, or nothing"
                )),
                _ => wrong(
                    "has a target_session_attrs that is not known; write target_session_attrs=read-write",
                ),
            };
        }
        Ok(ConnectionUrl {
            hosts,
            user: user.to_owned(),
            password: self
                .get("password")
                .map(|password| Secret::new(password.to_owned())),
            database: self.get("dbname").map(ToOwned::to_owned),
            protection: self.protection()?,
            needs_channel_binding: self.needs_channel_binding()?,
            connect_timeout: self.connect_timeout()?,
            application_name: self.get("application_name").unwrap_or("acme-proxy").to_owned(),
        })
    }

    /// The hosts of `?host=A,B&port=1,2`: one port for each host, or one for all of them.
    fn listed(&self, hosts: &str) -> Result<Vec<Host>, InvalidUrl> {
        let hosts: Vec<&str> = hosts.split(',').collect();
        let ports: Vec<&str> = self
            .get("port")
            .into_iter()
            .flat_map(|ports| ports.split(','))
            .collect();
        let ports = match ports.as_slice() {
            [] => vec![PORT; hosts.len()],
            [one] => vec![port(one)?; hosts.len()],
            several if several.len() == hosts.len() => all(several.iter().map(|one| port(one)))?,
            _ => return wrong("names other numbers of hosts and of ports; write one port for each host"),
        };
        let place = |host: &str| place(host.to_owned());
        let places = all(hosts.into_iter().map(place))?.into_iter();
        Ok(places
            .zip(ports)
            .map(|(place, port)| Host { place, port })
            .collect())
    }

    fn protection(&self) -> Result<Protection, InvalidUrl> {
        let roots = match self.get("sslrootcert") {
            None | Some("system") => None,
            Some(path) if Path::new(path).is_absolute() => Some(PathBuf::from(path)),
            Some(_) => {
                return wrong(
                    "has an sslrootcert that is no full path; write e.g. sslrootcert=/etc/acme-proxy/db-ca.pem",
                );
            }
        };
        match (self.get("sslmode"), roots) {
            (None | Some("verify-full"), roots) => Ok(Protection::Name(roots)),
            (Some("require"), None) if self.get("sslrootcert").is_some() => wrong(
                "says sslmode=require with sslrootcert=system, and everybody can have a certificate of those roots; \
                 write sslmode=verify-full",
            ),
            (Some("require"), None) => Ok(Protection::Encrypted),
            (Some("verify-ca" | "require"), Some(roots)) => Ok(Protection::Root(roots)),
            (Some("verify-ca"), None) => wrong(
                "says sslmode=verify-ca, which is only safe with roots of your own; write their PEM file as \
                 sslrootcert=PATH, or sslmode=verify-full",
            ),
            (Some("disable"), None) => Ok(Protection::None),
            (Some("disable"), Some(_)) => wrong(
                "says sslmode=disable and an sslrootcert; write sslmode=verify-full, or take the sslrootcert out",
            ),
            (Some(weak @ ("allow" | "prefer")), _) => wrong(format!(
                "says sslmode={weak}, with which anybody on the way can turn the encryption off; write \
                 sslmode=verify-full, or sslmode=disable where there is nobody on the way"
            )),
            (Some(_), _) => {
                wrong("has an sslmode that is not known; write verify-full, verify-ca, require or disable")
            }
        }
    }

    fn needs_channel_binding(&self) -> Result<bool, InvalidUrl> {
        match self.get("channel_binding") {
            None | Some("prefer") => Ok(false),
            Some("require") => Ok(true),
            Some(_) => {
                wrong("has a channel_binding that is not served; write require or prefer, or take it out")
            }
        }
    }

    fn connect_timeout(&self) -> Result<Duration, InvalidUrl> {
        match self.get("connect_timeout").map(str::parse::<u64>) {
            None => Ok(CONNECT_TIMEOUT),
            Some(Ok(seconds @ 1..=LONGEST_TIMEOUT)) => Ok(Duration::from_secs(seconds)),
            Some(_) => wrong(format!(
                "has a connect_timeout that is no number of seconds from 1 to {LONGEST_TIMEOUT}; write e.g. \
                 connect_timeout=5"
            )),
        }
    }
}

fn all<T>(results: impl Iterator<Item = Result<T, InvalidUrl>>) -> Result<Vec<T>, InvalidUrl> {
    results.collect()
}

/// `NAME`, `NAME:PORT`, `[ADDRESS]:PORT` or a socket's directory with each `/` as `%2F`.
fn host(written: &str) -> Result<Host, InvalidUrl> {
    if let Some(rest) = written.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return wrong("has a [ without ] in a host; write an IPv6 address as [2001:db8::1]:5432");
        };
        let address: Ipv6Addr = match address.parse() {
            Ok(address) => address,
            Err(_) => {
                return wrong("has something in [ ] that is no IPv6 address; write e.g. [2001:db8::1]:5432");
            }
        };
        let port = match rest.strip_prefix(':') {
            Some(written) => port(written)?,
            None if rest.is_empty() => PORT,
            None => return wrong("has something between ] and the port; write e.g. [2001:db8::1]:5432"),
        };
        let place = HostPlace::Network(address.to_string());
        return Ok(Host { place, port });
    }
    let (name, port) = match written.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            return wrong("has an IPv6 address without brackets as host; write it as [2001:db8::1]:5432");
        }
        Some((name, written)) => (name, port(written)?),
        None => (written, PORT),
    };
    let place = place(decoded(name)?)?;
    Ok(Host { place, port })
}

fn place(name: String) -> Result<HostPlace, InvalidUrl> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    match name.as_str() {
        "" => wrong("has a host without a name; look for a comma too many"),
        directory if directory.starts_with('/') => Ok(HostPlace::Directory(PathBuf::from(name))),
        known if known.chars().all(is_of_name) => Ok(HostPlace::Network(name)),
        _ => wrong(
            "has a host that is no name, address or full path of a socket's directory; write e.g. db1.example.com",
        ),
    }
}

fn port(written: &str) -> Result<u16, InvalidUrl> {
    match written.parse() {
        Ok(0) | Err(_) => wrong(
            "has a port that is no number from 1 to 65535; if it is a part of a password, write : as %3A",
        ),
        Ok(port) => Ok(port),
    }
}

/// Without percent-encoding (RFC 3986 §2.1).
fn decoded(text: &str) -> Result<String, InvalidUrl> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(rest.next()).zip(digit(rest.next()));
                match value.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
                    None | Some(0) => {
                        return wrong(
                            "has a % that is not followed by two hexadecimal digits; write % as %25",
                        );
                    }
                    Some(byte) => byte,
                }
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes)
        .or_else(|_| wrong("has a % with bytes that are not UTF-8; write each byte of the UTF-8 form"))
}

#[cfg(test)]
mod tests;
