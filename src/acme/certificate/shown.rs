//! What people want to read of a certificate.

use jiff::Timestamp;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{X509Certificate, X509Name};

use crate::acme::certificate::{IssuedCertificate, names_of, parsed};
use crate::acme::problem::cleaned;

/// The longest name, in characters.
const MAX_NAME: usize = 200;

/// A chain's first certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its serial number, decimal.
    pub serial: String,
    /// The same in lower-case hexadecimal, two digits a byte.
    pub serial_hex: String,
    /// Its common name; may be empty.
    pub subject: String,
    /// The common name of who has issued it.
    pub issuer: String,
    /// The whole name of who has issued it.
    pub issuer_name: String,
    /// The names that it is for, with a space between two.
    pub names: String,
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last moment of its validity.
    pub not_after: Timestamp,
}

impl Leaf {
    /// The first certificate of a PEM chain, if it can be read.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
        Self::of(&pem.parse_x509().ok()?)
    }

    fn of(certificate: &X509Certificate<'_>) -> Option<Self> {
        let common_name = |name: &X509Name<'_>| {
            let common_name = name.iter_common_name().next();
            let common_name = common_name.and_then(|attribute| attribute.as_str().ok());
            cleaned(common_name.unwrap_or_default(), MAX_NAME)
        };
        let names: Vec<String> = names_of(certificate)
            .ok()?
            .iter()
            .map(ToString::to_string)
            .collect();
        let validity = certificate.validity();
        Some(Self {
            serial: certificate.tbs_certificate.serial.to_string(),
            serial_hex: certificate
                .raw_serial()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            subject: common_name(certificate.subject()),
            issuer: common_name(certificate.issuer()),
            issuer_name: cleaned(&certificate.issuer().to_string(), MAX_NAME),
            names: names.join(" "),
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    }
}

impl IssuedCertificate {
    /// The leaf, for people; `None` if it can not be read any more.
    pub fn shown(&self) -> Option<Leaf> {
        Leaf::of(&parsed(&self.leaf).ok()?)
    }
}
