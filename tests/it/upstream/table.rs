//! `docs/UPSTREAM.md` has one row for each rule and each fault, and names only tests that there are.

use crate::harness::documented;
use crate::harness::documented::unshown;

/// What a cell says that names no test yet.
const REASONS: [&str; 2] = ["Not yet: ", "By choice: "];

/// The rules of the upstream side, the faults of the CA, and the answers of a hostile one, in the order of the tables.
fn expected() -> Vec<String> {
    let rules = (1..=8).map(|number| format!("Rule {number}"));
    let faults = (1..=19).chain([32]).chain(47..=50);
    let faults = faults.map(|number| format!("F{number}"));
    let answers = (1101..=1108).map(|number| format!("C{number}"));
    rules.chain(faults).chain(answers).collect()
}

fn rows() -> Vec<Vec<String>> {
    let expected = expected();
    documented::rows("docs/UPSTREAM.md", |id| expected.iter().any(|known| known == id))
}

#[test]
fn each_rule_and_fault_has_exactly_one_row_in_order() {
    let found: Vec<String> = rows().iter().map(|cells| cells[0].clone()).collect();
    assert_eq!(found, expected());
}

#[test]
fn a_row_names_tests_that_there_are_or_says_what_is_missing() {
    let mut faults = Vec::new();
    for cells in rows() {
        let id = &cells[0];
        match cells.as_slice() {
            [_, _, shown_by] => faults.extend(unshown(id, shown_by, &REASONS)),
            _ => faults.push(format!("{id}: id, what happens, shown by")),
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
