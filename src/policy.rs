//! The policy: which names an account may order, and which challenges prove control of each (RFC 8555 §7.4).
//!
//! Pure: the answer depends on the settings and the request alone. The rules are those of step-ca's
//! `authority.policy.x509`, and where they leave a choice, the stricter one.

pub mod limits;
pub mod names;

pub use crate::acme::external_account::{KeyId, MacKey};

use std::time::Duration;

use crate::acme::challenge::ChallengeType;
use crate::acme::identifier::Identifier;
use crate::acme::identifier::InvalidName;
use crate::acme::problem::NamedIdentifier;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::Subproblem;
use crate::acme::problem::cleaned;
use crate::policy::limits::Limits;
use crate::policy::names::NameRules;

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
    pub names: NameRules,
    /// How long an order may stay `processing` before it fails.
    pub issuance_deadline: Duration,
    /// How long an order may take from its creation to its finalization.
    pub order_lifetime: Duration,
    /// How much may be asked for.
    pub limits: Limits,
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
    pub names: NameRules,
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
    /// Which names its accounts may order; the provisioner's and the general rules hold as well.
    pub names: NameRules,
}

impl Provisioner {
    /// The challenges that can prove control of the identifier, of those that are enabled.
    fn challenges_for(&self, identifier: &Identifier) -> Vec<ChallengeType> {
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

    /// How much may be asked for.
    pub fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// The identifiers of a new order, each once, with the challenges to offer (RFC 8555 §7.4). `own` are the rules of
    /// the account's external account key, if it has one.
    ///
    /// # Errors
    ///
    /// The problem to answer with. When several identifiers are at fault, it has one subproblem for each.
    pub fn admit(
        &self,
        provisioner: &Provisioner,
        own: Option<&NameRules>,
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
        let mut admitted: Vec<(Identifier, Vec<ChallengeType>)> = Vec::new();
        let mut refused = Vec::new();
        for named in requested {
            match self.admit_one(provisioner, own, named) {
                Ok(one) if admitted.contains(&one) => {}
                Ok(one) => admitted.push(one),
                Err((kind, detail)) => refused.push(subproblem(kind, detail, named)),
            }
        }
        match problem_of(refused) {
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
        own: Option<&NameRules>,
        identifiers: impl Iterator<Item = &'a Identifier>,
    ) -> Result<(), Problem> {
        let refusals = identifiers.filter_map(|identifier| {
            let detail = self.refusal(provisioner, own, identifier)?;
            let kind = ProblemType::RejectedIdentifier;
            Some(subproblem(kind, detail.to_owned(), &identifier.into()))
        });
        match problem_of(refusals.collect()) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    fn admit_one(
        &self,
        provisioner: &Provisioner,
        own: Option<&NameRules>,
        named: &NamedIdentifier,
    ) -> Result<(Identifier, Vec<ChallengeType>), (ProblemType, String)> {
        let identifier =
            match named.kind.as_str() {
                "dns" => Identifier::dns(&named.value)
                    .map_err(|error| (problem_of_name(error), error.to_string()))?,
                "ip" => Identifier::ip(&named.value)
                    .map_err(|error| (ProblemType::Malformed, error.to_string()))?,
                _ => {
                    let detail = format!(
                        "identifiers of type \"{}\" are not supported; only \"dns\" and \"ip\" are",
                        cleaned(&named.kind, 40)
                    );
                    return Err((ProblemType::UnsupportedIdentifier, detail));
                }
            };
        let rejected = |detail: &str| (ProblemType::RejectedIdentifier, detail.to_owned());
        if let Some(detail) = self.refusal(provisioner, own, &identifier) {
            return Err(rejected(detail));
        }
        let challenges = provisioner.challenges_for(&identifier);
        if !challenges.is_empty() {
            return Ok((identifier, challenges));
        }
        Err(rejected(match identifier {
            Identifier::Wildcard(_) => "a wildcard needs dns-01, which is not offered here",
            Identifier::Ip(_) => "an address needs http-01 or tls-alpn-01, which are not offered here",
            Identifier::Dns(_) => "no challenge is offered here that could prove control of it",
        }))
    }

    fn refusal(
        &self,
        provisioner: &Provisioner,
        own: Option<&NameRules>,
        identifier: &Identifier,
    ) -> Option<&'static str> {
        let general = self.settings.names.refusal(identifier);
        let general = general.or_else(|| provisioner.names.refusal(identifier));
        general.or_else(|| {
            own?.refusal(identifier)
                .map(|_| "the external account key of this account is not for this name")
        })
    }
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
/// stands in the detail, where clients that do not know subproblems show it.
fn problem_of(refused: Vec<Subproblem>) -> Option<Problem> {
    let first = refused.first()?;
    let kind = match refused.iter().all(|other| other.kind == first.kind) {
        true => first.kind,
        false => ProblemType::Compound,
    };
    let detail = format!("{}: {}", first.identifier.value, first.detail);
    Some(match refused.len() {
        1 => Problem::new(kind, detail),
        count => Problem::new(
            kind,
            format!("{detail} (and {} more; see the subproblems)", count - 1),
        )
        .with_subproblems(refused),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str], wildcards: bool) -> NameRules {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        NameRules {
            allow: (!allow.is_empty()).then(|| patterns(allow)),
            deny: patterns(deny),
            wildcards,
            ..NameRules::default()
        }
    }

    fn policy(general: NameRules, own: NameRules) -> Policy {
        Policy::new(Settings {
            provisioners: vec![Provisioner {
                name: "acme".to_owned(),
                challenges: ChallengeType::ALL.to_vec(),
                terms_of_service: None,
                website: None,
                caa_identities: Vec::new(),
                names: own,
                external_accounts: ExternalAccounts::default(),
            }],
            names: general,
            issuance_deadline: Duration::from_secs(1),
            order_lifetime: Duration::from_secs(1),
            limits: Limits::default(),
        })
    }

    fn dns(value: &str) -> NamedIdentifier {
        NamedIdentifier {
            kind: "dns".to_owned(),
            value: value.to_owned(),
        }
    }

    fn admit(policy: &Policy, values: &[&str]) -> Result<Vec<String>, Problem> {
        let requested: Vec<NamedIdentifier> = values.iter().map(|value| dns(value)).collect();
        let provisioner = policy.provisioner("acme").unwrap();
        let admitted = policy.admit(provisioner, None, &requested)?;
        Ok(admitted
            .iter()
            .map(|(identifier, _)| identifier.to_string())
            .collect())
    }

    fn open() -> Policy {
        policy(NameRules::default(), NameRules::default())
    }

    #[test]
    fn c401_an_order_has_between_1_and_100_identifiers() {
        let names: Vec<String> = (0..101).map(|i| format!("h{i}.example.com")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(admit(&open(), &[]).unwrap_err().kind, ProblemType::Malformed);
        assert_eq!(admit(&open(), &names).unwrap_err().kind, ProblemType::Malformed);
        assert_eq!(admit(&open(), &names[..100]).unwrap().len(), 100);
    }

    #[test]
    fn c402_h2_only_the_types_dns_and_ip_are_supported() {
        let policy = open();
        for kind in ["IP", "email", "DNS", "", "permanent-identifier"] {
            let named = NamedIdentifier {
                kind: kind.to_owned(),
                value: "www.example.com".to_owned(),
            };
            let problem = policy
                .admit(policy.provisioner("acme").unwrap(), None, &[named])
                .unwrap_err();
            assert_eq!(problem.kind, ProblemType::UnsupportedIdentifier, "{kind}");
            assert!(problem.subproblems.is_empty());
        }
    }

    #[test]
    fn c403_h3_a_name_written_twice_is_one_identifier() {
        let admitted = admit(&open(), &["WWW.example.com", "a.example.com", "www.Example.com"]);
        assert_eq!(admitted.unwrap(), ["www.example.com", "a.example.com"]);
    }

    #[test]
    fn c404_to_c412_h4_h5_h7_names_that_no_certificate_may_have_are_malformed() {
        let long = format!("{}.example.com", "a".repeat(64));
        let values = [
            "example.com.",
            "*",
            "*.com",
            "*.*.example.com",
            "a.*.example.com",
            "*a.example.com",
            "*.",
            "localhost",
            ".example.com",
            "a..b",
            &long,
            "10.0.0.1",
            "2130706433",
            "0x7f.1",
            "[::1]",
            "::1",
            "müller.example",
            "xn--a.example",
            "_acme-challenge.example.com",
            "a\0.example.com",
            "a.example.com:80",
            "\u{212a}elvin.example",
            "",
        ];
        for value in values {
            let problem = admit(&open(), &[value]).unwrap_err();
            assert_eq!(
                (problem.kind, problem.status),
                (ProblemType::Malformed, 400),
                "{value}"
            );
            assert!(problem.subproblems.is_empty());
        }
    }

    #[test]
    fn c411_control_characters_of_a_name_do_not_come_back() {
        let problem = admit(&open(), &["a\r\n\u{1b}[31m.example.com"]).unwrap_err();
        assert!(
            problem.detail.starts_with("a???[31m.example.com: "),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn c413_h8_names_outside_the_policy_are_rejected_with_a_subproblem_each() {
        let policy = policy(
            rules(&["*.example.com", "example.com"], &[], false),
            NameRules::default(),
        );
        let bad = ["evilexample.com", "example.com.evil.net", "a.b.example.com"];
        for name in bad {
            let problem = admit(&policy, &["www.example.com", name]).unwrap_err();
            assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
            assert!(
                problem.subproblems.is_empty() && problem.detail.starts_with(name),
                "{problem}"
            );
        }
        let problem = admit(&policy, &bad).unwrap_err();
        assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
        let named: Vec<&str> = problem
            .subproblems
            .iter()
            .map(|sub| sub.identifier.value.as_str())
            .collect();
        assert_eq!(named, bad);
    }

    #[test]
    fn h8_faults_of_different_types_are_one_compound_problem() {
        let policy = policy(rules(&["*.example.com"], &[], false), NameRules::default());
        let problem = admit(&policy, &["a_b.example.com", "www.example.net"]).unwrap_err();
        assert_eq!(problem.kind, ProblemType::Compound);
        let kinds: Vec<ProblemType> = problem.subproblems.iter().map(|sub| sub.kind).collect();
        assert_eq!(kinds, [ProblemType::Malformed, ProblemType::RejectedIdentifier]);
    }

    #[test]
    fn h4_c409_a_reserved_label_is_rejected() {
        let problem = admit(&open(), &["ab--cd.example"]).unwrap_err();
        assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
    }

    #[test]
    fn h6_addresses_are_admitted_in_their_one_spelling_each_once() {
        let policy = open();
        let provisioner = policy.provisioner("acme").unwrap();
        let ip = |value: &str| NamedIdentifier {
            kind: "ip".to_owned(),
            value: value.to_owned(),
        };
        let admitted = policy.admit(
            provisioner,
            None,
            &[ip("10.0.0.1"), ip("2001:db8::1"), ip("10.0.0.1")],
        );
        let admitted: Vec<String> = admitted.unwrap().iter().map(|(it, _)| it.to_string()).collect();
        assert_eq!(admitted, ["10.0.0.1", "2001:db8::1"]);
        for wrong in [
            "10.0.0.01",
            "10.0.0.0/8",
            "fe80::1%eth0",
            "::ffff:10.0.0.1",
            "2001:DB8::1",
            "www.example.com",
            "",
        ] {
            let problem = policy.admit(provisioner, None, &[ip(wrong)]).unwrap_err();
            assert_eq!(problem.kind, ProblemType::Malformed, "{wrong}");
        }
    }

    #[test]
    fn i3_each_kind_of_identifier_is_offered_the_enabled_challenges_that_can_prove_it() {
        use ChallengeType::{Dns01, Http01, TlsAlpn01};
        let policy = open();
        let provisioner = policy.provisioner("acme").unwrap();
        let offered = |enabled: &[ChallengeType], kind: &str, value: &str| {
            let provisioner = Provisioner {
                challenges: enabled.to_vec(),
                ..provisioner.clone()
            };
            let named = NamedIdentifier {
                kind: kind.to_owned(),
                value: value.to_owned(),
            };
            let admitted = policy.admit(&provisioner, None, &[named]);
            admitted
                .map(|admitted| admitted[0].1.clone())
                .map_err(|problem| problem.kind)
        };
        let all = &ChallengeType::ALL;
        assert_eq!(
            offered(all, "dns", "www.example.com").unwrap(),
            [Http01, Dns01, TlsAlpn01]
        );
        assert_eq!(offered(all, "dns", "*.example.com").unwrap(), [Dns01]);
        assert_eq!(offered(all, "ip", "10.0.0.1").unwrap(), [Http01, TlsAlpn01]);
        assert_eq!(
            offered(&[TlsAlpn01], "dns", "www.example.com").unwrap(),
            [TlsAlpn01]
        );
        let rejected = Err(ProblemType::RejectedIdentifier);
        assert_eq!(offered(&[Http01, TlsAlpn01], "dns", "*.example.com"), rejected);
        assert_eq!(offered(&[Dns01], "ip", "10.0.0.1"), rejected);
    }

    #[test]
    fn the_general_rules_and_the_provisioners_own_must_both_admit() {
        let policy = policy(
            rules(&["*.example.com"], &[], false),
            rules(&[], &["www.example.com"], false),
        );
        assert!(admit(&policy, &["web.example.com"]).is_ok());
        assert!(admit(&policy, &["www.example.com"]).is_err());
        assert!(admit(&policy, &["web.example.net"]).is_err());
    }

    #[test]
    fn an_order_from_before_a_stricter_policy_is_not_finalized() {
        let policy = policy(rules(&["*.example.com"], &[], false), NameRules::default());
        let provisioner = policy.provisioner("acme").unwrap();
        let inside = Identifier::dns("www.example.com").unwrap();
        let outside = Identifier::dns("www.example.net").unwrap();
        assert!(
            policy
                .still_admits(provisioner, None, [&inside].into_iter())
                .is_ok()
        );
        let problem = policy
            .still_admits(provisioner, None, [&inside, &outside].into_iter())
            .unwrap_err();
        assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
        assert!(problem.detail.starts_with("www.example.net"), "{problem}");
    }

    #[test]
    fn the_rules_of_the_accounts_external_account_key_hold_as_well() {
        let policy = policy(rules(&[], &["secret.example.com"], true), NameRules::default());
        let provisioner = policy.provisioner("acme").unwrap();
        let own = rules(&["*.example.com"], &[], false);
        for (name, admitted) in [
            ("www.example.com", true),
            ("secret.example.com", false),
            ("www.example.net", false),
        ] {
            let identifier = Identifier::dns(name).unwrap();
            let opened = policy.admit(provisioner, Some(&own), &[dns(name)]);
            let finalized = policy.still_admits(provisioner, Some(&own), [&identifier].into_iter());
            assert_eq!(
                (opened.is_ok(), finalized.is_ok()),
                (admitted, admitted),
                "{name}"
            );
        }
        let problem = policy
            .admit(provisioner, Some(&own), &[dns("www.example.net")])
            .unwrap_err();
        assert!(problem.detail.contains("external account key"), "{problem}");
    }
}
