//! The [`Issuer`] that speaks ACME (RFC 8555) to a public CA, over instant-acme.
//!
//! Each call does single requests and never polls: waiting is the worker's.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use instant_acme::Account;
use instant_acme::RevocationRequest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::RwLock;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::acme::certificate::Der;
use crate::acme::offers::Offers;
use crate::acme::order::ValidatedOrder;
use crate::acme::order::late::AwaitedOrder;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::acme::renewal::CertificateId;
use crate::acme::revocation::RevocationReason;
use crate::acme::upstream::UpstreamOrder;
use crate::upstream::Error;
use crate::upstream::Issuer;
use crate::upstream::Progress;
use crate::upstream::Says;
use crate::upstream::Settings;
use crate::upstream::SetupError;
use crate::upstream::Suggestion;
use crate::upstream::account;
use crate::upstream::account::BAD_NONCE_RETRIES;
use crate::upstream::account::Registered;
use crate::upstream::account::Vault;
use crate::upstream::account::change;
use crate::upstream::account::record::Record;
use crate::upstream::acme::earlier::Earlier;
use crate::upstream::dns::Solver;
use crate::upstream::dns::lead::Lead;
use crate::upstream::fault::Fault;
use crate::upstream::http;
use crate::upstream::http::Answer;
use crate::upstream::http::Client;
use crate::upstream::http::Directory;
use crate::upstream::renewal;

/// How long the CA's directory is used without another look (F16).
const DIRECTORY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long it is used on if the CA does not answer then.
const DIRECTORY_GRACE: Duration = Duration::from_secs(300);

/// How often the account's record is looked at while there is no account: another process may have done something about it.
const RECORD_EVERY: Duration = Duration::from_secs(5);

/// Makes a request, and makes it again at once while its nonce is refused (RFC 8555 §6.5): nothing else is known to
/// have had no effect. A macro, because the future of an `AsyncFnMut` can not be told to be `Send`.
macro_rules! insist {
    ($request:expr) => {{
        let mut retries = 0;
        loop {
            match $request.await.map_err(Fault::from) {
                Err(fault) if fault.kind() == Some(ProblemType::BadNonce) && retries < BAD_NONCE_RETRIES => {
                    retries += 1;
                }
                outcome => break outcome,
            }
        }
    }};
}

// Behind the macro, which they use.
mod challenges;
mod earlier;
mod operator;
mod progress;

/// The public CA.
pub struct Ca {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    vault: Arc<dyn Vault>,
    solver: Option<Solver>,
    session: Mutex<Preparation>,
    /// Held by whoever signs with the account's key, and alone by whoever changes it.
    using_account: RwLock<()>,
    account_changed: Notify,
    /// Attempts to prepare that have ended.
    attempts: AtomicU64,
    /// Whether the CA has disowned the account since it was last looked at.
    disowned: AtomicBool,
    /// The URL of the account of the latest session.
    current: std::sync::Mutex<Option<String>>,
    /// Whether the CA has refused to be told how long a certificate is to be valid.
    pub(crate) lifetime_refused: AtomicBool,
}

#[derive(Default)]
struct Preparation {
    session: Option<Arc<Session>>,
    /// The record of the session's account, or the one with which there was a failure. Another process with the same records
    /// may have changed it since.
    record: Option<Vec<u8>>,
    good_until: Option<Instant>,
    failure: Option<Error>,
}

/// An account with its CA's directory.
pub(crate) struct Session {
    pub(crate) registered: Registered,
    pub(crate) client: Client,
    pub(crate) directory: Directory,
    account: Account,
    standing: Standing,
}

/// What an account is to us now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Orders are opened with it.
    Current,
    /// Orders were opened with it before.
    Earlier,
    /// The same, at another CA.
    Elsewhere,
}

