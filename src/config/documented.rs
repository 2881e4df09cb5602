//! Every key that is read has a row in docs/CONFIGURATION.md, and every row is about a key that is read.
//!
//! The first cell of a table's head is what its keys stand below, or `key` for the top level.

use std::collections::BTreeSet;

use crate::config::Overrides;
use crate::config::read;
use crate::config::reader::Findings;
use crate::config::reader::Section;
use crate::config::tree;

/// A file in which each list has one object: what is absent is asked for all the same.
const FILE: &str = r#"{
  "db": {},
  "authority": {
    "config": { "upstreams": [{}] },
    "provisioners": [{ "type": "ACME", "eabKeys": [{ "policy": { "per_name": [{}] } }] }]
  }
}"#;

/// `policy` stands in several places, and is documented once.
fn normal(path: &str) -> String {
    let path = path.replace("[0]", "[]");
    match path.split_once(".policy") {
        Some((_, below)) => format!("policy{below}"),
        None => path,
    }
}

fn asked() -> BTreeSet<String> {
    let findings = Findings::default();
    let document = tree::parse(FILE).unwrap();
    let root = document.root.as_ref();
    let config = Section::read_root(root, &findings, |root| read(root, &Overrides::default(), 0o600));
    assert!(config.is_err(), "the file has no value at all");
    findings
        .asked
        .into_inner()
        .iter()
        .map(|path| normal(path))
        .collect()
}

/// The whole path of each key in the first cells of the tables.
fn documented() -> BTreeSet<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
    let text = std::fs::read_to_string(file).unwrap();
    let first_cell = |line: &str| Some(line.strip_prefix("| ")?.split(" | ").next()?.to_owned());
    let mut below: Option<String> = None;
    let mut keys = BTreeSet::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_head = lines.peek().is_some_and(|next| next.starts_with("|---"));
        match first_cell(line) {
            Some(cell) if is_head => {
                let path = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
                below = match path.filter(|path| !path.contains('`')) {
                    Some(path) => Some(format!("{path}.")),
                    None if cell == "key" => Some(String::new()),
                    None => None,
                };
            }
            Some(cell) => {
                let quoted = cell.split('`').skip(1).step_by(2);
                keys.extend(
                    below
                        .iter()
                        .flat_map(|below| quoted.clone().map(move |key| format!("{below}{key}"))),
                );
            }
            None if line.starts_with("|---") => {}
            None => below = None,
        }
    }
    // Where `policy` may stand only points to where it is documented.
    keys.iter()
        .map(|path| normal(path))
        .filter(|path| path != "policy")
        .collect()
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with(['.', '[']))
}

#[test]
fn every_key_that_is_read_is_documented_and_every_documented_key_is_read() {
    let (asked, documented) = (asked(), documented());
    let has_row = |path: &&String| {
        documented.contains(*path)
            || documented
                .iter()
                .any(|row| is_below(path, row) || is_below(row, path))
    };
    let undocumented: Vec<&String> = asked.iter().filter(|path| !has_row(path)).collect();
    let unread: Vec<&String> = documented.difference(&asked).collect();
    assert!(undocumented.is_empty(), "no row for {undocumented:#?}");
    assert!(unread.is_empty(), "nobody reads {unread:#?}");
    assert!(asked.len() > 120, "{asked:#?}");
}
