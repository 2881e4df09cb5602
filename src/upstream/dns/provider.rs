//! Who keeps the zone: what acme-proxy wants of a DNS provider.
//!
//! A provider changes one value of one name and leaves every other value alone: a wildcard and its base name, or two
//! orders, have their values under one name, and the zone's owner may have some there, too.

use std::fmt;

use async_trait::async_trait;

use crate::upstream::dns::Record;
use crate::upstream::dns::web::Web;

/// What is to become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is to be there. If it is there already, all is well.
    Present,
    /// It is to be gone. If it is gone already, all is well.
    Withdraw,
}

impl Action {
    /// The values that a name is to have when it has these; `None`: nothing is to be done.
    pub fn on(self, mut values: Vec<String>, value: &str) -> Option<Vec<String>> {
        let is_there = values.iter().any(|known| known == value);
        match (self, is_there) {
            (Self::Present, true) | (Self::Withdraw, false) => None,
            (Self::Present, false) => {
                values.push(value.to_owned());
                Some(values)
            }
            (Self::Withdraw, true) => {
                values.retain(|known| known != value);
                Some(values)
            }
        }
    }
}

/// A DNS provider. It may be called again after any failure, and is called once at a time for a name.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// Makes it so, for this value of this name and no other.
    ///
    /// # Errors
    ///
    /// What went wrong, for the log.
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String>;

    /// Whether changes of different names have to wait for each other, too.
    fn is_sequential(&self) -> bool {
        false
    }
}

/// The names that a zone of this name could have, the longest first, without a final dot. A top-level domain is nobody's
/// zone.
pub fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    let whole = Some(name.trim_end_matches('.'));
    let names = std::iter::successors(whole, |name| name.split_once('.').map(|(_, parent)| parent));
    names.filter(|name| name.contains('.'))
}

/// The name within its zone; empty for the zone's own, and whole if it is in another one.
pub fn within<'n>(name: &'n str, zone: &str) -> &'n str {
    let (name, zone) = (name.trim_end_matches('.'), zone.trim_end_matches('.'));
    let split = name.len().checked_sub(zone.len());
    match split.and_then(|split| name.split_at_checked(split)) {
        Some(("", end)) if end.eq_ignore_ascii_case(zone) => "",
        Some((inner, end)) if end.eq_ignore_ascii_case(zone) => inner.strip_suffix('.').unwrap_or(name),
        Some(_) | None => name,
    }
}

/// The value as zone files and most APIs write it. It is base64url, and needs no escapes.
pub fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_a_zone_could_have_end_above_the_top_level_domain() {
        let names: Vec<_> = ancestors("_acme-challenge.www.example.com.").collect();
        assert_eq!(
            names,
            [
                "_acme-challenge.www.example.com",
                "www.example.com",
                "example.com"
            ]
        );
        assert_eq!(ancestors("com.").count(), 0);
        assert_eq!(
            within("_acme-challenge.www.example.com.", "example.com"),
            "_acme-challenge.www"
        );
        assert_eq!(within("example.com.", "Example.com."), "");
        for elsewhere in ["www.example.com", "www.anexample.com", "com", ""] {
            assert_eq!(within(elsewhere, "nexample.com"), elsewhere);
        }
    }

    #[test]
    fn only_our_own_value_changes() {
        let values = || vec!["theirs".to_owned(), "ours".to_owned()];
        assert_eq!(Action::Present.on(values(), "ours"), None);
        assert_eq!(
            Action::Withdraw.on(values(), "ours"),
            Some(vec!["theirs".to_owned()])
        );
        assert_eq!(Action::Withdraw.on(values(), "gone"), None);
        assert_eq!(Action::Present.on(values(), "new").unwrap().len(), 3);
    }
}
