//! What operators look through: certificates, orders and accounts, found by what is known of them.
//!
//! A list is given a part at a time, and each part looks at a bounded number of records: no question, however seldom its
//! answers are, keeps the server from its clients.

pub mod accounts;
pub mod certificates;
pub mod orders;

use serde::{Deserialize, Serialize};

use crate::acme::id::{AccountId, AccountName, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::order::Order;
use crate::ra::RegistrationAuthority;
use crate::ra::external_account::KeyError;

/// How many records are looked at for one part of a list.
const SCANNED: usize = 1000;

/// The most records that one part of a list has.
const LONGEST: usize = 200;

/// How many records are looked at before others get their turn.
const AT_A_STRETCH: usize = 32;

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where the part before has ended ([`Found::next`]).
    pub after: Option<String>,
    /// The most records that are wanted.
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug)]
pub struct Found<T> {
    /// The records; there may be none although some follow.
    pub records: Vec<T>,
    /// Where the list goes on, if it does.
    pub next: Option<String>,
}

impl RegistrationAuthority {
    /// The orders of a part that are wanted, by their ids.
    async fn look_through_orders(
        &self,
        account: Option<AccountId>,
        part: &Part,
        is_wanted: impl Fn(&Order) -> bool + Send,
    ) -> Result<Found<Order>, KeyError> {
        let after: Option<OrderId> = part.after.as_deref().map(parsed).transpose()?;
        let ids = match account {
            Some(account) => self.store.orders_of(account, after, SCANNED).await?,
            None => self.store.all_orders(after, SCANNED).await?,
        };
        let mut walk = Walk::new(part, ids.len());
        let mut records = Vec::new();
        for id in ids {
            if walk.is_over(records.len(), id).await {
                break;
            }
            if let Some(order) = self.store.order(id).await?
                && is_wanted(&order.value)
            {
                records.push(order.value);
            }
        }
        Ok(walk.found(records))
    }
}

/// A walk through the ids of a part.
struct Walk<I> {
    limit: usize,
    /// There may be records after the last one of the walk.
    goes_on: bool,
    looked_at: usize,
    last: Option<I>,
}

impl<I: ToString> Walk<I> {
    fn new(part: &Part, ids: usize) -> Self {
        Self {
            limit: part.limit.min(LONGEST),
            goes_on: ids >= SCANNED,
            looked_at: 0,
            last: None,
        }
    }

    /// Whether the part has all that it may have, before this record is looked at.
    async fn is_over(&mut self, found: usize, id: I) -> bool {
        if found >= self.limit {
            self.goes_on = true;
            return true;
        }
        self.looked_at = self.looked_at.saturating_add(1);
        if self.looked_at.is_multiple_of(AT_A_STRETCH) {
            tokio::task::yield_now().await;
        }
        self.last = Some(id);
        false
    }

    fn found<T>(self, records: Vec<T>) -> Found<T> {
        let next = self.last.filter(|_| self.goes_on).map(|last| last.to_string());
        Found { records, next }
    }
}

/// An id as a person has written it.
fn parsed<I: std::str::FromStr>(text: &str) -> Result<I, KeyError> {
    text.parse().map_err(|_| {
        KeyError::Refused(format!(
            "{text:?} is no id: write the 32 hexadecimal digits that the list shows"
        ))
    })
}

/// The name of the account that a person means: it stands at the end of its URL, too.
pub(crate) fn account_named(text: &str) -> Result<AccountName, KeyError> {
    let name = text.rsplit('/').next().unwrap_or(text);
    name.parse().map_err(|_| {
        KeyError::Refused(format!(
            "{text:?} is no account: write its id, which the list shows, or its URL"
        ))
    })
}

/// A name as a person has written it, to be looked for by [`has_name`].
fn name_to_find(text: &str) -> Result<&str, KeyError> {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    match !rest.is_empty() && rest.bytes().all(fits) {
        true => Ok(text),
        false => Err(KeyError::Refused(format!(
            "{text:?} is no name: write one such as www.example.com, *.example.com or 192.0.2.7"
        ))),
    }
}

/// Whether one of the names is this one, or, if it begins with `*`, ends in what follows; in any case.
fn has_name<'a>(names: impl IntoIterator<Item = &'a Identifier>, wanted: &str) -> bool {
    let wanted = wanted.to_ascii_lowercase();
    names.into_iter().any(|name| {
        let name = name.to_string();
        match wanted.strip_prefix('*') {
            Some(end) if end.starts_with('.') => name.ends_with(end),
            Some(_) | None => name == wanted,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_itself_and_by_a_pattern_of_its_end() {
        let names = [
            Identifier::dns("www.example.com").unwrap(),
            Identifier::dns("*.a.example.net").unwrap(),
            Identifier::ip("10.0.0.7").unwrap(),
        ];
        for wanted in [
            "www.example.com",
            "WWW.Example.com",
            "*.example.com",
            "*.com",
            "*.a.example.net",
            "*.example.net",
            "10.0.0.7",
        ] {
            assert!(has_name(&names, wanted), "{wanted}");
            assert_eq!(name_to_find(wanted), Ok(wanted));
        }
        for wrong in [
            "",
            "*",
            "*.",
            "*ww.example.com",
            "two names",
            "https://a.example.com/",
        ] {
            assert!(name_to_find(wrong).is_err(), "{wrong}");
        }
        for wanted in [
            "example.com",
            "*ww.example.com",
            "*.www.example.com",
            "10.0.0.",
            "*",
            "",
        ] {
            assert!(!has_name(&names, wanted), "{wanted}");
        }
    }
}