impl Session {
    /// Nothing is signed yet.
    async fn begin(
        client: Client,
        directory_url: &str,
        registered: Registered,
        standing: Standing,
    ) -> Result<Self, Fault> {
        let builder = Account::builder_with_http(Box::new(client.clone()));
        let key = PrivatePkcs8KeyDer::from(registered.key.pkcs8());
        let account = builder.from_parts(registered.url.clone(), key, directory_url.to_owned());
        Ok(Self {
            account: account.await?,
            directory: client.directory().await?,
            registered,
            client,
            standing,
        })
    }

    /// Posts a payload signed by the account.
    pub(crate) async fn signed(&self, url: &str, payload: &str) -> Result<Answer, Fault> {
        let Registered { key, url: kid } = &self.registered;
        let new_nonce = &self.directory.new_nonce;
        account::signed(&self.client, new_nonce, key, Some(kid), url, payload).await
    }

    /// What comes of a request by another account than the current one says nothing about the CA, unless it is this CA
    /// that wants us to slow down.
    fn told<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let is_to_slow_down = matches!(
            outcome,
            Err(Error::Transient {
                says: Says::SlowDown | Says::Away,
                ..
            })
        );
        match self.standing {
            Standing::Current => outcome,
            Standing::Earlier if is_to_slow_down => outcome,
            Standing::Earlier | Standing::Elsewhere => outcome.map_err(Error::of_nobody_here),
        }
    }
}

impl Ca {
    /// The CA of these settings, whose account is in the vault. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the settings can not work.
    pub fn new(settings: Settings, vault: Arc<dyn Vault>) -> Result<Self, SetupError> {
        Ok(Self {
            client: Client::new(&settings)?,
            solver: settings.dns01.clone().map(Solver::new).transpose()?,
            settings,
            vault,
            session: Mutex::default(),
            using_account: RwLock::default(),
            account_changed: Notify::new(),
            attempts: AtomicU64::new(0),
            disowned: AtomicBool::new(false),
            current: std::sync::Mutex::default(),
            lifetime_refused: AtomicBool::new(false),
        })
    }

