//! A throwaway ACME CA (RFC 8555) with External Account Binding: a **test double** for the demo, the benchmark and the
//! tests. It keeps everything in memory, believes every client that answers a challenge, and must never issue anything
//! that someone trusts.
//!
//! Tests include this file by `#[path]` and call [`start`]; that is why its modules are named by path, and name each
//! other by `super`.

#[path = "http.rs"]
mod http_server;
#[path = "jws.rs"]
mod jws;
#[path = "key_change.rs"]
mod key_change;
#[path = "pki.rs"]
pub(crate) mod pki;
#[path = "problem.rs"]
pub(crate) mod problem;
#[path = "protocol.rs"]
mod protocol;
#[path = "state.rs"]
mod state;
#[path = "trouble.rs"]
pub(crate) mod trouble;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use self::pki::Pki;
use self::protocol::Ca;
use self::state::{Memory, Stats};
use self::trouble::{NoTrouble, Trouble};

/// How the CA behaves.
pub(crate) struct Options {
    /// Where to listen. Give a port to find the CA at the same URL after a restart.
    pub(crate) listen: SocketAddr,
    /// The External Account Binding that newAccount must carry.
    pub(crate) eab: Eab,
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
    /// What goes wrong.
    pub(crate) trouble: Arc<dyn Trouble>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            eab: Eab::generate(),
            eab_once: false,
            prevalidated: true,
            challenges: vec!["http-01".to_owned(), "dns-01".to_owned()],
            challenges_succeed: true,
            processing: Duration::ZERO,
            bad_nonces: 0,
            revocations_refused: false,
            life: None,
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
        self.ca.memory.stats()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Makes keys and certificates, and starts to listen.
pub(crate) async fn start(options: Options) -> anyhow::Result<Running> {
    let pki = Pki::generate(options.life)?;
    let root_pem = pki.root_pem();
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("the CA cannot listen on {}", options.listen))?;
    let acceptor = TlsAcceptor::from(Arc::new(pki.server_config()?));
    let base = format!("https://{}", listener.local_addr()?);
    let mac_key = jws::decode(options.eab.hmac_key.trim_end_matches('='))
        .ok()
        .context("the EAB key is not base64url")?;
    let eab = options.eab.clone();
    let ca = Arc::new(Ca {
        base,
        mac_key,
        options,
        pki,
        memory: Memory::default(),
    });
    Ok(Running {
        directory_url: format!("{}/directory", ca.base),
        root_pem,
        eab,
        server: tokio::spawn(http_server::serve(listener, acceptor, ca.clone())),
        ca,
    })
}
