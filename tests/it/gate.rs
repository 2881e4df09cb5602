//! One road to the CA's signature (SECURITY I1): the sources are read for a second one. CVE-2025-44005 (step-ca, CVSS
//! 10) was that: two entrances to the signer, and the checks at one of them.
//!
//! That the proofs can not be written down from outside is the compiler's to say: doc tests on `ValidatedOrder` and
//! `MatchedCsr` must fail to compile.

use std::fs;
use std::path::{Path, PathBuf};

/// A proof, the file with its type, and the only file that makes one.
const PROOFS: [(&str, &str, &str); 2] = [
    (
        "ValidatedOrder",
        "acme/order/validated.rs",
        "acme/order/validated.rs",
    ),
    ("MatchedCsr", "acme/csr.rs", "acme/csr.rs"),
];

/// The methods of `Issuer` that do not take a proof: none of them makes the CA sign.
const WITHOUT_PROOF: [&str; 9] = [
    "account",
    "account_changed",
    "publishes",
    "follow",
    "prepare",
    "look",
    "revoke",
    "renewal",
    "probe",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file with its code, comments left out.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![source()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(source()).unwrap().display().to_string();
                found.push((name, code(&fs::read_to_string(&path).unwrap())));
            }
        }
    }
    found
}

fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands between the braces behind the text.
fn block<'c>(code: &'c str, head: &str) -> &'c str {
    let start = code.find(head).unwrap_or_else(|| panic!("there is no {head}"));
    let end = code[start..].find("\n}").unwrap();
    &code[start..start + end]
}

/// Each place where the word stands as a whole word, with what is before and behind it on its line.
fn places<'c>(code: &'c str, word: &str) -> Vec<(&'c str, &'c str)> {
    let mut places = Vec::new();
    for line in code.lines() {
        for (at, _) in line.match_indices(word) {
            let (before, behind) = (&line[..at], &line[at + word.len()..]);
            let part = |c: char| c.is_alphanumeric() || c == '_';
            if !before.ends_with(part) && !behind.starts_with(part) {
                places.push((before, behind));
            }
        }
    }
    places
}

#[test]
fn only_finalize_reaches_upstream_c913_a_proof_is_made_in_one_place() {
    for (proof, home, maker) in PROOFS {
        let mut made = Vec::new();
        for (file, code) in files() {
            for (before, behind) in places(&code, proof) {
                let head = ["struct ", "impl "].iter().any(|head| before.ends_with(head));
                let returned = before.trim_end().ends_with("->");
                if behind.trim_start().starts_with('{') && !head && !returned {
                    made.push(file.clone());
                }
                assert!(
                    !before.contains("for "),
                    "{file}: a trait is implemented for {proof} by hand: {before}{proof}{behind}"
                );
                assert!(
                    !before.contains("type ") && !behind.contains(" as "),
                    "{file}: {proof} gets another name"
                );
            }
        }
        assert_eq!(made, [maker], "{proof} is written down in other places, or twice");
        let (_, code) = files().into_iter().find(|(file, _)| file == home).unwrap();
        let body = block(&code, &format!("struct {proof} {{"));
        assert!(!body.contains("pub"), "{proof} has a field that is not private");
        let derived = code[..code.find(&format!("struct {proof} ")).unwrap()]
            .rsplit("#[derive(")
            .next()
            .unwrap()
            .split(')')
            .next()
            .unwrap()
            .to_owned();
        for word in derived.split(", ") {
            assert!(["Debug", "Clone"].contains(&word), "{proof} derives {word}");
        }
    }
}

