//! A throwaway ACME CA (RFC 8555) with External Account Binding: a **test double** for the demo, the benchmark and the
//! tests. It keeps everything in memory, believes every client that answers a challenge, and must never issue anything
//! that someone trusts.
//!
//! Tests include this file by `#[path]` and call [`start`]; that is why its modules are named by path, and name each
//! other by `super`.

#[path = "answer.rs"]
pub(crate) mod answer;
#[path = "authorizations.rs"]
mod authorizations;
#[path = "certificates.rs"]
mod certificates;
#[path = "http.rs"]
mod http_server;
#[path = "jws.rs"]
mod jws;
#[path = "key_change.rs"]
mod key_change;
#[path = "orders.rs"]
mod orders;
#[path = "pki.rs"]
pub(crate) mod pki;
#[path = "problem.rs"]
pub(crate) mod problem;
#[path = "protocol.rs"]
mod protocol;
#[path = "script.rs"]
pub(crate) mod script;
#[path = "state.rs"]
pub(crate) mod state;
#[path = "trouble.rs"]
pub(crate) mod trouble;
#[path = "wire.rs"]
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use self::pki::Pki;
use self::protocol::Ca;
use self::script::{Script, Step, Times, Twist};
use self::state::{AccountStatus, Memory, Stats, lock};
use self::trouble::{NoTrouble, Trouble};

/// How the CA behaves when all is well. What goes wrong is up to the [`Script`], which may change at any time.
pub(crate) struct Options {
    /// Where to listen. Give a port to find the CA at the same URL after a restart.
    pub(crate) listen: SocketAddr,
    /// The External Account Binding that newAccount must carry.
    pub(crate) eab: Eab,
    /// Whether newAccount is refused without it.
    pub(crate) eab_required: bool,
    /// Whether the binding makes one account only, as with Sectigo and Google.
    pub(crate) eab_once: bool,
    /// Whether the names are taken as proved, as a CA does for an organisation's pre-validated domains.
    pub(crate) prevalidated: bool,
    /// The challenges offered while a name is not proved.
    pub(crate) challenges: Vec<String>,
    /// Whether a challenge that the client says is ready is taken as met; otherwise as failed.
    pub(crate) challenges_succeed: bool,
    /// How long a finalized order shows `processing`.
    pub(crate) processing: Duration,
    /// The share of good nonces refused with `badNonce`, in percent.
    pub(crate) bad_nonces: u8,
    /// Whether every revocation is refused for good.
    pub(crate) revocations_refused: bool,
    /// How long certificates are valid, from the moment that they are issued; 90 days, and an hour back, if left out.
    pub(crate) life: Option<Duration>,
    /// Whether an order's notBefore and notAfter are taken, instead of refused as by Let's Encrypt.
    pub(crate) lifetimes: bool,
    /// The profiles that the directory lists, with their descriptions.
    pub(crate) profiles: BTreeMap<String, String>,
    /// Whether a second order of one account for the same names and profile is the first one, while that has not been
    /// finalized; as at Let's Encrypt.
    pub(crate) orders_reused: bool,
    /// Whether there is renewalInfo (RFC 9773).
    pub(crate) renewal_info: bool,
    /// How many intermediates stand between a leaf and the root.
    pub(crate) intermediates: usize,
    /// How many other roots there are, each with a chain of its own that is offered as an alternate.
    pub(crate) alternates: usize,
    /// What stands behind the directory's path, `?` included; as at DigiCert.
    pub(crate) directory_query: &'static str,
    /// Whether its own TLS certificate has expired.
    pub(crate) tls_expired: bool,
    /// What goes wrong from the start; [`Running::will`] adds to it.
    pub(crate) script: Vec<(Step, Times, Twist)>,
    /// What goes wrong below the protocol, and when.
    pub(crate) trouble: Arc<dyn Trouble>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            eab: Eab::generate(),
            eab_required: true,
            eab_once: false,
            prevalidated: true,
            challenges: vec!["http-01".to_owned(), "dns-01".to_owned()],
            challenges_succeed: true,
            processing: Duration::ZERO,
            bad_nonces: 0,
            revocations_refused: false,
            life: None,
            lifetimes: false,
            profiles: BTreeMap::new(),
            orders_reused: false,
            renewal_info: false,
            intermediates: 1,
            alternates: 0,
            directory_query: "",
            tls_expired: false,
            script: Vec::new(),
            trouble: Arc::new(NoTrouble),
        }
    }
}

