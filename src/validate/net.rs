//! The way to the network: our own DNS resolver, and connections to checked addresses only (CONFORMANCE section 2,
//! SECURITY 1.2 T3).
//!
//! A name is asked for as a rooted name at the configured servers, in their order, without cache and search list. The
//! system's hosts file is never read: it says what this machine believes, not who controls a name. Who needs other
//! answers than DNS gives names a DNS server of their own in `validation.resolvers`. What does not fit into UDP is asked
//! for again over TCP. DNSSEC is the servers' part: what they find bogus comes as SERVFAIL.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::NameServerPool;
use hickory_resolver::PoolContext;
use hickory_resolver::TlsConfig;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::DnsError;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle as _;
use hickory_resolver::net::xfer::FirstAnswer as _;
use hickory_resolver::proto::op::DnsRequestOptions;
use hickory_resolver::proto::op::DnsResponse;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::RecordType;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;

use crate::acme::identifier::DnsName;
use crate::validate::Settings;
use crate::validate::SetupError;
use crate::validate::guard::Admitted;
use crate::validate::guard::Guard;
use crate::validate::guard::Refusal;

/// How long one server may take to answer, and how long all of them together. UDP queries are repeated within the first.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// How many CNAME records may lie between a name and the records that are looked for.
const MAX_ALIASES: usize = 8;

/// The resolver and the address guard.
#[derive(Debug)]
pub(crate) struct Network {
    servers: Vec<Server>,
    guard: Guard,
}

/// Why a look-up gave no address. Of the failures of two families the greater one is told: the one that is less certain
/// of the name's absence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum LookupFailure {
    #[error("NXDOMAIN")]
    NoSuchName,
    #[error("no A and no AAAA record")]
    NoAddress,
    #[error("more than {MAX_ALIASES} CNAME records")]
    TooManyAliases,
    /// SERVFAIL, REFUSED, silence, an unreadable answer: never to be taken for "no record".
    #[error("no usable answer: {0}")]
    Unanswered(String),
}

/// What was found at the end of a chain of aliases.
struct Found {
    owner: Name,
    data: Vec<RData>,
}

/// TXT records.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    /// Each record's strings as one, in the answer's order.
    pub(crate) values: Vec<Vec<u8>>,
    /// The name that has them: the end of the chain of aliases.
    pub(crate) owner: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error("{0} is {1}")]
    Refused(IpAddr, Refusal),
    #[error("{}", list(.0))]
    Dial(Vec<DialFailure>),
}

/// One address that could not be connected to.
#[derive(Debug)]
pub(crate) struct DialFailure {
    address: IpAddr,
    error: io::Error,
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.error.kind() {
            io::ErrorKind::TimedOut => "timed out",
            io::ErrorKind::ConnectionRefused => "refused the connection",
            io::ErrorKind::ConnectionReset => "reset the connection",
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "is unreachable",
            _ => "failed",
        };
        write!(f, "{} {reason}", self.address)
    }
}

fn list(failures: &[DialFailure]) -> String {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

impl LookupFailure {
    /// What the client is told about a name of its own.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::NoSuchName => {
                "the name does not exist in DNS (NXDOMAIN); create an A or AAAA record for it"
            }
            Self::NoAddress => "the name has no A and no AAAA record; create one",
            Self::TooManyAliases => "the name is an alias over too many CNAME records; shorten the chain",
            Self::Unanswered(_) => {
                "the DNS look-up of its A and AAAA records failed; check the name servers of its domain"
            }
        }
    }

    /// Whether another attempt may go better. A name that does not exist may exist in a minute: internal zones reach
    /// their secondary servers late.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::NoSuchName | Self::NoAddress | Self::Unanswered(_) => true,
            Self::TooManyAliases => false,
        }
    }
}

impl ConnectFailure {
    /// What the client is told about a host of its own.
    pub(crate) fn advice(&self, port: u16) -> String {
        match self {
            Self::Refused(address, refusal) => {
                format!("{address} is {refusal} and may not be validated; use another address")
            }
            Self::Dial(failures) => format!(
                "no connection to port {port} ({}); check that a server listens there and no firewall is in the way",
                list(failures)
            ),
        }
    }

    /// Whether another attempt may go better: what we refuse is final.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(..) => false,
            Self::Dial(_) => true,
        }
    }
}

