//! What can be wrong with a database: one table from the library's errors and SQLSTATE (PostgreSQL 15, appendix A) to
//! sentences that say what to do, and to the labels of a metric.

use std::error::Error as _;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::acme::problem::cleaned;
use crate::store::StoreError;

/// How much of the server's own words is shown, in characters.
const LONGEST_DETAIL: usize = 300;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A host name has no address.
    Unresolved,
    /// Nothing listens at the address.
    Refused,
    /// The address does not answer in time.
    Unreachable,
    /// TLS fails.
    Tls,
    /// The password is wrong.
    Password,
    /// The server lets nobody in so.
    NotAdmitted,
    /// There is no such database.
    NoDatabase,
    /// The user lacks rights.
    Rights,
    /// The server takes no writes.
    ReadOnly,
    /// The server's disk is full.
    DiskFull,
    /// The server has no connection left.
    TooManyConnections,
    /// The server starts or stops.
    Restarting,
    /// A statement took too long.
    Timeout,
    /// A connection broke.
    Lost,
    /// All connections of the pool are in use.
    PoolExhausted,
    /// The records were written under another `db.secret`.
    DifferentSecret,
    /// The schema is of another version.
    Schema,
    /// Our clock and the database's differ.
    ClockSkew,
    /// Anything else.
    Other,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Unresolved,
        Self::Refused,
        Self::Unreachable,
        Self::Tls,
        Self::Password,
        Self::NotAdmitted,
        Self::NoDatabase,
        Self::Rights,
        Self::ReadOnly,
        Self::DiskFull,
        Self::TooManyConnections,
        Self::Restarting,
        Self::Timeout,
        Self::Lost,
        Self::PoolExhausted,
        Self::DifferentSecret,
        Self::Schema,
        Self::ClockSkew,
        Self::Other,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Password => "password",
            Self::NotAdmitted => "not_admitted",
            Self::NoDatabase => "no_database",
            Self::Rights => "rights",
            Self::ReadOnly => "read_only",
            Self::DiskFull => "disk_full",
            Self::TooManyConnections => "too_many_connections",
            Self::Restarting => "restarting",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::PoolExhausted => "pool_exhausted",
            Self::DifferentSecret => "different_secret",
            Self::Schema => "schema",
            Self::ClockSkew => "clock_skew",
            Self::Other => "other",
        }
    }

    /// What is wrong, and what to do about it.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unresolved => {
                "the host name has no address; correct the host in db.dataSource, or look at this host's DNS servers"
            }
            Self::Refused => {
                "nothing listens there; correct host and port in db.dataSource, or start PostgreSQL (its settings \
                 listen_addresses and port)"
            }
            Self::Unreachable => {
                "it does not answer in time; look whether the host is up, and at the firewalls on the way"
            }
            Self::Tls => {
                "TLS fails; look at sslmode and sslrootcert in db.dataSource, and at the server's settings ssl and \
                 ssl_cert_file"
            }
            Self::Password => {
                "the password is wrong or missing, or there is no such user; correct db.password, or set another one \
                 with ALTER ROLE"
            }
            Self::NotAdmitted => {
                "the server does not let this user in from here; look at the user in db.dataSource, and give pg_hba.conf \
                 a line like: hostssl DATABASE USER ADDRESS scram-sha-256"
            }
            Self::NoDatabase => {
                "there is no such database; make it with createdb --owner=USER DATABASE, or correct db.dataSource or \
                 db.database"
            }
            Self::Rights => {
                "the user lacks rights; make it the owner of the database (ALTER DATABASE name OWNER TO user), and of the \
                 schema acme_proxy with all that is in it, if it is there"
            }
            Self::ReadOnly => {
                "it takes no writes: it is a standby, or set to be read-only; name the primary among the hosts of \
                 db.dataSource, or promote this one"
            }
            Self::DiskFull => "its disk is full; make room there",
            Self::TooManyConnections => {
                "it has no connection left; raise its max_connections, or lower db.pool of every replica"
            }
            Self::Restarting => "it starts or stops at the moment; wait, or look at its log",
            Self::Timeout => {
                "a statement took too long; look at its load and locks (pg_stat_activity), and at its disk"
            }
            Self::Lost => "the connection broke; look at its log, and at the network",
            Self::PoolExhausted => {
                "all connections are in use; look whether it has become slow, or raise db.pool"
            }
            Self::DifferentSecret => "it was set up with another db.secret; give every replica the same one",
            Self::Schema => {
                "a newer acme-proxy has changed its tables; run that one, or restore a backup from before"
            }
            Self::ClockSkew => {
                "its clock and the clock of this host differ; let both follow the same time servers"
            }
            Self::Other => "it reports an error that is not known; look at its log",
        }
    }

    /// Whether it may pass without anybody doing something about it.
    pub fn passes(self) -> bool {
        match self {
            Self::Unresolved
            | Self::Refused
            | Self::Unreachable
            | Self::ReadOnly
            | Self::DiskFull
            | Self::TooManyConnections
            | Self::Restarting
            | Self::Timeout
            | Self::Lost
            | Self::PoolExhausted
            | Self::ClockSkew
            | Self::Other => true,
            Self::Tls
            | Self::Password
            | Self::NotAdmitted
            | Self::NoDatabase
            | Self::Rights
            | Self::DifferentSecret
            | Self::Schema => false,
        }
    }

    fn of_sqlstate(code: &SqlState) -> Self {
        match code.code() {
            "28P01" => Self::Password,
            "28000" => Self::NotAdmitted,
            "3D000" => Self::NoDatabase,
            "42501" => Self::Rights,
            "25006" => Self::ReadOnly,
            "53100" => Self::DiskFull,
            "53300" => Self::TooManyConnections,
            "57P01" | "57P02" | "57P03" => Self::Restarting,
            "57014" | "55P03" | "25P03" => Self::Timeout,
            code if code.starts_with("08") => Self::Lost,
            _ => Self::Other,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            // tokio-postgres says so of a server that takes no writes; the system's own error has a number.
            ErrorKind::PermissionDenied if error.raw_os_error().is_none() => Self::ReadOnly,
            ErrorKind::PermissionDenied => Self::NotAdmitted,
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Self::Unreachable
            }
            _ => Self::Lost,
        }
    }

    fn of(error: &Error) -> Self {
        if let Some(error) = error.as_db_error() {
            return Self::of_sqlstate(error.code());
        }
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        // The kind of the error is not to be had but by its words, which a test holds against a real server.
        match error.to_string().as_str() {
            // A server that stops cuts it off, and rustls calls what it does not like invalid data.
            "error performing TLS handshake"
                if cause.is_none_or(|cause| cause.kind() == ErrorKind::InvalidData) =>
            {
                return Self::Tls;
            }
            "authentication error" => return Self::NotAdmitted,
            "invalid configuration" => return Self::Password,
            _ => {}
        }
        match cause {
            Some(cause) => Self::of_io(cause),
            None if error.is_closed() => Self::Lost,
            None => Self::Other,
        }
    }
}

