//! What one level of the policy says, and which of its rules says so: made once, for the refusal that a client reads and
//! for `acme-proxy policy explain`, so that the two can not differ.

use std::fmt;

/// The word of one level: of the whole authority, of a provisioner, or of an external account key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the level admits what it is asked about.
    pub allowed: bool,
    /// Where the rule stands, e.g. `authority.policy.x509.deny.dns[2]`; or the rules, if none of them decides.
    pub place: String,
    /// What the rule is about, if it is about something: a pattern or a network.
    pub pattern: Option<String>,
    /// Why, in words for the client.
    pub why: &'static str,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allowed" } else { "refused" })?;
        write!(f, " by {}", self.place)?;
        match &self.pattern {
            Some(pattern) if self.allowed => write!(f, " {pattern:?}"),
            Some(pattern) => write!(f, " {pattern:?}: {}", self.why),
            None => write!(f, ": {}", self.why),
        }
    }
}

/// Looks for the first of the rules that a list has about something, and says where in the list it stands.
pub(crate) fn first_of<'a, T: fmt::Display>(
    list: &'a [T],
    key: &str,
    is_about: impl Fn(&T) -> bool,
) -> Option<(String, &'a T)> {
    let mut numbered = list.iter().enumerate();
    let (index, found) = numbered.find(|(_, rule)| is_about(rule))?;
    Some((format!("{key}[{index}]"), found))
}
