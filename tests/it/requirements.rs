//! `docs/RFC8555.md` has one row for each requirement, and names only files and tests that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The numbered requirements: a letter for each part of the protocol, and how many there are.
const PARTS: [(char, usize); 15] = [
    ('A', 13),
    ('B', 5),
    ('C', 9),
    ('D', 23),
    ('E', 14),
    ('F', 6),
    ('G', 6),
    ('H', 18),
    ('I', 7),
    ('J', 8),
    ('K', 13),
    ('L', 4),
    ('M', 6),
    ('N', 5),
    ('O', 4),
];

/// What the last cell of a row begins with when no test can show the requirement, because it is not met.
const REASONS: [&str; 2] = ["Not built: ", "By choice: "];

struct Row {
    id: String,
    source: String,
    shown_by: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/RFC8555.md")).unwrap();
    let cells = |line: &str| -> Option<Vec<String>> {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(line.split(" | ").map(|cell| cell.trim().to_owned()).collect())
    };
    let is_id = |text: &str| {
        let number = text.get(1..).and_then(|number| number.parse::<usize>().ok());
        text.starts_with(|c: char| c.is_ascii_uppercase()) && number.is_some()
    };
    let rows = text.lines().filter_map(cells).filter(|cells| is_id(&cells[0]));
    rows.map(|cells| {
        assert_eq!(
            cells.len(),
            5,
            "{}: id, level, requirement, source, shown by",
            cells[0]
        );
        Row {
            id: cells[0].clone(),
            source: cells[3].clone(),
            shown_by: cells[4].clone(),
        }
    })
    .collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The names of the tests in a file: functions right below a test attribute.
fn tests_in(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(file)).unwrap_or_else(|_| panic!("there is no {file}"));
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        let name = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
        match name {
            Some((name, _)) if is_test => {
                tests.insert(name.to_owned());
                is_test = false;
            }
            Some(_) | None if line.starts_with("#[test]") || line.starts_with("#[tokio::test") => {
                is_test = true
            }
            Some(_) | None if line.starts_with("#[ignore") => is_test = false,
            Some(_) | None => {}
        }
    }
    tests
}

#[test]
fn each_requirement_has_exactly_one_row_in_order() {
    let expected: Vec<String> = PARTS
        .iter()
        .flat_map(|(part, count)| (1..=*count).map(move |number| format!("{part}{number}")))
        .collect();
    assert_eq!(expected.len(), 141);
    let found: Vec<String> = rows().into_iter().map(|row| row.id).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_row_names_files_and_tests_that_there_are_or_says_why_there_is_none() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut faults = Vec::new();
    for Row { id, source, shown_by } in rows() {
        for file in quoted(&source) {
            if !root().join(file).is_file() {
                faults.push(format!("{id}: there is no {file}"));
            }
        }
        let mut file = None;
        let mut tests = 0;
        for word in quoted(&shown_by) {
            if word.ends_with(".rs") {
                known.entry(word.to_owned()).or_insert_with(|| tests_in(word));
                file = Some(word);
                continue;
            }
            match file.and_then(|file| known.get(file)) {
                Some(of_file) if of_file.contains(word) => tests += 1,
                Some(_) => faults.push(format!("{id}: {} has no test {word}", file.unwrap_or_default())),
                None => faults.push(format!("{id}: {word} stands behind no file")),
            }
        }
        let is_reason = REASONS.iter().any(|reason| shown_by.starts_with(reason));
        if tests == 0 && !is_reason {
            faults.push(format!("{id}: neither a test nor a reason"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_test_that_is_not_there_is_found_out() {
    let here = tests_in("tests/it/requirements.rs");
    assert!(here.contains("a_test_that_is_not_there_is_found_out"));
    assert!(
        !here.contains("rows"),
        "a function that is no test does not count"
    );
    assert!(!here.contains("a_test_of_another_file"));
}
