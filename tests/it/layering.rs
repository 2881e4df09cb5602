//! The modules of `src/` form a strict order (docs/ARCHITECTURE.md). This reads the sources and names every line that
//! breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom up: a module, and those of ours that it may name.
const LAYERS: [(&str, &str); 15] = [
    ("clock", ""),
    ("jose", ""),
    ("metrics", ""),
    ("tls", ""),
    ("acme", "jose"),
    ("policy", "acme"),
    ("store", "acme jose"),
    ("validate", "acme"),
    ("upstream", "acme clock"),
    ("ra", "acme clock jose policy store"),
    ("worker", "acme clock metrics store tls upstream validate"),
    ("server", "acme clock jose metrics ra tls"),
    ("config", "acme policy server store upstream validate worker"),
    (
        "app",
        "acme clock config jose metrics policy ra server store tls upstream validate worker",
    ),
    ("cli", "app config"),
];

/// What decides nothing but by its arguments (HABITS 3), and what it therefore never says.
const PURE: [&str; 3] = ["jose", "acme", "policy"];
const IMPURE: [&str; 11] = [
    "async ",
    ".await",
    "tokio",
    "axum",
    "hyper",
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "ToSocketAddrs",
    "tracing",
    "metrics",
];

/// A line of code, comments left out.
struct Line {
    module: String,
    place: String,
    code: String,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every line of every module; `lib.rs` and `main.rs` belong to none.
fn lines() -> Vec<Line> {
    let mut files = Vec::new();
    files_below(&source(), &mut files);
    let mut lines = Vec::new();
    for file in files {
        let relative = file.strip_prefix(source()).unwrap().display().to_string();
        let module = relative.split(['/', '.']).next().unwrap().to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        for (number, text) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = text.split("//").next().unwrap();
            lines.push(Line {
                module: module.clone(),
                place: format!("src/{relative}:{}", number + 1),
                code: code.to_owned(),
            });
        }
    }
    lines
}

/// What stands behind each `crate::` of the code.
fn named(code: &str) -> impl Iterator<Item = &str> {
    let end = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    let behind = code.split("crate::").skip(1);
    behind.map(move |rest| &rest[..end(rest).unwrap_or(rest.len())])
}

fn may_name(module: &str) -> Vec<&'static str> {
    let row = LAYERS.iter().find(|(name, _)| *name == module);
    let (_, below) = row.unwrap_or_else(|| panic!("src/{module} has no place among the layers"));
    below.split_whitespace().collect()
}

#[test]
fn a_module_names_only_modules_of_the_layers_below_it() {
    let mut breaches = Vec::new();
    for Line { module, place, code } in lines() {
        let allowed = may_name(&module);
        for other in named(&code).filter(|other| *other != module) {
            if other.is_empty() {
                breaches.push(format!(
                    "{place}: one `use crate::module::...` a line, without braces"
                ));
            } else if !allowed.contains(&other) {
                breaches.push(format!("{place}: {module} may not name {other}"));
            }
        }
        if code.contains("super::") && !code.contains("use super::*") {
            breaches.push(format!("{place}: name modules in full, from `crate::` on"));
        }
    }
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn the_layers_are_a_strict_order_of_exactly_the_modules_that_there_are() {
    for (rank, (module, _)) in LAYERS.iter().enumerate() {
        for below in may_name(module) {
            let lower = LAYERS.iter().position(|(name, _)| *name == below);
            assert!(
                lower.is_some_and(|lower| lower < rank),
                "{module} reaches up to {below}"
            );
        }
    }
    let map = fs::read_to_string(source().join("lib.rs")).unwrap();
    let mut on_the_map: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let mut in_the_table: Vec<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    on_the_map.sort_unstable();
    in_the_table.sort_unstable();
    assert_eq!(on_the_map, in_the_table);
}

#[test]
fn the_rules_know_no_input_no_output_no_clock_and_no_log() {
    let impure = |line: &Line| IMPURE.iter().any(|word| line.code.contains(word));
    let pure_module = |line: &Line| PURE.contains(&line.module.as_str());
    let breaches = lines()
        .into_iter()
        .filter(|line| pure_module(line) && impure(line));
    let breaches: Vec<String> = breaches
        .map(|line| format!("{}: {}", line.place, line.code))
        .collect();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn the_map_and_the_entrance_stay_short() {
    for (file, most) in [("lib.rs", 100), ("main.rs", 40)] {
        let lines = fs::read_to_string(source().join(file)).unwrap().lines().count();
        assert!(lines < most, "src/{file} has {lines} lines");
    }
}
