//! What a client may ask for beyond names: a validity (RFC 8555 §7.4) and a profile (draft-ietf-acme-profiles).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::acme::offers::Offers;
use crate::acme::problem::Problem;
use crate::acme::problem::ProblemType;
use crate::acme::problem::cleaned;

/// The rules. The default takes every profile of the CA's, and no validity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WishRules {
    /// The profiles that clients may ask for; all of the CA's if there is no such list.
    pub profiles: Option<Vec<String>>,
    /// Whether the CA takes `notBefore` and `notAfter`.
    pub validity: bool,
}

impl WishRules {
    /// The profiles that clients are offered: those of the CA's that the operator allows.
    pub fn profiles(&self, of_ca: Offers) -> BTreeMap<String, String> {
        let mut profiles = of_ca.profiles;
        if let Some(allowed) = &self.profiles {
            profiles.retain(|name, _| allowed.contains(name));
        }
        profiles
    }

    /// Whether the profile can be asked for.
    ///
    /// # Errors
    ///
    /// `invalidProfile`.
    pub fn profile(&self, asked: Option<&str>, of_ca: Offers) -> Result<(), Problem> {
        let offered = self.profiles(of_ca);
        let Some(asked) = asked.filter(|asked| !offered.contains_key(*asked)) else {
            return Ok(());
        };
        let names: Vec<&str> = offered.keys().map(String::as_str).collect();
        let instead = match names.is_empty() {
            true => "leave the field out".to_owned(),
            false => format!("choose one of: {}", names.join(", ")),
        };
        let detail = format!("there is no profile {:?} here; {instead}", cleaned(asked, 64));
        Err(Problem::new(ProblemType::InvalidProfile, detail))
    }

    /// Whether the validity can be asked for.
    ///
    /// # Errors
    ///
    /// RFC 8555 §7.4: the server "MUST NOT issue a certificate" with another validity than the one asked for. The CA
    /// decides on it, so unless the CA takes it, none can be promised.
    pub fn validity(
        &self,
        not_before: Option<Timestamp>,
        not_after: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let detail = match (not_before, not_after) {
            (None, None) => return Ok(()),
            _ if !self.validity => "notBefore and notAfter can not be chosen here; leave them out",
            (_, Some(end)) if end <= now => "notAfter is over already",
            (Some(start), Some(end)) if end <= start => "notAfter is not after notBefore",
            _ => return Ok(()),
        };
        Err(Problem::malformed(detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(names: &[&str]) -> Offers {
        let profile = |name: &&str| ((*name).to_owned(), "what it is".to_owned());
        Offers {
            profiles: names.iter().map(profile).collect(),
            renewal_info: false,
        }
    }

    #[test]
    fn h11_what_is_offered_is_what_the_ca_has_and_the_operator_allows() {
        let ca = || offers(&["classic", "shortlived", "tlsserver"]);
        let names = |rules: &WishRules| rules.profiles(ca()).into_keys().collect::<Vec<_>>();
        assert_eq!(
            names(&WishRules::default()),
            ["classic", "shortlived", "tlsserver"]
        );
        let rules = WishRules {
            profiles: Some(vec!["tlsserver".to_owned(), "unheard-of".to_owned()]),
            validity: false,
        };
        assert_eq!(names(&rules), ["tlsserver"]);
        let asked = |name: Option<&str>| rules.profile(name, ca());
        assert_eq!((asked(Some("tlsserver")), asked(None)), (Ok(()), Ok(())));
        for refused in ["classic", "unheard-of", "", "\u{1b}[31m"] {
            let problem = asked(Some(refused)).unwrap_err();
            assert_eq!(problem.kind, ProblemType::InvalidProfile, "{refused}");
            assert!(problem.detail.ends_with("choose one of: tlsserver"), "{problem}");
        }
        let nowhere = WishRules::default().profile(Some("classic"), offers(&[]));
        assert!(nowhere.unwrap_err().detail.ends_with("leave the field out"));
    }

    #[test]
    fn h10_a_validity_is_refused_unless_the_ca_takes_it_and_it_makes_sense() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let now = Timestamp::from_second(1000).unwrap();
        let taking = WishRules {
            validity: true,
            ..WishRules::default()
        };
        assert_eq!(WishRules::default().validity(None, None, now), Ok(()));
        assert!(WishRules::default().validity(None, at(2000), now).is_err());
        assert!(WishRules::default().validity(at(1000), None, now).is_err());
        assert_eq!(taking.validity(at(900), at(2000), now), Ok(()));
        assert_eq!(taking.validity(None, at(2000), now), Ok(()));
        assert!(taking.validity(None, at(1000), now).is_err());
        assert!(taking.validity(at(2000), at(2000), now).is_err());
        assert!(taking.validity(at(3000), at(2000), now).is_err());
    }
}
