//! The daemon's own certificate: an order like any other, for the names in the configuration, through the same queue
//! and the same checks. Here it is asked for, installed and renewed: in the window that the CA suggests (RFC 9773), and at
//! two thirds of its life at the latest. Of one from files only the end is watched.
//!
//! What is asked for is written down before the order is made, with the key: a crash or a restart finds it again, and
//! no loop of restarts buys certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

use crate::acme::certificate::{self, Der, IssuedCertificate};
use crate::acme::id::OrderId;
use crate::acme::identifier::{DnsName, Identifier};
use crate::acme::job::{Job, Work};
use crate::acme::order::{Order, OrderStatus, Wishes, after};
use crate::acme::renewal::CertificateId;
use crate::store::{Store, StoreError, Versioned};
use crate::worker::{Context, backoff};

/// The record's name in the store.
const RECORD: &str = "own_certificate";

/// The longest wait between two attempts to get a certificate.
const RETRY_CEILING: Duration = Duration::from_secs(3600);

/// How many steps up the ladder of back-offs the first wait is: about a minute.
const RETRY_OFFSET: u32 = 6;

/// How old a certificate is at least that is renewed for the window's sake: a CA whose windows are always over sells one a
/// day. One that must revoke has at least a day for it (CA/Browser Forum, Baseline Requirements §4.9.1.1).
const KEPT: Duration = Duration::from_hours(24);

/// How old any certificate is at least that is renewed: by a clock that is wrong, each would be due as soon as it is here.
const RESTS: Duration = Duration::from_hours(1);

/// So often the wait for names of before is doubled: about a week.
const MAX_RETURNS: u32 = 7;

/// The longest common name (RFC 5280, appendix A.1: ub-common-name).
const MAX_COMMON_NAME: usize = 64;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The certificate that is served.
    current: Option<Asked>,
    /// The one that has been asked for.
    next: Option<Asked>,
    /// The names of the certificate before, if they were others.
    #[serde(default)]
    before: Vec<DnsName>,
    /// How often in a row the names were those of before again.
    #[serde(default)]
    returns: u32,
    /// How often in a row asking has led to nothing.
    #[serde(default)]
    faults: u32,
    /// Not before this time is it asked for again.
    not_before: Option<Timestamp>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Asked {
    order: OrderId,
    names: Vec<DnsName>,
    /// PKCS #8, base64.
    key: String,
}

impl Record {
    fn replaced_by(self, next: Asked) -> Self {
        let (before, returns) = match &self.current {
            Some(current) if !is_same(&current.names, &next.names) => {
                let is_return = is_same(&self.before, &next.names);
                let returns = if is_return {
                    self.returns.saturating_add(1)
                } else {
                    0
                };
                (current.names.clone(), returns)
            }
            Some(_) | None => (self.before, self.returns),
        };
        Self {
            current: Some(next),
            before,
            returns,
            ..Self::default()
        }
    }

    /// Whether another certificate is due. Where replicas share this one, names of before are taken for the configuration
    /// of a replica that is not changed yet, and each return to them waits twice as long.
    fn wants(&self, names: &[DnsName], served: Option<&Validity>, now: Timestamp, is_shared: bool) -> bool {
        let (Some(current), Some(served)) = (&self.current, served) else {
            return true;
        };
        let wait = match is_shared && is_same(&self.before, names) {
            true => RESTS * 2_u32.saturating_pow(self.returns.min(MAX_RETURNS)),
            false => Duration::ZERO,
        };
        let has_others = !is_same(&current.names, names);
        now >= served.renew_at || has_others && now >= after(served.since, wait)
    }
}

/// Whether a certificate for the one is a certificate for the other.
fn is_same(one: &[DnsName], other: &[DnsName]) -> bool {
    let [one, other] = [one, other].map(|names| names.iter().collect::<BTreeSet<_>>());
    one == other
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Asked({}, key [redacted])", self.order)
    }
}

/// How the daemon's certificate is doing.
pub(crate) enum State {
    /// It is served, and not expired.
    Good,
    /// There is none to serve: why.
    Missing(String),
}

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnCertificateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no key or CSR can be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the stored record of the own certificate is damaged: {0}")]
    Record(String),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
}