/// External Account Binding credentials (RFC 8555 §7.3.4).
#[derive(Clone)]
pub(crate) struct Eab {
    /// The key identifier.
    pub(crate) kid: String,
    /// The MAC key, base64url, as CAs hand it out.
    pub(crate) hmac_key: String,
}

impl Eab {
    /// A random one.
    pub(crate) fn generate() -> Self {
        Self {
            kid: "throwaway".to_owned(),
            hmac_key: state::random_text() + &state::random_text(),
        }
    }
}

/// When a certificate is to be renewed (RFC 9773 §4.2).
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) explanation: Option<String>,
}

impl Window {
    /// The first hour of the last third of a certificate's life.
    fn last_third(not_before: Timestamp, not_after: Timestamp) -> Self {
        let third = not_after.duration_since(not_before) / 3;
        let start = not_after - third;
        Self {
            start,
            end: start + Duration::from_secs(3600),
            explanation: None,
        }
    }
}

/// A CA that listens until this is dropped.
pub(crate) struct Running {
    /// What goes into `ca_url`.
    pub(crate) directory_url: String,
    /// The root certificate, which clients must trust, PEM.
    pub(crate) root_pem: String,
    /// What goes into `eab_kid` and `eab_hmac_key`.
    pub(crate) eab: Eab,
    ca: Arc<Ca>,
    server: JoinHandle<()>,
}

impl Running {
    /// What the CA has been asked, and what it has done.
    pub(crate) fn stats(&self) -> Stats {
        self.ca.stats()
    }

    /// How often this was asked for, whatever the answer.
    pub(crate) fn asked(&self, step: Step) -> usize {
        self.ca.script.asked().get(&step).copied().unwrap_or_default()
    }

    /// From now on, this goes wrong at this step so often.
    pub(crate) fn will(&self, at: Step, times: Times, what: Twist) {
        self.ca.script.add(at, times, what);
    }

    /// From now on, nothing that [`Self::will`] has said goes wrong any more.
    pub(crate) fn behaves(&self) {
        self.ca.script.clear();
    }

    /// Deactivates all accounts that there are.
    pub(crate) fn deactivates_accounts(&self) {
        self.ca.memory.take_accounts_as(AccountStatus::Deactivated);
    }

    /// Takes all accounts as valid again.
    pub(crate) fn reactivates_accounts(&self) {
        self.ca.memory.take_accounts_as(AccountStatus::Valid);
    }

    /// Moves the directory's resources to other URLs; nothing is left at the old ones.
    pub(crate) fn moves(&self) {
        self.ca.moves.fetch_add(1, Ordering::SeqCst);
    }

    /// Suggests this window for every certificate, instead of the last third of its life.
    pub(crate) fn suggests(&self, window: Window) {
        *lock(&self.ca.window) = Some(window);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Makes keys and certificates, and starts to listen.
pub(crate) async fn start(options: Options) -> anyhow::Result<Running> {
    let pki = Pki::with_chains(options.life, options.intermediates, options.alternates)?;
    let root_pem = pki.root_pem();
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("the CA cannot listen on {}", options.listen))?;
    let acceptor = TlsAcceptor::from(Arc::new(pki.server_config(options.tls_expired)?));
    let base = format!("https://{}", listener.local_addr()?);
    let mac_key = jws::decode(options.eab.hmac_key.trim_end_matches('='))
        .ok()
        .context("the EAB key is not base64url")?;
    let eab = options.eab.clone();
    let script = Script::default();
    for (at, times, what) in &options.script {
        script.add(*at, *times, what.clone());
    }
    let ca = Arc::new(Ca {
        base,
        mac_key,
        options,
        pki,
        memory: Memory::default(),
        script,
        window: Mutex::default(),
        moves: AtomicUsize::default(),
    });
    Ok(Running {
        directory_url: format!("{}{}", ca.base, ca.directory_path()),
        root_pem,
        eab,
        server: tokio::spawn(http_server::serve(listener, acceptor, ca.clone())),
        ca,
    })
}
