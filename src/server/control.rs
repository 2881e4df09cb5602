//! The operator's entrance: commands on the store of a running daemon, which no other process can open. One request and
//! one answer a connection, both JSON, on a Unix socket in the store's directory that only the daemon's user can reach.
//!
//! The answers are the text that the command line prints: it is the same when the command line, finding nobody here,
//! opens the store itself and calls [`answer`].

pub mod accounts;
mod backup;
pub mod certs;
mod eab;
mod import;
pub mod listing;
pub mod orders;
mod policy;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::acme::account::Account;
use crate::ra::RegistrationAuthority;
use crate::ra::external_account::{KeyError, NewKey};
use crate::ra::policy::Question;
use crate::server::Server;
use crate::server::control::accounts::AccountsRequest;
use crate::server::control::certs::CertsRequest;
use crate::server::control::listing::Page;
use crate::server::control::orders::OrdersRequest;

/// The socket in the store's directory.
const SOCKET: &str = "control.sock";

/// The longest request, in bytes.
const MAX_REQUEST: u64 = 64 * 1024;

/// How long a request may take to arrive.
const READ: Duration = Duration::from_secs(10);

/// How long one connection may take: a CA may be asked several things, each of which it may answer slowly.
const DEADLINE: Duration = Duration::from_secs(300);

/// How long the command line waits for its answer.
const PATIENCE: Duration = Duration::from_secs(310);

/// How much of a backup is read at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// How long to wait after the system could not give us a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A new external account key.
    AddKey(NewKey),
    /// All external account keys.
    ListKeys,
    /// The end of one.
    RevokeKey {
        /// Its id.
        kid: String,
        /// Its provisioner; may be left out if no other one has a key of this id.
        provisioner: Option<String>,
    },
    /// Accounts from elsewhere, to be taken over.
    ImportAccounts {
        /// The accounts.
        accounts: Vec<Account>,
        /// Whether it is only to be seen what would be done.
        dry_run: bool,
    },
    /// A backup. The answer to this one is the backup itself, over a connection of its own ([`backup_into`]).
    Backup,
    /// What the policy says.
    ExplainPolicy(Question),
    /// Something about our accounts at the CAs.
    Upstream(UpstreamRequest),
    /// Something about the certificates.
    Certs(CertsRequest),
    /// Something about the orders.
    Orders(OrdersRequest),
    /// Something about the accounts.
    Accounts(AccountsRequest),
}

impl Request {
    /// Why nobody but a running daemon can do this, if so.
    pub fn needs_daemon(&self) -> Option<&'static str> {
        match self {
            Self::Certs(CertsRequest::Revoke { .. }) => Some(
                "no daemon answers, and only the CA can revoke a certificate: start the daemon, which asks it, and give the \
                 command again (one that runs and does not answer has said why in its log when it started)",
            ),
            _ => None,
        }
    }

    /// Whether it may make the store, if there is none yet. Whoever only asks has mistaken the configuration then.
    pub fn may_make_store(&self) -> bool {
        match self {
            Self::AddKey(_) => true,
            Self::ImportAccounts { dry_run, .. } => !dry_run,
            Self::Upstream(UpstreamRequest { command, .. }) => match command {
                UpstreamCommand::Register { .. } | UpstreamCommand::Import { .. } => true,
                UpstreamCommand::Show
                | UpstreamCommand::Confirm
                | UpstreamCommand::RotateKey
                | UpstreamCommand::Export => false,
            },
            Self::ListKeys
            | Self::RevokeKey { .. }
            | Self::Backup
            | Self::ExplainPolicy(_)
            | Self::Certs(_)
            | Self::Orders(_)
            | Self::Accounts(_) => false,
        }
    }
}

/// What the operator wants of an account at a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRequest {
    /// The upstream's name in the configuration, if it is said.
    pub upstream: Option<String>,
    /// What is wanted.
    pub command: UpstreamCommand,
}