/// What is known of it, and how often that was changed.
async fn record(store: &dyn Store) -> Result<Versioned<Record>, OwnCertificateError> {
    let Some(stored) = store.load(RECORD).await? else {
        return Ok(Versioned::with(0, Record::default()));
    };
    let record = serde_json::from_slice(&stored.value);
    let record = record.map_err(|error| OwnCertificateError::Record(error.to_string()))?;
    Ok(Versioned::with(stored.version, record))
}

/// The certificate that is served, as the store has it.
pub(crate) async fn stored(store: &dyn Store) -> Result<Option<IssuedCertificate>, OwnCertificateError> {
    let Some(current) = record(store).await?.value.current else {
        return Ok(None);
    };
    let order = store.order(current.order).await?;
    Ok(order.and_then(|order| order.value.certificate().cloned()))
}

/// Serves the certificate that is stored, and does nothing else.
pub(crate) async fn show(context: &Context) -> Result<(), OwnCertificateError> {
    if let Some(current) = record(&*context.store).await?.value.current {
        serve(context, &current).await?;
    }
    Ok(())
}

/// Looks after the certificate, one step at a time.
pub(crate) async fn look(context: &Context, names: &[DnsName]) -> Result<State, OwnCertificateError> {
    let found = record(&*context.store).await?;
    step(context, names, found).await
}

/// Does what is next. Every change is one of what was found: whoever has looked before another replica asked does not ask
/// as well.
async fn step(
    context: &Context,
    names: &[DnsName],
    found: Versioned<Record>,
) -> Result<State, OwnCertificateError> {
    let Versioned {
        value: mut record,
        mut version,
    } = found;
    let now = context.clock.now();
    if let Some(next) = record.next.take() {
        match context.store.order(next.order).await? {
            None => {
                place_order(context, &next, record.current.as_ref(), now).await?;
                record.next = Some(next);
            }
            Some(order) => match order.value.status(now) {
                OrderStatus::Valid => {
                    record = record.replaced_by(next);
                    version = save(context, version, &record).await?;
                }
                OrderStatus::Invalid => {
                    make_way(context, order, now).await?;
                    record.faults = record.faults.saturating_add(1);
                    let wait = backoff(record.faults.saturating_add(RETRY_OFFSET), RETRY_CEILING);
                    record.not_before = Some(after(now, wait));
                    tracing::error!(order.id = %next.order, wait_s = wait.as_secs(), "the own certificate was not issued; will ask again");
                    version = save(context, version, &record).await?;
                }
                OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {
                    record.next = Some(next)
                }
            },
        }
    }
    let served = match &record.current {
        Some(current) => serve(context, current).await?,
        None => None,
    };
    show_days_left(context, served.map(|validity| validity.not_after));
    let wanted = record.wants(names, served.as_ref(), now, context.store.shared().is_some());
    let may_ask = record.not_before.is_none_or(|time| time <= now);
    if wanted && record.next.is_none() && may_ask {
        ask(context, Versioned::with(version, record), names, now).await?;
    }
    Ok(match served {
        Some(validity) if validity.not_after > now => State::Good,
        Some(_) => State::Missing("the own certificate has expired; a new one has been asked for".to_owned()),
        None => State::Missing("the own certificate has been asked for and is not here yet; TLS clients will not trust this server".to_owned()),
    })
}

/// Looks at the certificate that came from files at the start. Only the operator can put another one in its place.
pub(crate) fn look_at_files(context: &Context) -> State {
    let served = context.slot.leaf().map(Der::new);
    let end = served.as_ref().and_then(certificate::end_of);
    let gauge = &context.metrics.own_certificate_expiry;
    gauge.set(end.map_or(0, Timestamp::as_second));
    show_days_left(context, end);
    match end {
        Some(end) if end <= context.clock.now() => State::Missing(
            "the certificate of tls.certificate has expired; put another one in its place and reload (SIGHUP)"
                .to_owned(),
        ),
        // What rustls serves and we can not read is for the clients to judge.
        Some(_) | None => State::Good,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a lifetime in seconds is far below 2^52"
)]
fn show_days_left(context: &Context, end: Option<Timestamp>) {
    let now = context.clock.now().as_second();
    let seconds = end.map_or(0, |end| end.as_second() - now).max(0);
    let gauge = &context.metrics.own_certificate_days_left;
    gauge.set(seconds as f64 / 86_400.0);
}

