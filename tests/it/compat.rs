//! What users of esnet/acme-proxy and of step-ca rely on (docs/COMPATIBILITY.md): each key of `ca.json`, with a value that
//! works and one that does not, the files that people have, and, in `routes`, each path.

mod keys;
mod routes;
mod samples;

use std::collections::BTreeSet;

use crate::harness::documented::{rows, unshown};

/// The tables of docs/COMPATIBILITY.md: a letter for each, and how many rows it has.
const TABLES: [(char, usize); 4] = [('K', 10), ('D', 19), ('J', 35), ('H', 25)];

/// What the last cell of a row begins with when no test can show it, because it is not so.
const REASONS: [&str; 2] = ["Not built: ", "By choice: "];

fn documented() -> Vec<Vec<String>> {
    let is_id = |text: &str| {
        let number = text.get(1..).and_then(|number| number.parse::<usize>().ok());
        number.is_some() && TABLES.iter().any(|(letter, _)| text.starts_with(*letter))
    };
    rows("docs/COMPATIBILITY.md", is_id)
}

/// The ids of a table's rows that the cases of a test are about must be all of them.
#[track_caller]
fn assert_covers<'a>(letter: char, ids: impl Iterator<Item = &'a str>) {
    let rows = documented();
    let expected: BTreeSet<&str> = rows
        .iter()
        .map(|row| row[0].as_str())
        .filter(|id| id.starts_with(letter))
        .collect();
    assert_eq!(ids.collect::<BTreeSet<_>>(), expected);
}

#[test]
fn each_point_has_exactly_one_row_in_order() {
    let expected = TABLES
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")));
    let found: Vec<String> = documented().into_iter().map(|mut row| row.remove(0)).collect();
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn a_row_names_tests_that_there_are_or_says_why_there_is_none() {
    let faults: Vec<String> = documented()
        .iter()
        .flat_map(|row| unshown(&row[0], row.last().unwrap(), &REASONS))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