    /// The account, prepared if it is not yet. Callers who come while an attempt is under way share its outcome: a CA
    /// that is down gets one attempt, not one for each of them (F15).
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        let seen = self.attempts.load(Ordering::Acquire);
        let mut preparation = self.session.lock().await;
        let disowned = self.disowned.load(Ordering::Acquire);
        let kept = preparation.session.clone().filter(|_| !disowned);
        if let Some(session) = &kept
            && preparation.good_until.is_some_and(|end| Instant::now() < end)
            && self.vault.load().await.is_ok_and(|now| now == preparation.record)
        {
            return Ok(session.clone());
        }
        if let Some(failure) = &preparation.failure
            && self.attempts.load(Ordering::Acquire) != seen
        {
            return Err(failure.clone());
        }
        let attempt = self.begin().await.map(Arc::new).map_err(Error::of_the_ca);
        self.attempts.fetch_add(1, Ordering::AcqRel);
        let (outcome, good_for) = match (attempt, kept) {
            (Ok(session), _) => (Ok(session), DIRECTORY_LIFETIME),
            // An old directory is better than none.
            (Err(_), Some(kept)) => (Ok(kept), DIRECTORY_GRACE),
            (Err(error), None) => (Err(error), Duration::ZERO),
        };
        *preparation = Preparation {
            record: match &outcome {
                Ok(session) => self.record_of(session).await,
                Err(_) => self.vault.load().await.ok().flatten(),
            },
            session: outcome.as_ref().ok().cloned(),
            good_until: Instant::now().checked_add(good_for),
            failure: outcome.as_ref().err().cloned(),
        };
        outcome
    }

    /// The record, if it is of the session's account and key.
    async fn record_of(&self, session: &Session) -> Option<Vec<u8>> {
        let record = self.vault.load().await.ok().flatten()?;
        let account = Record::read(&self.settings, &record)
            .filter(Record::is_settled)?
            .account()?;
        let is_same = account.key.thumbprint() == session.registered.key.thumbprint()
            && account.url == session.registered.url;
        is_same.then_some(record)
    }

    /// Returns once the record is not the one any more with which the account could not be prepared.
    async fn changed_elsewhere(&self) {
        loop {
            sleep(RECORD_EVERY).await;
            let preparation = self.session.lock().await;
            if preparation.failure.is_some()
                && let Ok(record) = self.vault.load().await
                && record != preparation.record
            {
                return;
            }
        }
    }

    async fn begin(&self) -> Result<Session, Error> {
        let (client, settings) = (&self.client, &self.settings);
        let mut registered = account::ensure(client, settings, self.vault.as_ref()).await?;
        if self.disowned.load(Ordering::Acquire) {
            if !change::knows(client, &registered).await? {
                let found = self.found_again().await?;
                registered = found.ok_or_else(|| self.account_is_lost(&registered))?;
            }
            self.disowned.store(false, Ordering::Release);
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(registered.url.clone());
        Ok(Session::begin(client.clone(), &settings.directory, registered, Standing::Current).await?)
    }

    async fn found_again(&self) -> Result<Option<Registered>, Error> {
        let (client, settings, vault) = (&self.client, &self.settings, self.vault.as_ref());
        account::alone(vault, change::found_again(client, settings, vault)).await
    }

    /// Whether the account has another key than the session by now.
    async fn has_another_key(&self, session: &Session) -> Result<bool, Error> {
        Ok(self.record_of(session).await.is_none() || self.found_again().await?.is_some())
    }

    /// F9: another account would cost another EAB, and could not revoke what this one has bought. Only the operator can
    /// want that.
    fn account_is_lost(&self, registered: &Registered) -> Error {
        if !self.disowned.swap(true, Ordering::AcqRel) {
            self.account_changed.notify_one();
        }
        let section = &self.settings.section;
        Error::transient(format!(
            "the CA does not know our account {} any more, or has deactivated it; ask the CA to reactivate it, or make \
             another one: with a fresh EAB ({section}.eab_kid, eab_hmac_key) and a restart, or with acme-proxy \
             upstream register --again (of several upstreams, --upstream names this one)",
            cleaned(&registered.url, 200)
        ))
        .of_the_ca()
    }

    /// What a fault in a request of ours means. `unauthorized` and `malformed` may be about the account and its key or about
    /// what was asked for: the account itself tells.
    async fn judged(&self, session: &Session, fault: Fault) -> Error {
        match fault.kind() {
            _ if session.standing != Standing::Current => fault.into(),
            Some(ProblemType::AccountDoesNotExist) => self.account_is_lost(&session.registered),
            Some(kind @ (ProblemType::Unauthorized | ProblemType::Malformed)) => {
                let stands = account::stands(&self.client, &session.registered).await;
                let stands = stands.map_err(Error::from);
                if let Ok(true) = stands {
                    return fault.into();
                }
                match self.has_another_key(session).await {
                    Err(unclear) => return unclear,
                    Ok(true) => {
                        return Error::transient("the key of the account at the CA has just been changed");
                    }
                    Ok(false) => {}
                }
                match stands {
                    Ok(_) => self.account_is_lost(&session.registered),
                    // This CA may show no accounts.
                    Err(Error::Permanent(_)) if kind == ProblemType::Malformed => fault.into(),
                    Err(unclear) => unclear.not_the_end(),
                }
            }
            Some(ProblemType::UserActionRequired) => {
                tracing::error!(answer = %fault, "the CA wants the operator to act, most often to agree to new terms");
                fault.into()
            }
            _ => fault.into(),
        }
    }
}

#[async_trait]
impl Issuer for Ca {
    async fn prepare(&self) -> Result<(), Error> {
        self.session().await.map(drop)
    }

