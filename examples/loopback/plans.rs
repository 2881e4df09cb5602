//! What PostgreSQL's module `auto_explain` has logged: statements, those within functions too, and what each reads.

use std::collections::{BTreeMap, BTreeSet};

/// Statements, and the nodes of their plans that read something, with the condition by which it is found.
pub(crate) type Plans = BTreeMap<String, BTreeSet<String>>;

/// The plans in this part of the log.
pub(crate) fn plans(log: &str) -> Plans {
    let mut plans = Plans::new();
    let mut statement = None;
    let mut reads: Vec<String> = Vec::new();
    let mut in_plan = false;
    for line in log.lines().chain([""]) {
        if let Some((_, begun)) = line.split_once("\tQuery Text: ") {
            statement = Some(begun.to_owned());
            in_plan = false;
        } else if line.starts_with('\t') {
            if let Some((node, _)) = line.split_once("  (cost=") {
                in_plan = true;
                let node = node.trim().trim_start_matches("->").trim();
                if node.contains(" Scan ") {
                    reads.push(node.to_owned());
                }
            } else if let (Some(read), true) = (reads.last_mut(), line.contains(" Cond: ")) {
                read.push_str(&format!(", {}", without_values(line.trim())));
            } else if let (Some(text), false) = (&mut statement, in_plan) {
                text.push_str(line);
            }
        } else if let Some(text) = statement.take() {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            plans.entry(text).or_default().extend(reads.drain(..));
        }
    }
    plans
}

/// Whether all of a table is read, or all of an index.
pub(crate) fn reads_through(read: &str) -> bool {
    let is_of_table = ["Seq", "Parallel", "Index", "Bitmap"]
        .iter()
        .any(|kind| read.starts_with(kind));
    is_of_table && !read.contains(" Cond: ")
}

fn without_values(condition: &str) -> String {
    let parts = condition.split('\'').enumerate();
    parts
        .map(|(place, part)| if place % 2 == 0 { part } else { "'...'" })
        .collect()
}
