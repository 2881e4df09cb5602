//! The policy: which names an account may order, and which challenges prove control of each (RFC 8555 §7.4).
//!
//! Pure: the answer depends on the settings and the request alone. The rules are those of step-ca's
//! `authority.policy.x509`, and where they leave a choice, the stricter one.

pub mod blocked_keys;
pub mod clients;
pub mod decision;
pub mod limits;
pub mod names;
pub mod network;
pub mod per_name;
pub mod routes;
pub mod rules;
pub mod wishes;

pub use crate::acme::external_account::{KeyId, MacKey};
pub use crate::acme::upstream::UpstreamName;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::acme::challenge::ChallengeType;
use crate::acme::identifier::Identifier;
use crate::acme::identifier::InvalidName;
use crate::acme::problem::NamedIdentifier;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::Subproblem;
use crate::acme::problem::cleaned;
use crate::policy::blocked_keys::BlockedKeys;
use crate::policy::limits::Limits;
use crate::policy::routes::Routes;
use crate::policy::rules::Levels;
use crate::policy::rules::Rules;
use crate::policy::wishes::WishRules;

/// The challenges of a provisioner whose configuration names none.
pub const ENABLED_BY_DEFAULT: [ChallengeType; 3] = ChallengeType::ALL;

/// How much of a name from outside is repeated in a problem document.
const SHOWN_CHARS: usize = 260;

/// Who may order what, and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directories that we serve.
    pub provisioners: Vec<Provisioner>,
    /// The rules that hold for every provisioner.
    pub rules: Rules,
    /// Which upstream an order is placed at.
    pub routes: Routes,
    /// How long an order may stay `processing` before it fails.
    pub issuance_deadline: Duration,
    /// How long an order may take from its creation to its finalization.
    pub order_lifetime: Duration,
    /// How much may be asked for.
    pub limits: Limits,
    /// What may be asked for beyond names, by upstream.
    pub wishes: BTreeMap<UpstreamName, WishRules>,
    /// Keys that are in no certificate and no account.
    pub blocked_keys: BlockedKeys,
}

/// One ACME directory, with its own rules.
#[derive(Debug, Clone)]
pub struct Provisioner {
    /// The name, as it stands in the path.
    pub name: String,
    /// The challenges that the operator has enabled.
    pub challenges: Vec<ChallengeType>,
    /// The directory's `termsOfService`.
    pub terms_of_service: Option<String>,
    /// The directory's `website`.
    pub website: Option<String>,
    /// The directory's `caaIdentities`.
    pub caa_identities: Vec<String>,
    /// The provisioner's own rules; the general ones hold as well.
    pub rules: Rules,
    /// The upstream of its orders, whatever their names.
    pub upstream: Option<UpstreamName>,
    /// Whether accounts need an external account key, and which keys there are besides those in the store.
    pub external_accounts: ExternalAccounts,
}

/// A provisioner's rules about external account binding (RFC 8555 §7.3.4). The default asks for none.
#[derive(Debug, Clone, Default)]
pub struct ExternalAccounts {
    /// Whether a new account needs one.
    pub required: bool,
    /// The keys of the configuration.
    pub keys: Vec<ConfiguredKey>,
}

/// An external account key of the configuration.
#[derive(Debug, Clone)]
pub struct ConfiguredKey {
    /// The key's id.
    pub kid: KeyId,
    /// The secret.
    pub mac_key: MacKey,
    /// Whether only one account can be made with it.
    pub one_time: bool,
    /// The rules for its accounts' orders; the provisioner's and the general ones hold as well.
    pub rules: Rules,
    /// The upstream of its accounts' orders, whatever their names.
    pub upstream: Option<UpstreamName>,
}

