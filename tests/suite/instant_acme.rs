//! instant-acme's own tests for Pebble, from the package that the lock file names, unchanged. Where they start Pebble,
//! they get acme-proxy in front of Pebble (`examples/pebble_front`).
//!
//! Every test passes, or stands in `not_passed.txt` with the reason. The tests take fixed ports, from 5555 on.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

const PACKAGE: &str = "instant-acme";

/// The tests that do not pass, and why.
const NOT_PASSED: &str = include_str!("not_passed.txt");

/// How many tests there are in the version that this was written for. A later one may have more.
const AT_LEAST: usize = 14;

#[test]
fn instant_acmes_tests_of_pebble_pass_against_acme_proxy() {
    let place = target_directory().join("suite");
    let package = place.join(PACKAGE);
    copy(&source(), &package);
    let said = run(&package, &place.join("tmp"));
    let outcomes = outcomes(&said);
    let reasons = reasons();
    assert!(outcomes.len() >= AT_LEAST, "tests are missing\n{said}");
    for (test, passed) in &outcomes {
        match reasons.get(test) {
            None => assert!(passed, "{test} has not passed\n{said}"),
            Some(reason) => assert!(!passed, "{test} passes now, and is listed still: {reason}"),
        }
    }
    for test in reasons.keys() {
        assert!(outcomes.contains_key(test), "{test} is listed, and there is none");
    }
}

/// Where cargo has put the package. It is one of our own dependencies.
fn source() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    let package = packages.find(|package| package["name"] == PACKAGE).unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().to_owned()
}

/// The program under test is in its `debug`.
fn target_directory() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_acme-proxy")).parent();
    profile.and_then(Path::parent).unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir_all(to).unwrap();
    let mut cp = Command::new("cp");
    let copied = cp.arg("--archive").arg(from.join(".")).arg(to).status();
    assert!(copied.unwrap().success());
}

/// Runs the tests. Their own files and those of the programs that they start stay in a directory until the next run.
fn run(package: &Path, temporary: &Path) -> String {
    if temporary.exists() {
        std::fs::remove_dir_all(temporary).unwrap();
    }
    std::fs::create_dir_all(temporary).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_acme-proxy")).with_file_name("examples");
    let front = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pebble_front");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--features=x509-parser,time", "--test=pebble"]);
    cargo.args(["--", "--ignored", "--color=never"]);
    cargo.current_dir(package);
    // Those of this test's own package.
    for (variable, _) in std::env::vars() {
        if variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(variable);
        }
    }
    cargo
        .env("CARGO_TARGET_DIR", target_directory())
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env("TMPDIR", temporary)
        .env("PEBBLE", programs.join("pebble_front"))
        .env("CHALLTESTSRV", front.join("challtestsrv.sh"))
        .env("CA_ROOT", package.join("tests/testdata/ca.pem"))
        .env("RUST_BACKTRACE", "0");
    let output = cargo.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Whether each test has passed, by the list that stands at the end if one has not. The line of a test may be
/// interrupted by what the programs say that it starts, so that only its name is taken from there.
fn outcomes(said: &str) -> BTreeMap<String, bool> {
    let list = said.rsplit_once("\nfailures:\n").map_or("", |(_, list)| list);
    let failed: Vec<&str> = list.lines().map_while(|line| line.strip_prefix("    ")).collect();
    let tests = said.lines().filter_map(|line| {
        let (test, _) = line.strip_prefix("test ")?.split_once(" ... ")?;
        Some((test.to_owned(), !failed.contains(&test)))
    });
    tests.collect()
}

fn reasons() -> BTreeMap<String, String> {
    let entries = NOT_PASSED.lines().filter(|line| !line.starts_with('#'));
    let entries = entries.map(|line| line.split_once(": ").expect("NAME: REASON"));
    entries
        .map(|(test, reason)| (test.to_owned(), reason.to_owned()))
        .collect()
}
