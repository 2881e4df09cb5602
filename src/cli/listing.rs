//! Lists, asked for part by part, and printed as the parts come.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::app::control::{Answer, Operator, Page, Part, Request};
use crate::cli::print;
use crate::config::GoDuration;

/// The most records to ask for at a time.
const AT_A_TIME: usize = 200;

/// How a list is printed.
#[derive(Args)]
pub(crate) struct Listing {
    /// Prints one JSON object a line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints so many at most [default: all]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<NonZeroUsize>,
}

impl Listing {
    /// Prints the list that the requests for its parts lead through.
    pub(crate) async fn print(
        &self,
        operator: &mut Operator,
        nothing: &str,
        request: impl Fn(Part) -> Request,
    ) -> anyhow::Result<()> {
        let mut left = self.limit.map_or(usize::MAX, NonZeroUsize::get);
        let mut is_first = true;
        let mut after = None;
        while left > 0 {
            let limit = left.min(AT_A_TIME);
            let page = asked(operator, request(Part { after, limit })).await?;
            let mut text = String::new();
            if is_first && !page.rows.is_empty() {
                is_first = false;
                if !page.header.is_empty() {
                    text = page.header + "\n";
                }
            }
            for row in &page.rows {
                text.push_str(&row.line);
                text.push('\n');
            }
            print(&text)?;
            left = left.saturating_sub(page.rows.len());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if is_first {
            // The standard output stays empty, for programs that read it.
            let _closed = writeln!(std::io::stderr(), "acme-proxy: {nothing}");
        }
        Ok(())
    }
}

/// One part of a list.
pub(crate) async fn asked(operator: &mut Operator, request: Request) -> anyhow::Result<Page> {
    match operator.ask(request).await? {
        Answer::Page(page) => Ok(page),
        Answer::Refused(why) => bail!(why),
        Answer::Done(_) | Answer::No(_) => {
            bail!("the daemon is of another version, and answers with no list")
        }
    }
}

/// A time to come: a Go duration, or whole days or weeks.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let days = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(days), _) => days.parse::<u64>().ok(),
        (None, Some(weeks)) => weeks.parse().ok().and_then(|weeks: u64| weeks.checked_mul(7)),
        (None, None) => None,
    };
    match (days.and_then(|days| days.checked_mul(24 * 3600)), text.parse()) {
        (Some(seconds), _) => Ok(Duration::from_secs(seconds)),
        (None, Ok(GoDuration(span))) => Ok(span),
        (None, Err(_)) => Err("write a time such as 30d, 2w or 72h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_come_is_days_weeks_or_a_go_duration() {
        let hours = |hours: u64| Ok(Duration::from_secs(hours * 3600));
        for (text, expected) in [
            ("30d", hours(720)),
            ("2w", hours(336)),
            ("72h", hours(72)),
            ("1h30m", Ok(Duration::from_secs(5400))),
        ] {
            assert_eq!(span(text), expected, "{text}");
        }
        for text in [
            "",
            "d",
            "30",
            "-1d",
            "1.5d",
            "99999999999999999999d",
            "9999999999999999999w",
            "soon",
        ] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
