//! Who may order what, with which challenges.

use super::*;
use crate::policy::names::NameRules;

fn rules(allow: &[&str], deny: &[&str], wildcards: bool) -> Rules {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let names = NameRules {
        allow: (!allow.is_empty()).then(|| patterns(allow)),
        deny: patterns(deny),
        wildcards,
        ..NameRules::default()
    };
    Rules {
        names,
        ..Rules::default()
    }
}

fn policy(general: Rules, own: Rules) -> Policy {
    Policy::new(Settings {
        provisioners: vec![Provisioner {
            name: "acme".to_owned(),
            challenges: ChallengeType::ALL.to_vec(),
            terms_of_service: None,
            website: None,
            caa_identities: Vec::new(),
            rules: own,
            upstream: None,
            external_accounts: ExternalAccounts::default(),
        }],
        rules: general,
        routes: Routes::default(),
        issuance_deadline: Duration::from_secs(1),
        order_lifetime: Duration::from_secs(1),
        limits: Limits::default(),
        wishes: BTreeMap::new(),
        blocked_keys: BlockedKeys::default(),
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
    policy(Rules::default(), Rules::default())
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
        Rules::default(),
    );
    let bad = ["evilexample.com", "example.com.evil.net", "a.b.example.com"];
    for name in bad {
        let problem = admit(&policy, &["www.example.com", name]).unwrap_err();
        assert_eq!(problem.kind, ProblemType::RejectedIdentifier);
        assert!(problem.detail.starts_with(name), "{problem}");
        let [sub] = problem.subproblems.as_slice() else {
            panic!("one of two names is at fault: {problem}");
        };
        assert_eq!(sub.identifier.value, name);
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
    let policy = policy(rules(&["*.example.com"], &[], false), Rules::default());
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
    let policy = policy(rules(&["*.example.com"], &[], false), Rules::default());
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
    let policy = policy(rules(&[], &["secret.example.com"], true), Rules::default());
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
