//! What an order remembers of what has happened to it.

use super::*;
use crate::acme::order::history::StepKind;

const NAMES: [&str; 1] = ["a.example.com"];

fn kinds(order: &Order) -> Vec<StepKind> {
    order.steps().iter().map(|step| step.kind).collect()
}

#[test]
fn each_step_is_noted_with_its_time_and_its_error() {
    let order = order(&NAMES);
    let id = challenge(&order, 0);
    let order = accepted(order, id);
    let order = settled(order, id, 0, Verdict::TryAgain(dns_problem()));
    let order = settled(order, id, 1, Verdict::Proved);
    let order = finalized(order, &NAMES).failed(Problem::internal(), at(9));
    assert_eq!(
        kinds(&order),
        [
            StepKind::Answered,
            StepKind::AttemptFailed,
            StepKind::Validated,
            StepKind::Finalized,
            StepKind::Failed
        ]
    );
    let steps = order.steps();
    assert_eq!(steps[0].about, "http-01 of a.example.com");
    assert_eq!((steps[0].at, steps[1].at), (at(1), at(2)));
    let expected = format!("http-01 of a.example.com: {}", dns_problem());
    assert_eq!(steps[1].about, expected);
    assert_eq!(steps[4].about, Problem::internal().to_string());
    let again = order.clone().failed(Problem::internal(), at(10));
    assert_eq!(again, order, "what does not happen is no step");
}

#[test]
fn the_same_fault_several_times_in_a_row_is_one_step_that_counts() {
    let mut order = finalized(ready(&NAMES), &NAMES);
    for second in 10..15 {
        order = order.noting(StepKind::CaFailed, "503", at(second));
    }
    order = order.noting(StepKind::CaFailed, "no answer", at(15));
    let faults: Vec<_> = order
        .steps()
        .iter()
        .filter(|step| step.kind == StepKind::CaFailed)
        .map(|step| (step.about.as_str(), step.at, step.times, step.last))
        .collect();
    assert_eq!(
        faults,
        [("503", at(10), 5, Some(at(14))), ("no answer", at(15), 1, None)]
    );
}

#[test]
fn an_order_whose_ca_fails_for_ever_stays_small_and_forgets_the_oldest_faults_first() {
    let mut order = finalized(ready(&NAMES), &NAMES);
    let long = "x".repeat(5000);
    for second in 0..1000 {
        order = order.noting(StepKind::CaFailed, &format!("{second} \u{1b}{long}"), at(second));
    }
    let kept = order.steps();
    assert_eq!((kept.len(), order.forgotten_steps()), (32, 971));
    assert_eq!(
        kinds(&order)[..3],
        [StepKind::Answered, StepKind::Validated, StepKind::Finalized]
    );
    assert!(kept[31].about.starts_with("999 ?x") && kept[3].about.starts_with("971 "));
    let bytes = serde_json::to_vec(kept).unwrap().len();
    assert!(bytes < 10_000, "{bytes}");
}

#[test]
fn of_an_order_of_100_names_the_faults_of_validation_are_kept() {
    let names: Vec<String> = (0..100).map(|n| format!("h{n}.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut order = order(&names);
    for index in 0..100 {
        let id = challenge(&order, index);
        order = accepted(order, id);
        let mut attempt = 0;
        if index % 20 == 0 {
            order = settled(order, id, 0, Verdict::TryAgain(dns_problem()));
            attempt = 1;
        }
        order = settled(order, id, attempt, Verdict::Proved);
    }
    let order = finalized(order, &names);
    let faults = kinds(&order);
    let faults = faults.iter().filter(|kind| **kind == StepKind::AttemptFailed);
    assert_eq!(faults.count(), 5);
    assert_eq!((order.steps().len(), order.forgotten_steps()), (32, 206 - 32));
    assert_eq!(kinds(&order).last(), Some(&StepKind::Finalized));
    let written = serde_json::to_value(&order).unwrap();
    assert_eq!(serde_json::from_value::<Order>(written).unwrap(), order);
}

#[test]
fn a_record_of_before_there_were_steps_can_be_read_and_goes_on_with_them() {
    let order = ready(&NAMES);
    let mut written = serde_json::to_value(&order).unwrap();
    written.as_object_mut().unwrap().remove("steps").unwrap();
    let read: Order = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(read.steps(), []);
    assert_eq!(serde_json::to_value(&read).unwrap(), written, "written as it was");
    let finalized = finalized(read, &NAMES);
    assert_eq!(kinds(&finalized), [StepKind::Finalized]);
    let written = serde_json::to_value(&finalized).unwrap();
    assert_eq!(
        written["steps"],
        serde_json::json!([{ "at": finalized.steps()[0].at, "kind": "finalized" }])
    );
    assert_eq!(serde_json::from_value::<Order>(written).unwrap(), finalized);
}
