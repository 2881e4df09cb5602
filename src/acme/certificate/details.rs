//! What operators want to know of a certificate, as it says so itself.

use crate::acme::certificate::{IssuedCertificate, parsed};
use crate::acme::problem::cleaned;

/// The longest name of an issuer, in characters.
const MAX_ISSUER: usize = 200;

/// What a certificate says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Its serial number, in lower-case hexadecimal, two digits a byte.
    pub serial: String,
    /// Who has signed it.
    pub issuer: String,
}

impl IssuedCertificate {
    /// What the leaf says; `None` if it can not be read any more.
    pub fn details(&self) -> Option<Details> {
        let leaf = parsed(&self.leaf).ok()?;
        Some(Details {
            serial: leaf
                .raw_serial()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            issuer: cleaned(&leaf.issuer().to_string(), MAX_ISSUER),
        })
    }
}