    fn account(&self) -> Option<String> {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn account_changed(&self) {
        tokio::select! {
            () = self.account_changed.notified() => {}
            () = self.changed_elsewhere() => {}
        }
    }

    fn publishes(&self) -> bool {
        self.solver.is_some()
    }

    fn follow(&self, lead: Arc<dyn Lead>) {
        if let Some(solver) = &self.solver {
            solver.led_by(lead);
        }
    }

    async fn open(&self, validated: &ValidatedOrder) -> Result<UpstreamOrder, Error> {
        let _using = self.using_account.read().await;
        let session = self.session().await?;
        match self.new_order(&session, validated).await {
            Ok(url) => Ok(UpstreamOrder::new(url, session.registered.url.clone())),
            Err(fault) => {
                if fault.has_status_404() {
                    // The CA may have moved: look at its directory again (F16).
                    self.session.lock().await.session = None;
                }
                Err(self.judged(&session, fault).await.of_the_ca())
            }
        }
    }

    async fn advance(&self, validated: &ValidatedOrder) -> Result<Progress, Error> {
        let _using = self.using_account.read().await;
        let Some(UpstreamOrder { url, account, .. }) = validated.upstream() else {
            return Err(Error::OrderGone("none has been opened".to_owned()));
        };
        let session = self.session_of(account).await?;
        session.told(http::with_advice(self.step(&session, url, validated)).await)
    }

    async fn look(&self, awaited: &AwaitedOrder) -> Result<Progress, Error> {
        let _using = self.using_account.read().await;
        let session = self.session_of(&awaited.upstream().account).await?;
        session.told(http::with_advice(self.look_at(&session, awaited)).await)
    }

    async fn revoke(
        &self,
        certificate: &Der,
        bought_by: Option<&str>,
        reason: Option<RevocationReason>,
    ) -> Result<(), Error> {
        let _using = self.using_account.read().await;
        let current = self.session().await?;
        let earlier = match bought_by {
            Some(account) if account != current.registered.url => self.earlier(account).await?,
            Some(_) | None => Earlier::Unknown,
        };
        let session = match earlier {
            Earlier::Usable(session) => session,
            // RFC 8555 §7.6: another account that holds authorizations for all names may revoke, too.
            Earlier::Refused | Earlier::Unknown => current,
        };
        let certificate = CertificateDer::from(certificate.as_bytes());
        let revocation = RevocationRequest {
            certificate: &certificate,
            reason: reason.map(code),
        };
        session.told(match insist!(session.account.revoke(&revocation)) {
            Ok(()) => Ok(()),
            Err(fault) if fault.kind() == Some(ProblemType::AlreadyRevoked) => Ok(()),
            // Waiting does not make a certificate of this CA out of it.
            Err(Fault::Refused(refusal)) if refusal.is_not_found() => {
                Err(Error::Permanent(refusal.problem()))
            }
            Err(fault) => Err(self.judged(&session, fault).await),
        })
    }

    async fn renewal(&self, certificate: &CertificateId) -> Result<Suggestion, Error> {
        let session = self.session().await?;
        let Some(base) = &session.directory.renewal_info else {
            return Err(Error::transient("the CA does not say when to renew"));
        };
        Ok(renewal::ask(&self.client, base, certificate).await?)
    }

    async fn probe(&self) -> Result<Offers, Error> {
        Ok(self.client.directory().await?.offers())
    }
}

fn code(reason: RevocationReason) -> instant_acme::RevocationReason {
    match reason {
        RevocationReason::Unspecified => instant_acme::RevocationReason::Unspecified,
        RevocationReason::KeyCompromise => instant_acme::RevocationReason::KeyCompromise,
        RevocationReason::AffiliationChanged => instant_acme::RevocationReason::AffiliationChanged,
        RevocationReason::Superseded => instant_acme::RevocationReason::Superseded,
        RevocationReason::CessationOfOperation => instant_acme::RevocationReason::CessationOfOperation,
    }
}