#[test]
fn only_finalize_reaches_upstream_a_proof_comes_out_of_one_function() {
    let makers = [
        ("ValidatedOrder", vec!["validated"]),
        ("MatchedCsr", vec!["matching"]),
    ];
    for (proof, expected) in makers {
        let mut functions = Vec::new();
        for (file, code) in files().into_iter().filter(|(file, _)| !file.contains("tests")) {
            for signature in code.split("fn ").skip(1) {
                let signature = signature.split(['{', ';']).next().unwrap();
                let result = signature.split_once("->").map_or("", |(_, result)| result);
                if !places(result, proof).is_empty() {
                    let name = signature.split(['(', '<']).next().unwrap();
                    assert!(file.starts_with("acme/"), "{file}: {name} gives a {proof}");
                    functions.push(name.to_owned());
                }
            }
        }
        assert_eq!(functions, expected, "functions that give a {proof}");
    }
    // `Self` must not hide one.
    for (file, code) in files() {
        for (proof, ..) in PROOFS {
            if let Some(start) = code.find(&format!("impl {proof} {{")) {
                let own = &code[start..start + code[start..].find("\n}").unwrap()];
                assert!(
                    places(own, "Self").is_empty(),
                    "{file}: impl {proof} has a constructor"
                );
            }
        }
    }
}

#[test]
fn only_finalize_reaches_upstream_the_ca_signs_for_nothing_but_a_validated_order() {
    let upstream = code(&fs::read_to_string(source().join("upstream/mod.rs")).unwrap());
    let methods = block(&upstream, "pub trait Issuer").split("fn ").skip(1);
    let mut names = Vec::new();
    for method in methods {
        let name = method.split('(').next().unwrap();
        if !WITHOUT_PROOF.contains(&name) {
            assert!(
                method.split(';').next().unwrap().contains(": &ValidatedOrder"),
                "Issuer::{name} does without a ValidatedOrder"
            );
            names.push(name);
        }
    }
    assert_eq!(names, ["open", "advance"]);
    // Our own new-order is sent from one place, which takes the proof as well.
    let new_order = code(&fs::read_to_string(source().join("upstream/new_order.rs")).unwrap());
    assert!(block(&new_order, "impl Ca").contains("validated: &ValidatedOrder"));
    let senders: Vec<String> = files()
        .into_iter()
        .filter(|(_, code)| code.contains("directory.new_order,"))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(senders, ["upstream/new_order.rs"]);
    // instant-acme has no such rule: it is called in the one place that has the proof in hand.
    for (call, place) in [
        (".new_order(", "upstream/acme.rs"),
        ("finalize_csr(", "upstream/acme/progress.rs"),
    ] {
        let callers: Vec<String> = files()
            .into_iter()
            .filter(|(_, code)| code.contains("instant_acme"))
            .flat_map(|(file, code)| vec![file; code.matches(call).count()])
            .collect();
        assert_eq!(callers, [place], "{call}");
    }
    let stranger = files()
        .into_iter()
        .find(|(file, code)| code.contains("instant_acme") && !file.starts_with("upstream/"));
    assert_eq!(
        stranger.map(|(file, _)| file),
        None,
        "it speaks to the CA by itself"
    );
}

#[test]
fn only_finalize_reaches_upstream_nobody_but_the_daemon_itself_orders_without_a_proof() {
    let mut callers: Vec<String> = files()
        .into_iter()
        .filter(|(file, _)| !file.contains("tests") && !file.starts_with("store/contract"))
        .flat_map(|(file, code)| vec![file; code.matches("::for_daemon(").count()])
        .collect();
    callers.sort();
    assert_eq!(callers, ["worker/own_certificate.rs"]);
    // What a client proves is written by transitions alone: the fields are for `acme`.
    for (file, kind) in [
        ("acme/authorization.rs", "Authorization"),
        ("acme/challenge.rs", "Challenge"),
    ] {
        let (_, code) = files().into_iter().find(|(name, _)| name == file).unwrap();
        let body = block(&code, &format!("pub struct {kind} {{"));
        for field in body
            .lines()
            .filter(|line| line.contains("pub") && !line.contains("struct"))
        {
            assert!(field.contains("pub(in crate::acme)"), "{kind}: {field}");
        }
    }
}
