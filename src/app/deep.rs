//! `acme-proxy check --deep`: looks at what a configuration stands on, as an expert would: files, names, ports, DNS, the
//! CA, the account there, the DNS provider, the own certificate.
//!
//! Nothing is changed but for one TXT record, which is taken back, and no EAB is spent. Whatever hangs has a deadline, and
//! holds up nothing else.

mod ca;
mod database;
mod files;
mod finding;
mod known;
mod network;
mod own;
mod provider;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::app::deep::known::Known;
use crate::clock::Clock;
use crate::config::Config;

pub use crate::app::deep::finding::{Check, Finding, Level};

/// How long any group of checks may take. Every request inside has a deadline of its own, which comes sooner: the longest
/// group writes a record, looks for it, and takes it back, more than once if need be.
const DEADLINE: Duration = Duration::from_secs(900);

/// What all checks start from.
pub(crate) struct Facts {
    /// Where the configuration stands.
    pub(crate) path: PathBuf,
    /// The configuration.
    pub(crate) config: Config,
    /// The system's.
    pub(crate) clock: Clock,
    runs: OnceCell<bool>,
    known: OnceCell<Known>,
}

impl Facts {
    /// Whether a daemon has the store open.
    pub(crate) async fn daemon_runs(&self) -> bool {
        *self.runs.get_or_init(|| known::daemon_runs(&self.config)).await
    }

    /// What only the store knows. It is opened at most once.
    pub(crate) async fn known(&self) -> &Known {
        self.known.get_or_init(|| Known::find_out(self)).await
    }
}

type Findings = Pin<Box<dyn Future<Output = Vec<Finding>> + Send>>;

/// Looks at everything that the configuration, which was read from this file, stands on.
pub async fn diagnose(path: &Path, config: Config) -> Vec<Finding> {
    let facts = Arc::new(Facts {
        path: path.to_owned(),
        config,
        clock: Clock::system(),
        runs: OnceCell::new(),
        known: OnceCell::new(),
    });
    let of = || Arc::clone(&facts);
    let (a, b, c, d, e, f, g) = (of(), of(), of(), of(), of(), of(), of());
    let mut looks: Vec<(Check, Findings)> = vec![
        (
            Check::Configuration,
            Box::pin(async move { files::look(&a).await }),
        ),
        (Check::Database, Box::pin(async move { database::look(&g).await })),
        (Check::Name, Box::pin(async move { network::names(&b).await })),
        (Check::Port, Box::pin(async move { network::ports(&c).await })),
        (
            Check::Resolver,
            Box::pin(async move { network::resolvers(&d).await }),
        ),
    ];
    for place in 0..facts.config.upstreams.len() {
        let (a, b) = (of(), of());
        looks.push((Check::Ca, Box::pin(async move { ca::look(&a, place).await })));
        looks.push((
            Check::DnsProvider,
            Box::pin(async move { provider::look(&b, place).await }),
        ));
    }
    looks.push((
        Check::OwnCertificate,
        Box::pin(async move { own::look(&e).await }),
    ));
    looks.push((Check::Daemon, Box::pin(async move { own::daemon(&f).await })));
    let mut side_by_side = JoinSet::new();
    for (place, (check, findings)) in looks.into_iter().enumerate() {
        side_by_side.spawn(async move {
            let found = timeout(DEADLINE, findings).await;
            let late = |_| {
                let text = format!("this was not found out within {} s", DEADLINE.as_secs());
                vec![Finding::warning(
                    check,
                    "",
                    text,
                    "look at what hangs, and try again",
                )]
            };
            (place, found.unwrap_or_else(late))
        });
    }
    let mut found = side_by_side.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().flat_map(|(_, findings)| findings).collect()
}