impl Provisioner {
    /// The challenges that can prove control of the identifier, of those that are enabled.
    pub(crate) fn challenges_for(&self, identifier: &Identifier) -> Vec<ChallengeType> {
        let fits = |kind: &ChallengeType| match identifier {
            Identifier::Dns(_) => true,
            // RFC 8555 §8.3, RFC 8737 §3: http-01 and tls-alpn-01 prove control of one host, so neither can answer for
            // all names below a domain.
            Identifier::Wildcard(_) => *kind == ChallengeType::Dns01,
            // RFC 8738 §7: "The existing \"dns-01\" challenge MUST NOT be used to validate IP identifiers."
            Identifier::Ip(_) => *kind != ChallengeType::Dns01,
        };
        let offered = ChallengeType::ALL
            .into_iter()
            .filter(|kind| self.challenges.contains(kind));
        offered.filter(fits).collect()
    }
}

/// Decides about names.
#[derive(Debug, Clone)]
pub struct Policy {
    settings: Settings,
}

impl Policy {
    /// A policy with these rules.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// All provisioners.
    pub fn provisioners(&self) -> &[Provisioner] {
        &self.settings.provisioners
    }

    /// The provisioner of this name.
    pub fn provisioner(&self, name: &str) -> Option<&Provisioner> {
        let mut provisioners = self.settings.provisioners.iter();
        provisioners.find(|provisioner| provisioner.name == name)
    }

    /// How long an order may stay `processing` before it fails.
    pub fn issuance_deadline(&self) -> Duration {
        self.settings.issuance_deadline
    }

    /// How long an order may take from its creation to its finalization.
    pub fn order_lifetime(&self) -> Duration {
        self.settings.order_lifetime
    }

    /// Which upstream an order is placed at.
    pub fn routes(&self) -> &Routes {
        &self.settings.routes
    }

    /// How much may be asked for.
    pub fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// What may be asked of an upstream beyond names.
    pub fn wishes(&self, upstream: UpstreamName) -> WishRules {
        let rules = self.settings.wishes.get(&upstream);
        rules.cloned().unwrap_or_default()
    }

    /// Where the key with this hash is known from, if others than its owner have it.
    pub fn source_of_blocked(&self, number_hash: &[u8; 32]) -> Option<&'static str> {
        self.settings.blocked_keys.source(number_hash)
    }

    /// All rules that hold for the orders of an account; `own` are those of its external account key, if it has one.
    pub fn levels<'a>(&'a self, provisioner: &'a Provisioner, own: Option<&'a Rules>) -> Levels<'a> {
        Levels::new(&self.settings.rules, &provisioner.rules, own)
    }

    /// The identifiers of a new order, each once, with the challenges to offer (RFC 8555 §7.4). `own` are the rules of
    /// the account's external account key, if it has one.
    ///
    /// # Errors
    ///
    /// The problem to answer with. When several identifiers are asked for, it has one subproblem for each at fault.
    pub fn admit(
        &self,
        provisioner: &Provisioner,
        own: Option<&Rules>,
        requested: &[NamedIdentifier],
    ) -> Result<Vec<(Identifier, Vec<ChallengeType>)>, Problem> {
        if requested.is_empty() {
            return Err(Problem::malformed("an order needs at least one identifier"));
        }
        let limit = self.settings.limits.names_per_order;
        if requested.len() > limit {
            return Err(Problem::malformed(format!(
                "an order may have at most {limit} identifiers; this one has {}",
                requested.len()
            )));
        }
        let levels = self.levels(provisioner, own);
        let mut admitted: Vec<(Identifier, Vec<ChallengeType>)> = Vec::new();
        let mut refused = Vec::new();
        for named in requested {
            match admit_one(provisioner, &levels, named) {
                Ok(one) if admitted.contains(&one) => {}
                Ok(one) => admitted.push(one),
                Err((kind, detail)) => refused.push(subproblem(kind, detail, named)),
            }
        }
        match problem_of(refused, requested.len()) {
            Some(problem) => Err(problem),
            None => Ok(admitted),
        }
    }

    /// Whether the rules, which may have become stricter since the order was made, still admit its identifiers.
    ///
    /// # Errors
    ///
    /// The problem to answer with, as for [`Self::admit`].
    pub fn still_admits<'a>(
        &self,
        provisioner: &Provisioner,
        own: Option<&Rules>,
        identifiers: impl Iterator<Item = &'a Identifier>,
    ) -> Result<(), Problem> {
        let levels = self.levels(provisioner, own);
        let mut asked = 0;
        let refusals = identifiers.filter_map(|identifier| {
            asked += 1;
            let detail = levels.refusal(identifier)?;
            Some(subproblem(
                ProblemType::RejectedIdentifier,
                detail,
                &identifier.into(),
            ))
        });
        let refused = refusals.collect();
        match problem_of(refused, asked) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }
}

