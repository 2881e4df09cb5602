//! Tables in `docs/` whose rows name the tests that show them: read, and held against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The directory of the crate.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of a file's tables whose first cell is an id: their cells.
pub(crate) fn rows(file: &str, is_id: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let cells = |line: &str| -> Option<Vec<String>> {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(line.split(" | ").map(|cell| cell.trim().to_owned()).collect())
    };
    text.lines()
        .filter_map(cells)
        .filter(|cells| is_id(&cells[0]))
        .collect()
}

/// What stands between backticks.
pub(crate) fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The names of the tests in a file: functions right below a test attribute.
pub(crate) fn tests_in(file: &str) -> BTreeSet<String> {
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

/// What is wrong with a cell that names files, each with tests behind it; or begins with a reason why there is no test.
pub(crate) fn unshown(id: &str, shown_by: &str, reasons: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut file: Option<(&str, BTreeSet<String>)> = None;
    let mut tests = 0;
    for word in quoted(shown_by) {
        if word.ends_with(".rs") {
            file = Some((word, tests_in(word)));
            continue;
        }
        match &file {
            Some((_, of_file)) if of_file.contains(word) => tests += 1,
            Some((name, _)) => faults.push(format!("{id}: {name} has no test {word}")),
            None => faults.push(format!("{id}: {word} stands behind no file")),
        }
    }
    if tests == 0 && !reasons.iter().any(|reason| shown_by.starts_with(reason)) {
        faults.push(format!("{id}: neither a test nor a reason"));
    }
    faults
}
