//! new-order at the CA (RFC 8555 §7.4), with what instant-acme can not say: the validity. What the CA does not take of it,
//! and no client has asked for, is left out at a second try: a refused new-order has no effect.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::acme::identifier::Identifier;
use crate::acme::order::ValidatedOrder;
use crate::acme::order::after;
use crate::acme::problem::NamedIdentifier;
use crate::acme::problem::ProblemType;
use crate::upstream::acme::Ca;
use crate::upstream::acme::Session;
use crate::upstream::fault::Fault;

const DAY: Duration = Duration::from_hours(24);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    identifiers: Vec<NamedIdentifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    /// `not_after` is the operator's wish, and neither a client's nor the policy's.
    #[serde(skip)]
    has_own_lifetime: bool,
}

impl Ca {
    /// Opens an order and gives its URL.
    pub(crate) async fn new_order(
        &self,
        session: &Session,
        validated: &ValidatedOrder,
    ) -> Result<String, Fault> {
        let mut payload = self.payload(session, validated);
        let had_own_lifetime = payload.has_own_lifetime;
        loop {
            let text = serde_json::to_string(&payload)
                .map_err(|error| Fault::Nonsense(format!("our own new-order: {error}")))?;
            match session.signed(&session.directory.new_order, &text).await {
                Ok(answer) => {
                    let url = answer
                        .location
                        .ok_or_else(|| Fault::Nonsense("newOrder without the order's URL".to_owned()))?;
                    session.client.permitted(&url)?;
                    if had_own_lifetime && !payload.has_own_lifetime {
                        self.lifetime_is_refused();
                    }
                    return Ok(url);
                }
                Err(fault) => payload = self.with_less(payload, validated, fault)?,
            }
        }
    }

    fn payload(&self, session: &Session, validated: &ValidatedOrder) -> Payload {
        let (wishes, offers) = (validated.wishes(), session.directory.offers());
        let asks_for_validity = wishes.not_before.is_some() || wishes.not_after.is_some();
        let lifetime = self.settings.lifetime.filter(|_| !asks_for_validity);
        let lifetime = lifetime.filter(|_| !self.lifetime_refused.load(Ordering::Relaxed));
        let bound = wishes.at_most_days.map(|days| DAY * days);
        let shortest = lifetime.into_iter().chain(bound).min();
        let start = wishes.not_before.unwrap_or(validated.validated());
        let own = shortest.map(|lifetime| after(start, lifetime));
        let default = self.settings.profile.as_ref();
        let default = default.filter(|name| offers.profiles.contains_key(*name));
        let replaces = wishes.replaces.as_ref().filter(|_| offers.renewal_info);
        Payload {
            identifiers: validated.identifiers().iter().map(named).collect(),
            not_before: wishes.not_before.map(wire_time),
            not_after: wishes.not_after.or(own).map(wire_time),
            profile: wishes.profile.as_ref().or(default).cloned(),
            replaces: replaces.map(ToString::to_string),
            // Where the policy has a bound, a certificate without one is not for this order.
            has_own_lifetime: lifetime.is_some() && bound.is_none(),
        }
    }

    /// What is asked for next, after the CA has refused this.
    fn with_less(
        &self,
        payload: Payload,
        validated: &ValidatedOrder,
        fault: Fault,
    ) -> Result<Payload, Fault> {
        let Fault::Refused(refusal) = &fault else {
            return Err(fault);
        };
        let kind = refusal.kind();
        // Its own ideas of what may replace what cost the client no certificate.
        let of_replaces = matches!(
            kind,
            Some(ProblemType::AlreadyReplaced | ProblemType::Malformed | ProblemType::Unauthorized)
        );
        if payload.replaces.is_some() && (of_replaces || matches!(refusal.status, 404 | 409)) {
            tracing::warn!(order.id = %validated.id(), answer = %fault, "the CA does not take the order as a replacement; it is opened as a new one");
            return Ok(Payload {
                replaces: None,
                ..payload
            });
        }
        if payload.has_own_lifetime && kind == Some(ProblemType::Malformed) {
            tracing::warn!(order.id = %validated.id(), answer = %fault, "the CA does not take the order; it is tried without authority.config.certlifetime");
            return Ok(Payload {
                not_after: None,
                has_own_lifetime: false,
                ..payload
            });
        }
        Err(fault)
    }

    /// The CA has taken an order without the operator's wish for a validity that it did not take with it.
    fn lifetime_is_refused(&self) {
        self.lifetime_refused.store(true, Ordering::Relaxed);
        tracing::error!(
            "the CA does not take the validity of {}.certlifetime; it is not sent until the next start",
            self.settings.section
        );
    }
}

fn named(identifier: &Identifier) -> NamedIdentifier {
    identifier.into()
}

/// RFC 3339 with whole seconds, which every CA can read.
fn wire_time(time: jiff::Timestamp) -> String {
    let whole = jiff::Timestamp::from_second(time.as_second());
    whole.unwrap_or(time).to_string()
}