/// Writes down what is asked for, then asks.
async fn ask(
    context: &Context,
    record: Versioned<Record>,
    names: &[DnsName],
    now: Timestamp,
) -> Result<(), OwnCertificateError> {
    let key = KeyPair::generate()?;
    let asked = Asked {
        order: OrderId::random(),
        names: names.to_vec(),
        key: STANDARD.encode(key.serialize_der()),
    };
    let Versioned {
        value: mut record,
        version,
    } = record;
    record.next = Some(asked.clone());
    save(context, version, &record).await?;
    tracing::info!(order.id = %asked.order, "asking the CA for the own certificate");
    place_order(context, &asked, record.current.as_ref(), now).await
}

async fn place_order(
    context: &Context,
    asked: &Asked,
    current: Option<&Asked>,
    now: Timestamp,
) -> Result<(), OwnCertificateError> {
    let key = STANDARD
        .decode(&asked.key)
        .map_err(|error| OwnCertificateError::Record(error.to_string()))?;
    let key = KeyPair::try_from(key.as_slice())?;
    let names: Vec<String> = asked.names.iter().map(ToString::to_string).collect();
    let mut subject = DistinguishedName::new();
    if let Some(main) = names.first().filter(|name| name.len() <= MAX_COMMON_NAME) {
        subject.push(DnType::CommonName, main);
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = subject;
    let csr = Der::new(params.serialize_request(&key)?.der().to_vec());
    let identifiers = asked.names.iter().cloned().map(Identifier::Dns).collect();
    let order = Order::for_daemon(
        asked.order,
        identifiers,
        csr,
        now,
        context.settings.issuance_deadline,
    )
    .placed_at(context.settings.own_certificate_upstream, now)
    .wishing(Wishes {
        replaces: replaced(context, asked, current).await?,
        ..Wishes::default()
    });
    context
        .store
        .create_order(
            &order,
            Some(Job::now(
                Work::Issue(asked.order),
                order.account(),
                order.upstream_name(),
                now,
            )),
        )
        .await?;
    Ok(())
}

/// What names the current certificate (RFC 9773 §5), if the CA that is asked has issued it, for one of the names.
async fn replaced(
    context: &Context,
    asked: &Asked,
    current: Option<&Asked>,
) -> Result<Option<CertificateId>, StoreError> {
    let Some(current) = current.filter(|current| current.names.iter().any(|name| asked.names.contains(name)))
    else {
        return Ok(None);
    };
    let order = context.store.order(current.order).await?;
    let upstream = context.settings.own_certificate_upstream;
    let order = order.filter(|order| order.value.upstream_name() == upstream);
    let certificate = order.as_ref().and_then(|order| order.value.certificate());
    Ok(certificate.and_then(|certificate| CertificateId::of(certificate.leaf())))
}

/// An order that has ended by its time alone is still taken for the replacement of the current certificate until the
/// CA's queue moves again, and that may take long.
async fn make_way(context: &Context, order: Versioned<Order>, now: Timestamp) -> Result<(), StoreError> {
    let Versioned { value, version } = order;
    match value.holds_replaced() {
        Some(_) => {
            let freed = Versioned::with(version, value.gives_up_replacing(now));
            context.store.commit(freed, None).await
        }
        None => Ok(()),
    }
}

/// When a certificate ends to be valid, and when it is to be renewed.
#[derive(Debug, Clone, Copy)]
struct Validity {
    /// When it was ordered.
    since: Timestamp,
    not_after: Timestamp,
    renew_at: Timestamp,
}

impl Validity {
    fn of(order: &Order, certificate: &IssuedCertificate) -> Self {
        let (from, not_after) = (certificate.not_before(), certificate.not_after());
        let life = not_after.as_second() - from.as_second();
        let two_thirds = Timestamp::from_second(from.as_second() + life / 3 * 2).unwrap_or(not_after);
        let advised = order.renewal().map(|window| window.moment_for(certificate));
        let advised = advised.map(|moment| moment.max(after(order.created(), KEPT)));
        let lives = Duration::from_secs(u64::try_from(life).unwrap_or_default());
        let due = advised.map_or(two_thirds, |advised| advised.min(two_thirds));
        Self {
            since: order.created(),
            not_after,
            renew_at: due.max(after(order.created(), RESTS.min(lives * 2 / 3))),
        }
    }
}

/// Serves the order's certificate, if it is still stored.
async fn serve(context: &Context, current: &Asked) -> Result<Option<Validity>, OwnCertificateError> {
    let Some(order) = context.store.order(current.order).await? else {
        return Ok(None);
    };
    let Some(certificate) = order.value.certificate() else {
        return Ok(None);
    };
    let gauge = &context.metrics.own_certificate_expiry;
    let validity = Validity::of(&order.value, certificate);
    if !context.slot.serves(certificate.leaf().as_bytes()) {
        let issuers = context.store.issuers(certificate.issuers()).await?;
        let chain = std::iter::once(certificate.leaf()).chain(&issuers);
        let key = STANDARD
            .decode(&current.key)
            .map_err(|error| OwnCertificateError::Record(error.to_string()))?;
        context
            .slot
            .install(chain.map(|der| der.as_bytes().to_vec()).collect(), key)?;
        gauge.set(validity.not_after.as_second());
        tracing::info!(order.id = %current.order, certificate.not_after = %validity.not_after, "serving the own certificate");
    }
    Ok(Some(validity))
}

/// Gives the new version.
async fn save(context: &Context, version: u64, record: &Record) -> Result<u64, OwnCertificateError> {
    let bytes = serde_json::to_vec(record).map_err(|error| OwnCertificateError::Record(error.to_string()))?;
    let saved = context.store.save(RECORD, Versioned::with(version, bytes));
    Ok(saved.await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::tests::{context, sled_store};

    #[test]
    fn f43_replicas_with_different_names_buy_a_few_certificates_a_week_and_a_daemon_alone_does_as_it_is_told()
    {
        let names = |name: &str| vec![name.parse::<DnsName>().unwrap()];
        let (ours, theirs) = (names("one.example.com"), names("two.example.com"));
        let asked = |names: &[DnsName]| Asked {
            order: OrderId::random(),
            names: names.to_vec(),
            key: String::new(),
        };
        let mut record = Record::default().replaced_by(asked(&ours));
        let mut served = Validity {
            since: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::MAX,
            renew_at: Timestamp::MAX,
        };
        let mut bought = Vec::new();
        for minute in 0..7 * 24 * 60 {
            let now = after(Timestamp::UNIX_EPOCH, Duration::from_mins(minute));
            for names in [&ours, &theirs] {
                if record.wants(names, Some(&served), now, true) {
                    record = record.replaced_by(asked(names));
                    served.since = now;
                    bought.push(minute);
                }
            }
        }
        assert_eq!(bought, [0, 60, 180, 420, 900, 1860, 3780, 7620]);
        let returns = |is_shared| record.wants(&theirs, Some(&served), served.since, is_shared);
        assert!(returns(false) && !returns(true));
        served.renew_at = served.since;
        assert!(
            record.wants(&ours, Some(&served), served.since, true),
            "it is to be renewed"
        );
    }

    #[tokio::test]
    async fn f43_of_two_replicas_that_have_found_no_certificate_one_asks_for_it() {
        let (_directory, store) = sled_store();
        let context = context(store);
        let names = ["acmeproxy.example.com".parse().unwrap()];
        let [mine, theirs] = [
            record(&*context.store).await.unwrap(),
            record(&*context.store).await.unwrap(),
        ];
        step(&context, &names, theirs).await.unwrap();
        let late = step(&context, &names, mine).await;
        assert!(matches!(
            late,
            Err(OwnCertificateError::Store(StoreError::Conflict))
        ));
        look(&context, &names).await.unwrap();
        let orders = context.store.all_orders(None, 9).await.unwrap();
        let found = record(&*context.store).await.unwrap().value;
        assert_eq!(orders, Vec::from_iter(found.next.map(|next| next.order)));
    }
}
