//! `docs/RFC8555.md` has one row for each requirement, and names only files and tests that there are.

use crate::harness::documented::{self, quoted, root, tests_in, unshown};

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

fn rows() -> Vec<Row> {
    let is_id = |text: &str| {
        let number = text.get(1..).and_then(|number| number.parse::<usize>().ok());
        text.starts_with(|c: char| c.is_ascii_uppercase()) && number.is_some()
    };
    let rows = documented::rows("docs/RFC8555.md", is_id).into_iter();
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
    let mut faults = Vec::new();
    for Row { id, source, shown_by } in rows() {
        for file in quoted(&source) {
            if !root().join(file).is_file() {
                faults.push(format!("{id}: there is no {file}"));
            }
        }
        faults.extend(unshown(&id, &shown_by, &REASONS));
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
