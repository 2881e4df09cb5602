//! The [`Issuer`] that speaks ACME (RFC 8555) to a public CA, over instant-acme.
//!
//! Each call does single requests and never polls: waiting is the worker's. Every step looks at the CA's order first and
//! can be repeated from the start, because an answer may be lost at any point (SECURITY section 4.2).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use instant_acme::Account;
use instant_acme::AuthorizationStatus;
use instant_acme::ChallengeStatus;
use instant_acme::ChallengeType;
use instant_acme::Error as AcmeError;
use instant_acme::Order;
use instant_acme::OrderStatus;
use instant_acme::RevocationRequest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::RwLock;
use tokio::time::Instant;

use crate::acme::certificate::Der;
use crate::acme::identifier::Identifier;
use crate::acme::offers::Offers;
use crate::acme::order::ValidatedOrder;
use crate::acme::order::late::AwaitedOrder;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::acme::renewal::CertificateId;
use crate::acme::revocation::RevocationReason;
use crate::upstream::Error;
use crate::upstream::Issuer;
use crate::upstream::Progress;
use crate::upstream::Settings;
use crate::upstream::SetupError;
use crate::upstream::Suggestion;
use crate::upstream::account;
use crate::upstream::account::BAD_NONCE_RETRIES;
use crate::upstream::account::Registered;
use crate::upstream::account::Vault;
use crate::upstream::dns::Publication;
use crate::upstream::dns::Record;
use crate::upstream::dns::Solver;
use crate::upstream::fault::Fault;
use crate::upstream::fault::Refusal;
use crate::upstream::http;
use crate::upstream::http::Answer;
use crate::upstream::http::Client;
use crate::upstream::http::Directory;
use crate::upstream::renewal;

/// How long to wait for a CA that does not say.
const POLL: Duration = Duration::from_secs(2);

/// How long the CA's directory is used without another look (F16).
const DIRECTORY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long it is used on if the CA does not answer then.
const DIRECTORY_GRACE: Duration = Duration::from_secs(300);

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

// Behind the macro, which it uses.
mod operator;

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
    /// Whether the CA has refused to be told how long a certificate is to be valid.
    pub(crate) lifetime_refused: AtomicBool,
}

#[derive(Default)]
struct Preparation {
    session: Option<Arc<Session>>,
    good_until: Option<Instant>,
    failure: Option<Error>,
}

