//! The challenges that a CA poses which has not validated the names beforehand: dns-01, by the configured solver, or none
//! (UPSTREAM rule 6).

use instant_acme::AuthorizationStatus;
use instant_acme::ChallengeStatus;
use instant_acme::ChallengeType;
use instant_acme::Error as AcmeError;
use instant_acme::Order;

use crate::acme::identifier::Identifier;
use crate::acme::order::ValidatedOrder;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;
use crate::upstream::Error;
use crate::upstream::Progress;
use crate::upstream::account::BAD_NONCE_RETRIES;
use crate::upstream::acme::Ca;
use crate::upstream::acme::Session;
use crate::upstream::acme::progress::waiting;
use crate::upstream::dns::Publication;
use crate::upstream::dns::Record;
use crate::upstream::fault::Fault;

impl Ca {
    /// UPSTREAM rule 6: what is valid already needs nothing; what is pending is solved by dns-01, or not at all.
    pub(crate) async fn solve(
        &self,
        session: &Session,
        validated: &ValidatedOrder,
        order: &mut Order,
    ) -> Result<Progress, Error> {
        let loaded = load_authorizations(order).await;
        loaded.map_err(|fault| Error::from(fault).not_the_end())?;
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
                let section = &self.settings.section;
                return Err(unsolvable(
                    section,
                    identifier,
                    &offered.collect::<Vec<_>>().join(", "),
                ));
            };
            let Some(record) = Record::new(dns_name, &challenge.token, thumbprint) else {
                return Err(Fault::Nonsense("a challenge whose token is no base64url".to_owned()).into());
            };
            if challenge.status == ChallengeStatus::Pending {
                unanswered.push((index, record.clone()));
            }
            records.push(record);
        }
        let Some(solver) = &self.solver else {
            return Ok(waiting());
        };
        if unanswered.is_empty() {
            solver.remember(&url, &records).await;
            return Ok(waiting());
        }
        if let Publication::Spreading(retry_after) = solver.publish(&url, &records).await? {
            return Ok(Progress::Waiting { retry_after });
        }
        for (index, record) in unanswered {
            // The CA may leave a challenge pending while it looks, and would look again.
            if solver.is_answered(&url, &record) {
                continue;
            }
            if let Err(fault) = insist!(answer(order, index)) {
                return Err(self.judged(session, fault).await.not_the_end());
            }
            solver.answered(&url, &record);
        }
        Ok(waiting())
    }
}

/// Fetches the authorizations one by one, so that a refused nonce costs one request and not all of them.
pub(crate) async fn load_authorizations(order: &mut Order) -> Result<(), Fault> {
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

fn unsolvable(section: &str, identifier: &Identifier, offered: &str) -> Error {
    let offered = cleaned(offered, 200);
    tracing::error!(name = %identifier, offered, "the CA wants a validation of its own: configure {section}.dns01_txt, or have the CA pre-validate the domain");
    Error::Permanent(Problem::new(
        ProblemType::ServerInternal,
        format!(
            "the CA requires validation of {identifier} by one of: {offered}; \
             this server can do dns-01 once {section}.dns01_txt is configured"
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
