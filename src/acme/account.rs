//! Accounts (RFC 8555 §7.1.2, §7.3): who asks for certificates, known by a public key.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::acme::external_account::Binding;
use crate::acme::id::{AccountId, AccountName, ForeignId};
use crate::acme::problem::{Problem, ProblemType};
use crate::jose::jwk::Jwk;

/// An account's stored facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    id: AccountId,
    provisioner: String,
    key: Jwk,
    contact: Vec<Contact>,
    #[serde(default)]
    terms_of_service_agreed: bool,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deactivated: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binding: Option<Box<Binding>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    foreign_id: Option<Box<ForeignId>>,
}

/// An account of a step-ca, as it is to go on here.
#[derive(Debug)]
pub struct Foreign {
    /// Its id there.
    pub id: ForeignId,
    /// The provisioner that it belongs to.
    pub provisioner: String,
    /// Its key.
    pub key: Jwk,
    /// Whom to write to.
    pub contact: Vec<Contact>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was deactivated, if it was.
    pub deactivated: Option<Timestamp>,
}

impl From<Foreign> for Account {
    fn from(foreign: Foreign) -> Self {
        Self {
            id: foreign.id.account(),
            provisioner: foreign.provisioner,
            key: foreign.key,
            contact: foreign.contact,
            // A step-ca does not write down whether its client agreed.
            terms_of_service_agreed: false,
            created: foreign.created,
            deactivated: foreign.deactivated,
            binding: None,
            foreign_id: Some(Box::new(foreign.id)),
        }
    }
}

/// RFC 8555 §7.1.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountStatus {
    /// May ask for certificates.
    Valid,
    /// Ended by its owner, for good.
    Deactivated,
}

impl fmt::Display for AccountStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Deactivated => "deactivated",
        })
    }
}

impl Account {
    /// A new, valid account of a provisioner.
    pub fn new(
        provisioner: String,
        key: Jwk,
        contact: Vec<Contact>,
        terms_of_service_agreed: bool,
        now: Timestamp,
    ) -> Self {
        Self {
            id: AccountId::random(),
            provisioner,
            key,
            contact,
            terms_of_service_agreed,
            created: now,
            deactivated: None,
            binding: None,
            foreign_id: None,
        }
    }

    /// The account, bound to an external account key (RFC 8555 §7.3.4).
    pub fn bound(self, binding: Binding) -> Self {
        Self {
            binding: Some(Box::new(binding)),
            ..self
        }
    }

    /// The account's id.
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// What the account is called in its URLs.
    pub fn name(&self) -> AccountName {
        match &self.foreign_id {
            Some(foreign) => AccountName::Foreign(foreign.as_ref().clone()),
            None => AccountName::Ours(self.id),
        }
    }

    /// The provisioner that the account was made under.
    pub fn provisioner(&self) -> &str {
        &self.provisioner
    }

    /// The public key that signs the account's requests.
    pub fn key(&self) -> &Jwk {
        &self.key
    }

    /// Whom to write to.
    pub fn contact(&self) -> &[Contact] {
        &self.contact
    }

    /// When the account was made.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// When the account was deactivated, if it was.
    pub fn deactivated_at(&self) -> Option<Timestamp> {
        self.deactivated
    }

    /// Whether the client agreed to the terms of service when it registered.
    pub fn terms_of_service_agreed(&self) -> bool {
        self.terms_of_service_agreed
    }

    /// How the account is bound to an external account key, if it is.
    pub fn binding(&self) -> Option<&Binding> {
        self.binding.as_deref()
    }

    /// Deactivated if its owner deactivated it, otherwise valid.
    pub fn status(&self) -> AccountStatus {
        match self.deactivated {
            Some(_) => AccountStatus::Deactivated,
            None => AccountStatus::Valid,
        }
    }

    /// The account with other contacts (RFC 8555 §7.3.2).
    pub fn with_contact(self, contact: Vec<Contact>) -> Self {
        Self { contact, ..self }
    }

    /// The account with another key (RFC 8555 §7.3.5).
    pub fn with_key(self, key: Jwk) -> Self {
        Self { key, ..self }
    }

    /// The account, ended for good (RFC 8555 §7.3.6).
    pub fn deactivated(self, now: Timestamp) -> Self {
        Self {
            deactivated: self.deactivated.or(Some(now)),
            ..self
        }
    }
}

/// A `mailto:` URL with exactly one address and no header fields (RFC 8555 §7.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Contact(String);

impl Contact {
    /// The most contacts that an account may have.
    pub const MAX: usize = 10;

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Contact {
    type Err = Problem;

    fn from_str(url: &str) -> Result<Self, Problem> {
        let invalid = |detail: &str| Problem::new(ProblemType::InvalidContact, detail);
        if url.len() > 254 {
            return Err(invalid("a contact URL is longer than 254 characters"));
        }
        let Some((scheme, address)) = url.split_once(':') else {
            return Err(invalid("a contact is no URL; write mailto:somebody@example.com"));
        };
        if !scheme.eq_ignore_ascii_case("mailto") {
            return Err(Problem::new(
                ProblemType::UnsupportedContact,
                "only mailto: contacts are supported",
            ));
        }
        // RFC 8555 §7.3: "The server MUST reject ... 'hfields' ... or more than one 'addr-spec'".
        let plain = |b: u8| {
            b.is_ascii_graphic()
                && !matches!(
                    b,
                    b'?' | b',' | b'%' | b'"' | b'<' | b'>' | b'\\' | b'(' | b')' | b';' | b':'
                )
        };
        if !address.bytes().all(plain) {
            return Err(invalid(
                "a mailto: contact must be one plain address, without header fields, lists or escapes",
            ));
        }
        match address.split_once('@') {
            Some((local, domain))
                if !local.is_empty() && domain.parse::<crate::acme::identifier::DnsName>().is_ok() =>
            {
                Ok(Self(url.to_owned()))
            }
            _ => Err(invalid(
                "a mailto: contact must be of the form mailto:somebody@example.com",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_there_were_bindings_and_imports_reads_as_an_account_of_ours_without_one() {
        let record = r#"{"id":"000102030405060708090a0b0c0d0e0f","provisioner":"acme","key":{"kty":"OKP","crv":"Ed25519","x":"eA"},
            "contact":[],"created":"2026-01-01T00:00:00Z"}"#;
        let account = serde_json::from_str::<Account>(record).unwrap();
        assert_eq!(account.binding(), None);
        assert_eq!(account.name(), AccountName::Ours(account.id()));
    }

    #[test]
    fn e7_c301_only_a_plain_mailto_address_is_a_contact() {
        assert!("mailto:ops@example.com".parse::<Contact>().is_ok());
        for wrong in [
            "mailto:",
            "mailto:a",
            "mailto:a@b",
            "mailto:a@example.com,b@example.com",
            "mailto:a@example.com?subject=x",
            "mailto:a%0d%0ab@example.com",
            "mailto:ä@example.com",
            "ops@example.com",
            "mailto:a@127.0.0.1",
        ] {
            let problem = wrong.parse::<Contact>().unwrap_err();
            assert_eq!(problem.kind, ProblemType::InvalidContact, "{wrong}");
        }
        for other in ["tel:+1555", "http://example.com"] {
            assert_eq!(
                other.parse::<Contact>().unwrap_err().kind,
                ProblemType::UnsupportedContact
            );
        }
    }
}