fn admit_one(
    provisioner: &Provisioner,
    levels: &Levels<'_>,
    named: &NamedIdentifier,
) -> Result<(Identifier, Vec<ChallengeType>), (ProblemType, String)> {
    let identifier = match named.kind.as_str() {
        "dns" => {
            Identifier::dns(&named.value).map_err(|error| (problem_of_name(error), error.to_string()))?
        }
        "ip" => Identifier::ip(&named.value).map_err(|error| (ProblemType::Malformed, error.to_string()))?,
        _ => {
            let detail = format!(
                "identifiers of type \"{}\" are not supported; only \"dns\" and \"ip\" are",
                cleaned(&named.kind, 40)
            );
            return Err((ProblemType::UnsupportedIdentifier, detail));
        }
    };
    if let Some(detail) = levels.refusal(&identifier) {
        return Err((ProblemType::RejectedIdentifier, detail));
    }
    let challenges = provisioner.challenges_for(&identifier);
    if !challenges.is_empty() {
        return Ok((identifier, challenges));
    }
    let detail = match identifier {
        Identifier::Wildcard(_) => "a wildcard needs dns-01, which is not offered here",
        Identifier::Ip(_) => "an address needs http-01 or tls-alpn-01, which are not offered here",
        Identifier::Dns(_) => "no challenge is offered here that could prove control of it",
    };
    Err((ProblemType::RejectedIdentifier, detail.to_owned()))
}

/// A reserved label is a name that nobody may have, not one that is written wrongly (CONFORMANCE H4).
fn problem_of_name(error: InvalidName) -> ProblemType {
    match error {
        InvalidName::ReservedLabel => ProblemType::RejectedIdentifier,
        InvalidName::Empty
        | InvalidName::TooLong
        | InvalidName::EmptyLabel
        | InvalidName::LabelTooLong
        | InvalidName::Character
        | InvalidName::Hyphen
        | InvalidName::ALabel
        | InvalidName::SingleLabel
        | InvalidName::Address
        | InvalidName::Wildcard => ProblemType::Malformed,
    }
}

fn subproblem(kind: ProblemType, detail: String, named: &NamedIdentifier) -> Subproblem {
    Subproblem {
        kind,
        detail,
        identifier: NamedIdentifier {
            kind: cleaned(&named.kind, 40),
            value: cleaned(&named.value, SHOWN_CHARS),
        },
    }
}

/// One problem for all refused identifiers. RFC 8555 §6.7.1 has no `identifier` at the top level, so the first one
/// stands in the detail, where clients that do not know subproblems show it. A client that has asked for one identifier
/// needs no telling which.
fn problem_of(refused: Vec<Subproblem>, asked: usize) -> Option<Problem> {
    let first = refused.first()?;
    let kind = match refused.iter().all(|other| other.kind == first.kind) {
        true => first.kind,
        false => ProblemType::Compound,
    };
    let detail = format!("{}: {}", first.identifier.value, first.detail);
    let detail = match refused.len() {
        1 => detail,
        count => format!("{detail} (and {} more; see the subproblems)", count - 1),
    };
    let problem = Problem::new(kind, detail);
    Some(match asked {
        1 => problem,
        _ => problem.with_subproblems(refused),
    })
}

#[cfg(test)]
mod tests;
