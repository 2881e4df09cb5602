//! What the CA offers beyond RFC 8555, as its directory says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::acme::problem::cleaned;

/// More profiles than any CA has.
const MAX_PROFILES: usize = 32;

/// The longest name of a profile.
const MAX_NAME: usize = 64;

/// The longest description of a profile.
const MAX_DESCRIPTION: usize = 500;

/// What the CA offers. Nothing is assumed before it has said so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offers {
    /// The profiles of its certificates, by name, with their descriptions (draft-ietf-acme-profiles).
    pub profiles: BTreeMap<String, String>,
    /// Whether it says when to renew (RFC 9773).
    pub renewal_info: bool,
}

impl Offers {
    /// The offers of a directory. A profile whose name nobody could type is left out.
    pub fn of_directory(profiles: &BTreeMap<String, String>, renewal_info: bool) -> Self {
        let usable = |name: &str| {
            let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
            (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
        };
        let profiles = profiles.iter().filter(|(name, _)| usable(name));
        let described = |(name, text): (&String, &String)| (name.clone(), cleaned(text, MAX_DESCRIPTION));
        Self {
            profiles: profiles.take(MAX_PROFILES).map(described).collect(),
            renewal_info,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_with_names_that_nobody_could_type_are_left_out() {
        let long = "x".repeat(65);
        let names = ["tlsserver", "", "two words", "\u{1b}[31m", "naïve", &long];
        let profiles = names.map(|name| (name.to_owned(), "why\n".repeat(1000)));
        let offers = Offers::of_directory(&profiles.into(), true);
        assert_eq!(offers.profiles.keys().collect::<Vec<_>>(), ["tlsserver"]);
        let description = offers.profiles.values().next().unwrap();
        assert!(description.chars().count() <= 501 && !description.contains('\n'));
        let many = (0..1000).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(Offers::of_directory(&many, false).profiles.len(), 32);
    }
}