impl Network {
    /// Sets up the resolver, without asking it anything.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let addresses = match settings.resolvers.is_empty() {
            true => system_servers()?,
            false => settings.resolvers.clone(),
        };
        let servers = addresses.into_iter().map(Server::new).collect::<Result<_, _>>();
        Ok(Self {
            servers: servers.map_err(|error| SetupError::Resolver(error.to_string()))?,
            guard: Guard::new(settings),
        })
    }

    /// Whether any server answers at all. Every resolver has something to say about the root's name servers.
    pub(crate) async fn resolver_answers(&self) -> bool {
        let mut questions = JoinSet::new();
        for server in self.servers.clone() {
            questions.spawn(async move {
                let question = Query::query(Name::root(), RecordType::NS);
                let answer = timeout(LOOKUP_DEADLINE, server.ask(&question)).await;
                matches!(answer, Ok(Ok(_) | Err(NetError::Dns(_))))
            });
        }
        while let Some(answered) = questions.join_next().await {
            if matches!(answered, Ok(true)) {
                return true;
            }
        }
        false
    }

    /// The addresses of the name, IPv6 first, each family in the order of the answer. One family that can not be looked
    /// up is no reason not to use the other.
    pub(crate) async fn addresses(&self, name: &DnsName) -> Result<Vec<IpAddr>, LookupFailure> {
        let (v6, v4) = tokio::join!(
            self.family(name, RecordType::AAAA),
            self.family(name, RecordType::A)
        );
        match (v6, v4) {
            (Ok(v6), Ok(v4)) => Ok([v6, v4].concat()),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(v6), Err(v4)) => Err(v6.max(v4)),
        }
    }

    async fn family(&self, name: &DnsName, family: RecordType) -> Result<Vec<IpAddr>, LookupFailure> {
        let found = self.resolve(name.as_str(), family).await?;
        let addresses: Vec<IpAddr> = found.data.iter().filter_map(RData::ip_addr).collect();
        match addresses.is_empty() {
            true => Err(LookupFailure::NoAddress),
            false => Ok(addresses),
        }
    }

    /// The TXT records of the name, which has no final dot; none is no failure.
    pub(crate) async fn texts(&self, name: &str) -> Result<Texts, LookupFailure> {
        let found = self.resolve(name, RecordType::TXT).await?;
        let values = found.data.iter().filter_map(|data| match data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        });
        Ok(Texts {
            values: values.collect(),
            owner: found.owner.to_ascii(),
        })
    }

    /// The records at the end of the chain of CNAME records that starts at the name. Only they count, not those of other
    /// names that an answer may hold. A server that answers with an alias alone is asked for its target.
    async fn resolve(&self, name: &str, kind: RecordType) -> Result<Found, LookupFailure> {
        let mut owner = Name::from_ascii(format!("{name}."))
            .map_err(|error| LookupFailure::Unanswered(error.to_string()))?;
        let deadline = Instant::now() + LOOKUP_DEADLINE;
        let mut aliases = 0;
        loop {
            let asked = owner.clone();
            let records = self.records(&asked, kind, deadline).await?;
            while let Some(target) = alias(&owner, &records) {
                owner = target.clone();
                aliases += 1;
                if aliases > MAX_ALIASES {
                    return Err(LookupFailure::TooManyAliases);
                }
            }
            let at_end = records.into_iter().filter(|record| record.name == owner);
            let data: Vec<RData> = at_end
                .filter(|record| record.record_type() == kind)
                .map(|record| record.data)
                .collect();
            if !data.is_empty() || owner == asked {
                return Ok(Found { owner, data });
            }
        }
    }

    /// The answer of the first server that knows: a server that fails is passed over, one that says "no" is believed.
    async fn records(
        &self,
        name: &Name,
        kind: RecordType,
        deadline: Instant,
    ) -> Result<Vec<Record>, LookupFailure> {
        let question = Query::query(name.clone(), kind);
        let mut failure = LookupFailure::Unanswered("no server".to_owned());
        for server in &self.servers {
            let answer = timeout_at(deadline, server.ask(&question)).await;
            let (code, records) = match answer.unwrap_or(Err(NetError::Timeout)) {
                Ok(answer) => (answer.response_code, answer.into_message().answers),
                Err(NetError::Dns(DnsError::NoRecordsFound(no))) => (no.response_code, Vec::new()),
                Err(error) => {
                    failure = LookupFailure::Unanswered(error.to_string());
                    continue;
                }
            };
            match code {
                ResponseCode::NoError => return Ok(records),
                ResponseCode::NXDomain => return Err(LookupFailure::NoSuchName),
                other => failure = LookupFailure::Unanswered(other.to_string()),
            }
        }
        Err(failure)
    }

    /// Connects to the first IPv6 address that the guard admits, then, if dialling fails, to the first IPv4 address; no
    /// third one, however many records there are.
    pub(crate) async fn connect(
        &self,
        addresses: &[IpAddr],
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectFailure> {
        let mut failures = Vec::new();
        let mut candidates = self.candidates(addresses, port)?.into_iter().peekable();
        while let Some(candidate) = candidates.next() {
            let mut until = deadline;
            if candidates.peek().is_some() {
                // A silent IPv6 address must leave time for the IPv4 one.
                let now = Instant::now();
                until = now + deadline.saturating_duration_since(now) / 2;
            }
            let dialled = timeout_at(until, TcpStream::connect(candidate.address())).await;
            match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(error) => failures.push(DialFailure {
                    address: candidate.address().ip(),
                    error,
                }),
            }
        }
        Err(ConnectFailure::Dial(failures))
    }

    fn candidates(&self, addresses: &[IpAddr], port: u16) -> Result<Vec<Admitted>, ConnectFailure> {
        let (mut v6, mut v4, mut refused) = (None, None, None);
        for address in addresses {
            match self.guard.admit(*address, port) {
                Ok(admitted) if admitted.address().is_ipv6() => v6 = v6.or(Some(admitted)),
                Ok(admitted) => v4 = v4.or(Some(admitted)),
                Err(refusal) => refused = refused.or(Some(ConnectFailure::Refused(*address, refusal))),
            }
        }
        let admitted: Vec<Admitted> = v6.into_iter().chain(v4).collect();
        match refused {
            Some(refused) if admitted.is_empty() => Err(refused),
            _ => Ok(admitted),
        }
    }
}