/// What can be done with an account at a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamCommand {
    /// To look at it.
    Show,
    /// To ask the CAs whether they know it; the answer is for `check --deep`, not for people.
    Confirm,
    /// To make it.
    Register {
        /// Also if there is one.
        again: bool,
    },
    /// To give it another key.
    RotateKey,
    /// To give it out with its key.
    Export,
    /// To take one from elsewhere.
    Import {
        /// The account, as [`UpstreamCommand::Export`] gives it.
        account: String,
        /// Also if there is one.
        replace: bool,
    },
}

/// Does what the operator wants of the accounts at the CAs, which this layer knows nothing of.
#[async_trait]
pub trait UpstreamAccounts: Send + Sync + 'static {
    /// The text for people; the error, too.
    async fn answer(&self, request: UpstreamRequest) -> Result<String, String>;

    /// How the upstream of this name is, for people.
    async fn health(&self, upstream: &str) -> String;
}

/// What comes of it, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done(String),
    /// It was a question, and the answer is no.
    No(String),
    /// A part of a list.
    Page(Page),
    /// It is not, and why.
    Refused(String),
}

/// Does what the operator wants.
pub async fn answer(
    ra: &RegistrationAuthority,
    upstreams: &dyn UpstreamAccounts,
    request: Request,
) -> Answer {
    let done = match request {
        Request::AddKey(new) => eab::add(ra, new).await,
        Request::ListKeys => eab::list(ra).await,
        Request::RevokeKey { kid, provisioner } => eab::revoke(ra, &kid, provisioner.as_deref()).await,
        Request::ImportAccounts { accounts, dry_run } => import::accounts(ra, &accounts, dry_run).await,
        Request::Backup => Err(KeyError::Refused("a backup is no text".to_owned())),
        Request::ExplainPolicy(question) => match policy::explain(ra, question).await {
            Ok((true, text)) => Ok(text),
            Ok((false, text)) => return Answer::No(text),
            Err(error) => Err(error),
        },
        Request::Upstream(request) => upstreams.answer(request).await.map_err(KeyError::Refused),
        Request::Certs(request) => return answered(certs::answer(ra, request).await),
        Request::Orders(request) => return answered(orders::answer(ra, upstreams, request).await),
        Request::Accounts(request) => return answered(accounts::answer(ra, request).await),
    };
    answered(done.map(Answer::Done))
}

fn answered(done: Result<Answer, KeyError>) -> Answer {
    match done {
        Ok(answer) => answer,
        Err(KeyError::Refused(why)) => Answer::Refused(why),
        Err(KeyError::Store(error)) => Answer::Refused(error.to_string()),
    }
}