/// The account with the CA's directory.
pub(crate) struct Session {
    pub(crate) registered: Registered,
    account: Account,
    pub(crate) directory: Directory,
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
        {
            return Ok(session.clone());
        }
        if let Some(failure) = &preparation.failure
            && self.attempts.load(Ordering::Acquire) != seen
        {
            return Err(failure.clone());
        }
        let attempt = self.begin().await.map(Arc::new);
        self.attempts.fetch_add(1, Ordering::AcqRel);
        let (outcome, good_for) = match (attempt, kept) {
            (Ok(session), _) => (Ok(session), DIRECTORY_LIFETIME),
            // An old directory is better than none.
            (Err(_), Some(kept)) => (Ok(kept), DIRECTORY_GRACE),
            (Err(error), None) => (Err(error), Duration::ZERO),
        };
        *preparation = Preparation {
            session: outcome.as_ref().ok().cloned(),
            good_until: Instant::now().checked_add(good_for),
            failure: outcome.as_ref().err().cloned(),
        };
        outcome
    }

    async fn begin(&self) -> Result<Session, Error> {
        let registered = account::ensure(&self.client, &self.settings, self.vault.as_ref()).await?;
        if self.disowned.load(Ordering::Acquire) {
            if !account::stands(&self.client, &registered).await? {
                return Err(self.account_is_lost(&registered));
            }
            self.disowned.store(false, Ordering::Release);
        }
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let key = PrivatePkcs8KeyDer::from(registered.key.pkcs8());
        let account = builder.from_parts(registered.url.clone(), key, self.settings.directory.clone());
        let account = account.await.map_err(Fault::from)?;
        Ok(Session {
            registered,
            account,
            directory: self.client.directory().await?,
        })
    }

    /// F9: another account would cost another EAB, and could not revoke what this one has bought. Only the operator can
    /// want that.
    fn account_is_lost(&self, registered: &Registered) -> Error {
        self.disowned.store(true, Ordering::Release);
        tracing::error!(
            ca.account = %cleaned(&registered.url, 200),
            ca.directory = self.settings.directory,
            "the CA does not know our account any more, or has deactivated it; orders wait. Ask the CA to reactivate it, \
             or make another one: with a fresh EAB (authority.config.eab_kid, eab_hmac_key) and a restart, or with \
             acme-proxy upstream register --again"
        );
        Error::transient("the CA does not know our account any more")
    }

    /// What a fault in a request of ours means. `unauthorized` may be about the account or about what was asked for:
    /// the account itself tells.
    async fn judged(&self, session: &Session, fault: Fault) -> Error {
        match fault.kind() {
            Some(ProblemType::AccountDoesNotExist) => self.account_is_lost(&session.registered),
            Some(ProblemType::Unauthorized) => match account::stands(&self.client, &session.registered).await
            {
                Ok(true) => fault.into(),
                Ok(false) => self.account_is_lost(&session.registered),
                Err(unclear) => Error::transient(unclear.to_string()),
            },
            Some(ProblemType::UserActionRequired) => {
                tracing::error!(answer = %fault, "the CA wants the operator to act, most often to agree to new terms");
                fault.into()
            }
            _ => fault.into(),
        }
    }

    async fn step(&self, validated: &ValidatedOrder) -> Result<Progress, Error> {
        let Some(url) = validated.upstream() else {
            return Err(Error::OrderGone("none has been opened".to_owned()));
        };
        self.client.permitted(url)?;
        let session = self.session().await?;
        let mut order = self.order_at(&session, url).await?;
        if order.state().status == OrderStatus::Pending {
            return self.solve(&session, validated, &mut order).await;
        }
        self.forget(url).await;
        if order.state().status == OrderStatus::Ready
            && let Err(fault) = insist!(order.finalize_csr(validated.csr().as_bytes()))
        {
            let error = self.judged(&session, fault).await;
            if !matches!(error, Error::Permanent(_)) {
                return Err(error);
            }
            // Perhaps the CA only refuses to be asked twice: an earlier finalize, whose answer was lost, counts.
            insist!(async { order.refresh().await.map(|_| ()) })?;
            if !matches!(order.state().status, OrderStatus::Processing | OrderStatus::Valid) {
                return Err(error);
            }
        }
        match order.state().status {
            OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => Ok(waiting()),
            OrderStatus::Valid => {
                let certificate = order.state().certificate.as_deref();
                self.chains_of(&session, certificate).await
            }
            OrderStatus::Invalid => Err(invalid(&mut order).await),
        }
    }

    /// What the CA says about the order under the URL.
    async fn order_at(&self, session: &Session, url: &str) -> Result<Order, Error> {
        match insist!(session.account.order(url.to_owned())) {
            Ok(order) => Ok(order),
            Err(Fault::Refused(refusal)) if refusal.is_not_found() => {
                self.forget(url).await;
                Err(Error::OrderGone(refusal.to_string()))
            }
            Err(fault) => Err(not_the_end(self.judged(session, fault).await)),
        }
    }

    /// The chains of an order that is valid at the CA.
    async fn chains_of(&self, session: &Session, certificate: Option<&str>) -> Result<Progress, Error> {
        let Some(url) = certificate else {
            return Err(Error::transient(
                "the CA's order is valid, and has no certificate",
            ));
        };
        match self.chains(session, url).await {
            Ok(chains) => Ok(Progress::Issued(chains)),
            Err(fault) => Err(not_the_end(self.judged(session, fault).await)),
        }
    }

    /// One look at an order that has ended for its client.
    async fn look_at(&self, awaited: &AwaitedOrder) -> Result<Progress, Error> {
        let url = awaited.upstream();
        self.client.permitted(url)?;
        let session = self.session().await?;
        let mut order = self.order_at(&session, url).await?;
        self.forget(url).await;
        match order.state().status {
            OrderStatus::Pending | OrderStatus::Ready => {
                Err(Error::OrderGone("it has not had the CSR".to_owned()))
            }
            OrderStatus::Processing => Ok(waiting()),
            OrderStatus::Valid => {
                let certificate = order.state().certificate.as_deref();
                self.chains_of(&session, certificate).await
            }
            OrderStatus::Invalid => Err(Error::OrderGone("it is invalid".to_owned())),
        }
    }

    /// Posts a payload signed by our account.
    pub(crate) async fn signed(&self, session: &Session, url: &str, payload: &str) -> Result<Answer, Fault> {
        let Registered { key, url: kid } = &session.registered;
        let new_nonce = &session.directory.new_nonce;
        account::signed(&self.client, new_nonce, key, Some(kid), url, payload).await
    }

    /// UPSTREAM rule 6: what is valid already needs nothing; what is pending is solved by dns-01, or not at all.
    async fn solve(
        &self,
        session: &Session,
        validated: &ValidatedOrder,
        order: &mut Order,
    ) -> Result<Progress, Error> {
        load_authorizations(order).await?;
        let thumbprint = session.account.key_thumbprint();
        let url = order.url().to_owned();
        let mut records = Vec::new();
        let mut unanswered = Vec::new();
        for (index, authorization) in order.state().authorizations.iter().enumerate() {
            let pending = authorization.state.as_ref();
            let Some(state) = pending.filter(|s| s.status == AuthorizationStatus::Pending) else {
                continue;
            };
            let name = state.identifier().identifier.clone();
            // The name becomes an argument of a program: it has to be one that we know.
            let known = |identifier: &&Identifier| match (&name, identifier) {
                (instant_acme::Identifier::Dns(name), Identifier::Dns(base) | Identifier::Wildcard(base)) => {
                    name.eq_ignore_ascii_case(base.as_str())
                }
                (instant_acme::Identifier::Ip(name), Identifier::Ip(address)) => name == address,
                _ => false,
            };
            let Some(identifier) = validated.identifiers().iter().find(known) else {
                return Err(Fault::Nonsense(
                    "an authorization for a name that is not the order's".to_owned(),
                )
                .into());
            };
            let challenge = state.challenges.iter().find(|c| c.r#type == ChallengeType::Dns01);
            let dns_name = match identifier {
                Identifier::Dns(name) | Identifier::Wildcard(name) => Some(name),
                Identifier::Ip(_) => None,
            };
            let (Some(challenge), Some(dns_name), Some(_)) = (challenge, dns_name, &self.solver) else {
                let offered = state
                    .challenges
                    .iter()
                    .map(|challenge| type_name(&challenge.r#type));
                return Err(unsolvable(identifier, &offered.collect::<Vec<_>>().join(", ")));
            };
            let Some(record) = Record::new(dns_name, &challenge.token, thumbprint) else {
                return Err(Fault::Nonsense("a challenge whose token is no base64url".to_owned()).into());
            };
            records.push(record);
            if challenge.status == ChallengeStatus::Pending {
                unanswered.push(index);
            }
        }
        let (Some(solver), false) = (&self.solver, unanswered.is_empty()) else {
            return Ok(waiting());
        };
        if let Publication::Spreading(retry_after) = solver.publish(&url, &records).await? {
            return Ok(Progress::Waiting { retry_after });
        }
        for index in unanswered {
            if let Err(fault) = insist!(answer(order, index)) {
                return Err(Error::transient(fault.to_string()));
            }
        }
        Ok(waiting())
    }

    /// The order under this URL has no use for records any more.
    async fn forget(&self, url: &str) {
        if let Some(solver) = &self.solver {
            solver.clean_up(url).await;
        }
    }
}

#[async_trait]
impl Issuer for Ca {
    async fn prepare(&self) -> Result<(), Error> {
        self.session().await.map(drop)
    }

    async fn account_changed(&self) {
        self.account_changed.notified().await;
    }

    async fn open(&self, validated: &ValidatedOrder) -> Result<String, Error> {
        let _using = self.using_account.read().await;
        let session = self.session().await?;
        match self.new_order(&session, validated).await {
            Ok(url) => Ok(url),
            Err(fault) => {
                if fault.has_status_404() {
                    // The CA may have moved: look at its directory again (F16).
                    self.session.lock().await.session = None;
                }
                Err(self.judged(&session, fault).await)
            }
        }
    }

    async fn advance(&self, validated: &ValidatedOrder) -> Result<Progress, Error> {
        let _using = self.using_account.read().await;
        http::with_advice(self.step(validated)).await
    }

    async fn look(&self, awaited: &AwaitedOrder) -> Result<Progress, Error> {
        let _using = self.using_account.read().await;
        http::with_advice(self.look_at(awaited)).await
    }

    async fn revoke(&self, certificate: &Der, reason: Option<RevocationReason>) -> Result<(), Error> {
        let _using = self.using_account.read().await;
        let session = self.session().await?;
        let certificate = CertificateDer::from(certificate.as_bytes());
        let revocation = RevocationRequest {
            certificate: &certificate,
            reason: reason.map(code),
        };
        match insist!(session.account.revoke(&revocation)) {
            Ok(()) => Ok(()),
            Err(fault) if fault.kind() == Some(ProblemType::AlreadyRevoked) => Ok(()),
            // Waiting does not make a certificate of this CA out of it.
            Err(Fault::Refused(refusal)) if refusal.is_not_found() => {
                Err(Error::Permanent(refusal.problem()))
            }
            Err(fault)
                if fault.kind() == Some(ProblemType::Unauthorized)
                    && self.revoked_by_an_earlier_account(&revocation).await? =>
            {
                Ok(())
            }
            Err(fault) => Err(self.judged(&session, fault).await),
        }
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

fn waiting() -> Progress {
    Progress::Waiting {
        retry_after: http::advice().unwrap_or(POLL),
    }
}

/// Fetches the authorizations one by one, so that a refused nonce costs one request and not all of them.
async fn load_authorizations(order: &mut Order) -> Result<(), Fault> {
    for count in 1..=order.state().authorizations.len() {
        insist!(load_first(order, count))?;
    }
    Ok(())
}

/// What has been fetched is not fetched again.
async fn load_first(order: &mut Order, count: usize) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    for _ in 0..count {
        authorizations.next().await.transpose()?;
    }
    Ok(())
}

/// Tells the CA that the dns-01 challenge of an authorization is met (RFC 8555 §7.5.1).
async fn answer(order: &mut Order, index: usize) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    for _ in 0..index {
        authorizations.next().await.transpose()?;
    }
    let Some(mut authorization) = authorizations.next().await.transpose()? else {
        return Ok(());
    };
    match authorization.challenge(ChallengeType::Dns01) {
        Some(mut challenge) => challenge.set_ready().await,
        None => Ok(()),
    }
}

fn unsolvable(identifier: &Identifier, offered: &str) -> Error {
    let offered = cleaned(offered, 200);
    tracing::error!(name = %identifier, offered, "the CA wants a validation of its own: configure authority.config.dns01_txt, or have the CA pre-validate the domain");
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        format!(
            "the CA requires validation of {identifier} by one of: {offered}; \
             this server can do dns-01 once authority.config.dns01_txt is configured"
        ),
    ))
}

