//! Identities of stored objects (RFC 8555 §10.5: unguessable, one name space each).
//!
//! An order's id is 128 random bits. Its authorizations, challenges and certificate are named after it, so that any
//! of their URLs leads to the one record which holds them all.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::acme::challenge::ChallengeType;
use crate::acme::random::random_bytes;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed id")]
pub struct InvalidId;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A new id of 128 random bits.
            pub fn random() -> Self {
                Self(random_bytes())
            }

            /// The id's 16 bytes, for store keys.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The id with these 16 bytes, as [`Self::as_bytes`] gave them.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() != 32 || !text.bytes().all(lower_hex) {
                    return Err(InvalidId);
                }
                let number = u128::from_str_radix(text, 16).map_err(|_| InvalidId)?;
                Ok(Self(number.to_be_bytes()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id! {
    /// Names an account (RFC 8555 §7.1.2).
    AccountId
}

random_id! {
    /// Names an order (RFC 8555 §7.1.3), and the certificate that it leads to.
    OrderId
}

impl AccountId {
    /// The owner of the orders for the daemon's own certificate. No client account ever gets this id, and no account
    /// record exists under it.
    pub const DAEMON: Self = Self([0; 16]);
}

/// An account's id in the database of a step-ca that it comes from: 32 letters and digits, and no id of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForeignId(String);

impl ForeignId {
    /// The id that the account has here. Derived, so that the account's URL leads to its record without an index.
    pub fn account(&self) -> AccountId {
        let hash = digest::digest(&digest::SHA256, self.0.as_bytes());
        AccountId(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for ForeignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ForeignId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_ours = text.parse::<AccountId>().is_ok();
        match text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !is_ours {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidId),
        }
    }
}

impl TryFrom<String> for ForeignId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ForeignId> for String {
    fn from(id: ForeignId) -> Self {
        id.0
    }
}

/// What an account is called in its URLs: its id, or the one that it came with. One account has one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountName {
    /// It was made here.
    Ours(AccountId),
    /// It was imported.
    Foreign(ForeignId),
}

impl AccountName {
    /// The id of the account, if there is one of this name: another account may have the id, under another name.
    pub fn id(&self) -> AccountId {
        match self {
            Self::Ours(id) => *id,
            Self::Foreign(foreign) => foreign.account(),
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(id) => id.fmt(f),
            Self::Foreign(foreign) => foreign.fmt(f),
        }
    }
}

impl FromStr for AccountName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse() {
            Ok(id) => Ok(Self::Ours(id)),
            Err(InvalidId) => text.parse().map(Self::Foreign),
        }
    }
}

/// Names an authorization (RFC 8555 §7.1.4): its order, and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AuthorizationId {
    /// The order that the authorization belongs to.
    pub order: OrderId,
    /// Position among the order's authorizations, from 0.
    pub index: u16,
}

impl fmt::Display for AuthorizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.order, self.index)
    }
}

impl FromStr for AuthorizationId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (order, index) = text.split_once('-').ok_or(InvalidId)?;
        let id = Self {
            order: order.parse()?,
            index: index.parse().map_err(|_| InvalidId)?,
        };
        // One spelling only: `+1`, `01` and the like are other URLs, hence other resources.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(InvalidId)
        }
    }
}

/// Names a challenge (RFC 8555 §7.1.5): its authorization, and its type, of which an authorization offers one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChallengeId {
    /// The authorization that offers the challenge.
    pub authorization: AuthorizationId,
    /// Which of the offered challenges.
    pub kind: ChallengeType,
}

impl fmt::Display for ChallengeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.authorization, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_exactly_one_spelling() {
        let id = OrderId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        for wrong in [
            "",
            "abc",
            &id.to_string()
                .to_uppercase()
                .replace(|c: char| c.is_ascii_digit(), "A"),
            &format!("{id}0"),
            "+fffffffffffffffffffffffffffffff",
        ] {
            assert_eq!(wrong.parse::<OrderId>(), Err(InvalidId), "{wrong}");
        }
        let authorization = AuthorizationId { order: id, index: 7 };
        assert_eq!(authorization.to_string().parse(), Ok(authorization));
        for wrong in [
            format!("{id}-07"),
            format!("{id}-+7"),
            format!("{id}"),
            format!("{id}-70000"),
            format!("{id}-"),
        ] {
            assert_eq!(wrong.parse::<AuthorizationId>(), Err(InvalidId), "{wrong}");
        }
    }
    #[test]
    fn d18_an_imported_account_has_one_name_which_is_never_one_of_ours() {
        let foreign = "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vxo";
        let name: AccountName = foreign.parse().unwrap();
        assert_eq!(name.to_string(), foreign);
        assert_ne!(name, AccountName::Ours(name.id()));
        let ours: AccountName = name.id().to_string().parse().unwrap();
        assert_eq!(ours, AccountName::Ours(name.id()));
        for wrong in [
            "",
            "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vx",
            "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vxo1",
            "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vx/",
            "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3V%41",
            "äVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vx",
        ] {
            assert_eq!(wrong.parse::<AccountName>(), Err(InvalidId), "{wrong}");
        }
        let other: AccountName = foreign.to_lowercase().parse().unwrap();
        assert_ne!(other.id(), name.id());
    }
}