/// The socket, removed at the end.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// The socket's path in a directory.
    pub fn path_in(store: &Path) -> PathBuf {
        store.join(SOCKET)
    }

    /// Makes the socket in the store's directory. Whoever calls this holds the store: a socket that is there already
    /// is a dead daemon's.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn bind(store: &Path) -> io::Result<Self> {
        let path = Self::path_in(store);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until `stop` turns true.
    pub async fn serve(
        self,
        server: Server,
        upstreams: Arc<dyn UpstreamAccounts>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, upstreams) = (server.clone(), Arc::clone(&upstreams));
                    connections.spawn(async move {
                        if let Err(error) = serve_one(stream, &server, upstreams.as_ref()).await {
                            tracing::warn!(%error, "a request on the control socket broke off");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket gives no connection");
                    sleep(PAUSE).await;
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // If it stays, the next daemon removes it.
        drop(fs::remove_file(&self.path));
    }
}

async fn serve_one(
    mut stream: UnixStream,
    server: &Server,
    upstreams: &dyn UpstreamAccounts,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut request = (&mut stream).take(MAX_REQUEST);
    timeout(READ, request.read_to_end(&mut bytes)).await??;
    let shared = server.shared();
    let answer = match serde_json::from_slice(&bytes) {
        // It takes as long as it takes.
        Ok(Request::Backup) => {
            backup::stream(&shared.ra, &mut stream).await?;
            return stream.shutdown().await;
        }
        Ok(request) => in_time(answer(&shared.ra, upstreams, request)).await,
        Err(_) => {
            Answer::Refused("the daemon is of another version, and does not know this command".to_owned())
        }
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

async fn in_time(answer: impl Future<Output = Answer>) -> Answer {
    timeout(DEADLINE, answer).await.unwrap_or_else(|_| {
        Answer::Refused(format!(
            "the daemon was not done with it after {} s, and has given up; its log may say what it waited for",
            DEADLINE.as_secs()
        ))
    })
}

/// Asks the daemon that has this store open; `None` if there is none.
///
/// # Errors
///
/// The system's, or that the daemon answers what nobody understands.
pub async fn ask(store: &Path, request: &Request) -> io::Result<Option<Answer>> {
    let Some(mut stream) = connect(store).await? else {
        return Ok(None);
    };
    let request = serde_json::to_vec(request)?;
    if request.len() as u64 > MAX_REQUEST {
        return Err(io::Error::other(
            "the command is longer than 64 KiB, which is the most that it takes",
        ));
    }
    let exchange = async {
        stream.write_all(&request).await?;
        stream.shutdown().await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        if bytes.is_empty() {
            return Err(io::Error::other(
                "it has ended without an answer, so that nobody knows whether it has done what was wanted: look, and give the \
                 command again once it runs",
            ));
        }
        serde_json::from_slice(&bytes)
            .map_err(|_| io::Error::other("it is of another version, and its answer can not be understood"))
    };
    let answered = timeout(PATIENCE, exchange).await;
    let answered = answered
        .map_err(|_| io::Error::other(format!("it has not answered within {} s", PATIENCE.as_secs())));
    answered?.map(Some)
}

/// Has the daemon that has this store open write a backup; false if there is none.
///
/// # Errors
///
/// The system's.
pub async fn backup_into(store: &Path, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<bool> {
    let Some(mut stream) = connect(store).await? else {
        return Ok(false);
    };
    stream.write_all(&serde_json::to_vec(&Request::Backup)?).await?;
    stream.shutdown().await?;
    let mut bytes = vec![0; PIECE];
    loop {
        let count = timeout(PATIENCE, stream.read(&mut bytes)).await??;
        match bytes.get(..count) {
            None | Some([]) => return Ok(true),
            Some(piece) => out.write_all(piece).await?,
        }
    }
}

async fn connect(store: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(store.join(SOCKET)).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                // The last one: the path is too long for a socket, also for the daemon's.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(outcome: io::Result<Option<Answer>>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn whoever_gets_no_answer_is_told_why_in_a_sentence() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(ask(store.path(), &Request::ListKeys).await.unwrap(), None);
        let listener = UnixListener::bind(store.path().join(SOCKET)).unwrap();
        let daemon = tokio::spawn(async move {
            for reply in [&b""[..], b"[]"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.unwrap();
                stream.write_all(reply).await.unwrap();
            }
            listener
        });
        let gone = sentence(ask(store.path(), &Request::ListKeys).await);
        assert!(gone.contains("it has ended without an answer"), "{gone}");
        let other = sentence(ask(store.path(), &Request::ListKeys).await);
        assert!(other.contains("it is of another version"), "{other}");
        let _listener = daemon.await.unwrap();
        let long = Request::AddKey(NewKey {
            allow: vec!["x".repeat(65_536)],
            ..NewKey::default()
        });
        let long = sentence(ask(store.path(), &long).await);
        assert!(long.contains("longer than 64 KiB"), "{long}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_one_as_well() {
        let Answer::Refused(why) = in_time(std::future::pending()).await else {
            panic!("another answer")
        };
        assert!(why.contains("not done with it after 300 s"), "{why}");
    }
}