/// The target of the owner's CNAME record, if there is one.
fn alias<'a>(owner: &Name, records: &'a [Record]) -> Option<&'a Name> {
    records.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if &record.name == owner => Some(&target.0),
        _ => None,
    })
}

/// The servers of the system's `resolv.conf`.
pub(crate) fn system_servers() -> Result<Vec<SocketAddr>, SetupError> {
    let (config, _) = hickory_resolver::system_conf::read_system_conf()
        .map_err(|error| SetupError::NoResolver(error.to_string()))?;
    let servers = config.name_servers().iter();
    Ok(servers.map(|server| SocketAddr::new(server.ip, 53)).collect())
}

/// A client of one server. The pool that hickory has for several prefers the one that answers fastest, be it always with
/// an error. hickory's resolver above the pool is not used: it answers for some names by itself, and does not show how far
/// it has followed aliases.
#[derive(Clone)]
struct Server {
    /// Asks over UDP, and over TCP what is truncated there or comes with the letters in another case.
    first: NameServerPool<TokioRuntimeProvider>,
    /// Asks over TCP. hickory ends a look-up whose answer over UDP can not be read, e.g. because it was cut.
    tcp: NameServerPool<TokioRuntimeProvider>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    fn new(address: SocketAddr) -> Result<Self, NetError> {
        let mut udp = ConnectionConfig::udp();
        udp.port = address.port();
        let mut tcp = ConnectionConfig::tcp();
        tcp.port = address.port();
        Ok(Self {
            first: pool(address, vec![udp, tcp.clone()])?,
            tcp: pool(address, vec![tcp])?,
        })
    }

    async fn ask(&self, question: &Query) -> Result<DnsResponse, NetError> {
        let ask = |pool: &NameServerPool<_>| {
            pool.lookup(question.clone(), DnsRequestOptions::default())
                .first_answer()
        };
        let answer = match ask(&self.first).await {
            Err(NetError::Proto(_)) => ask(&self.tcp).await?,
            other => other?,
        };
        // hickory checks this over UDP only.
        match answer.queries == [question.clone()] {
            true => Ok(answer),
            false => Err(NetError::Message("an answer to another question")),
        }
    }
}

/// A client of one server, by these ways to it.
pub(crate) fn pool(
    server: SocketAddr,
    connections: Vec<ConnectionConfig>,
) -> Result<NameServerPool<TokioRuntimeProvider>, NetError> {
    let mut options = ResolverOpts::default();
    options.timeout = SERVER_TIMEOUT;
    // A spoofer has to guess the case of each letter too; a server that does not keep it is asked again over TCP.
    options.case_randomization = true;
    let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
    let server = NameServerConfig::new(server.ip(), true, connections);
    Ok(NameServerPool::from_config(
        [server],
        context,
        TokioRuntimeProvider::default(),
    ))
}

#[cfg(test)]
mod tests;
