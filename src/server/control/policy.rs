//! The operator's question to the policy: what would become of an order for this name, and which rules decide.

use std::fmt::Write as _;

use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;
use crate::ra::policy::{Count, Explanation, Level, Question};

/// Explains, and tells whether there would be an order.
pub(crate) async fn explain(
    ra: &RegistrationAuthority,
    question: Question,
) -> Result<(bool, String), KeyError> {
    let explanation = ra.explain(question).await?;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_explanation(&mut text, &explanation);
    Ok((explanation.refusal.is_none(), text))
}

fn write_explanation(out: &mut String, explained: &Explanation) -> std::fmt::Result {
    let name = &explained.name;
    match &explained.refusal {
        None => writeln!(out, "{name}: allowed")?,
        Some(problem) => {
            let (status, kind) = (problem.status, problem.kind.name());
            writeln!(
                out,
                "{name}: refused\n  answer: {status} {kind}: {}",
                problem.detail
            )?;
        }
    }
    writeln!(out, "  provisioner: {}", explained.provisioner)?;
    match (&explained.account, &explained.key) {
        (None, None) => {}
        (Some(account), None) => writeln!(out, "  account: {account}")?,
        (Some(account), Some(kid)) => writeln!(out, "  account: {account}, by external account key {kid}")?,
        (None, Some(kid)) => writeln!(out, "  account: a new one, by external account key {kid}")?,
    }
    for level in &explained.levels {
        write_level(out, level)?;
    }
    if let Some((challenges, upstream)) = &explained.way {
        let challenges: Vec<String> = challenges.iter().map(ToString::to_string).collect();
        writeln!(out, "  challenges: {}", challenges.join(", "))?;
        writeln!(out, "  upstream: {upstream}")?;
    }
    if let Some(longest) = &explained.longest {
        writeln!(out, "  days: at most {}, by {}", longest.days, longest.place)?;
    }
    for Count {
        rule,
        orders,
        free_at,
    } in &explained.counts
    {
        write!(out, "  orders: {orders} of {}, by {}", rule.quota, rule.place)?;
        match free_at {
            None => writeln!(out)?,
            Some(free_at) => writeln!(out, "; the next one at {free_at:.0}")?,
        }
    }
    Ok(())
}

fn write_level(out: &mut String, level: &Level) -> std::fmt::Result {
    let place = &level.place;
    match (&level.name, level.is_empty) {
        (_, true) => writeln!(out, "  {place}: no rules")?,
        (Some(decision), false) => writeln!(out, "  {place}: {decision}")?,
        // What is no name is refused before any rule is asked.
        (None, false) => {}
    }
    match &level.client {
        Some(decision) if !level.is_empty => writeln!(out, "  {place}, client: {decision}"),
        None if level.is_about_clients => writeln!(out, "  {place}, client: not asked; say --from ADDRESS"),
        Some(_) | None => Ok(()),
    }
}