fn type_name(kind: &ChallengeType) -> &str {
    match kind {
        ChallengeType::Http01 => "http-01",
        ChallengeType::Dns01 => "dns-01",
        ChallengeType::TlsAlpn01 => "tls-alpn-01",
        ChallengeType::DeviceAttest01 => "device-attest-01",
        ChallengeType::Unknown(name) => name,
        _ => "another",
    }
}

/// The certificate may have been issued already: a refusal to show the order or the certificate does not end the order.
fn not_the_end(error: Error) -> Error {
    match error {
        Error::Permanent(problem) => Error::transient(problem.to_string()),
        Error::Transient { .. } | Error::OrderGone(_) => error,
    }
}

/// Why the CA's order is invalid: by its own error, or by that of a challenge. An order that has merely expired, or
/// that fell to an error of the CA's own, says nothing about the next one.
async fn invalid(order: &mut Order) -> Error {
    let mut reason = order.state().error.clone();
    if reason.is_none() {
        if let Err(fault) = load_authorizations(order).await {
            return Error::transient(fault.to_string());
        }
        let states = order
            .state()
            .authorizations
            .iter()
            .filter_map(|a| a.state.as_ref());
        reason = states.flat_map(|s| &s.challenges).find_map(|c| c.error.clone());
    }
    let Some(refusal) = reason.map(Refusal::from) else {
        return Error::OrderGone("it is invalid without a reason".to_owned());
    };
    match refusal.kind() {
        Some(ProblemType::ServerInternal | ProblemType::RateLimited) => Error::OrderGone(refusal.to_string()),
        _ => Error::Permanent(refusal.problem()),
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