/// A fault, with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What is wrong.
    pub fault: Fault,
    /// Where, and in whose words.
    text: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Told {}

impl From<Told> for StoreError {
    fn from(told: Told) -> Self {
        match told.fault.passes() {
            true => Self::Unavailable(told.text),
            false => Self::Refused(told.text),
        }
    }
}

impl Told {
    /// A fault at a place, with the words of whoever noticed it; they may be empty.
    pub fn new(place: impl fmt::Display, fault: Fault, detail: &str) -> Self {
        let detail = match cleaned(detail, LONGEST_DETAIL) {
            detail if detail.is_empty() => detail,
            detail => format!(" ({detail})"),
        };
        let text = format!("{place}: {}{detail}", fault.sentence());
        Self { fault, text }
    }

    /// What is wrong with the settings, which says itself what to do.
    pub(crate) fn of_settings(fault: Fault, text: String) -> Self {
        Self { fault, text }
    }

    /// What the library says.
    pub fn of(place: impl fmt::Display, error: &Error) -> Self {
        let mut detail = match error.as_db_error() {
            Some(error) => format!("{} {}", error.code().code(), error.message()),
            None => String::new(),
        };
        let mut cause = error.source().filter(|_| detail.is_empty());
        while let Some(inner) = cause {
            detail = match detail.as_str() {
                "" => inner.to_string(),
                before => format!("{before}: {inner}"),
            };
            cause = inner.source();
        }
        Self::new(place, Fault::of(error), &detail)
    }

    /// What is wrong with all hosts, none of which can be used. One that may be used again gives the fault its name.
    pub(crate) fn all(told: Vec<Self>) -> Option<Self> {
        let mut faults = told.iter().map(|told| told.fault);
        let fault = faults
            .find(|fault| fault.passes())
            .or(told.last().map(|told| told.fault))?;
        let texts: Vec<String> = told.into_iter().map(|told| told.text).collect();
        Some(Self {
            fault,
            text: texts.join("; "),
        })
    }
}

/// How often this process has met each fault.
static COUNTS: [AtomicU64; Fault::ALL.len()] = [const { AtomicU64::new(0) }; Fault::ALL.len()];

/// Counts a fault.
pub(crate) fn note(fault: Fault) {
    let counts = Fault::ALL.iter().zip(&COUNTS);
    for (_, count) in counts.filter(|(known, _)| **known == fault) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often this process has met each fault, by its label.
pub fn counts() -> Vec<(&'static str, u64)> {
    let counts = Fault::ALL.iter().zip(&COUNTS);
    counts
        .map(|(fault, count)| (fault.label(), count.load(Ordering::Relaxed)))
        .collect()
}
