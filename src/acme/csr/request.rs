//! What a request asks for (RFC 2986 §4), read byte by byte: every list here says what is allowed, and anything else
//! is refused.

use std::collections::BTreeSet;

use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::oid_registry::{
    OID_PKCS1_RSAENCRYPTION, OID_PKCS9_CHALLENGE_PASSWORD, OID_PKCS9_EXTENSION_REQUEST, OID_X509_COMMON_NAME,
    OID_X509_COUNTRY_NAME, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, OID_X509_POSTAL_CODE,
    OID_X509_STATE_OR_PROVINCE_NAME, OID_X509_STREET_ADDRESS,
};

use crate::acme::csr::bad;
use crate::acme::csr::der::{
    BIT_STRING, BOOLEAN, IA5_STRING, NULL, NotDer, OCTET_STRING, PRINTABLE_STRING, Reader, SEQUENCE, SET,
    UTF8_STRING,
};
use crate::acme::identifier::Identifier;
use crate::acme::problem::Problem;

/// RFC 2986 §4.1: the attributes, `[0] IMPLICIT`.
const ATTRIBUTES: u8 = 0xa0;

/// RFC 5280 §4.2.1.6: `dNSName [2] IMPLICIT IA5String`.
const DNS_NAME: u8 = 0x82;

/// RFC 5280 §4.2.1.6: `iPAddress [7] IMPLICIT OCTET STRING`.
const IP_ADDRESS: u8 = 0x87;

/// The longest common name (RFC 5280, appendix A.1: ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// Microsoft's own attribute for extensions: a second place for names that the CA might read.
const MICROSOFT_EXTENSIONS: Oid<'static> = oid!(1.3.6.1.4.1.311.2.1.14);

/// `emailAddress` in a subject (RFC 2985 §5.2.1): an identity that nobody has validated.
const EMAIL_ADDRESS: Oid<'static> = oid!(1.2.840.113549.1.9.1);

/// RFC 7633, "must-staple": restricts the certificate, never widens it.
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);

/// The one feature there is: `status_request` (RFC 6066 §8).
const MUST_STAPLE: [u8; 5] = [SEQUENCE, 3, 2, 1, 5];

const SERVER_AUTH: Oid<'static> = oid!(1.3.6.1.5.5.7.3.1);
const CLIENT_AUTH: Oid<'static> = oid!(1.3.6.1.5.5.7.3.2);

/// What a subject may have beside its common name: where and what the applicant is, which CAs take from their own
/// records. None of it names a host.
const HARMLESS_IN_SUBJECT: [Oid<'static>; 7] = [
    OID_X509_COUNTRY_NAME,
    OID_X509_STATE_OR_PROVINCE_NAME,
    OID_X509_LOCALITY_NAME,
    OID_X509_STREET_ADDRESS,
    OID_X509_POSTAL_CODE,
    OID_X509_ORGANIZATION_NAME,
    OID_X509_ORGANIZATIONAL_UNIT,
];

/// Attributes that no CA makes a part of the certificate: `openssl req` asks for the first one, Windows' certreq adds
/// the others (its version, the program, the key store).
const HARMLESS_ATTRIBUTES: [Oid<'static>; 4] = [
    OID_PKCS9_CHALLENGE_PASSWORD,
    oid!(1.3.6.1.4.1.311.13.2.3),
    oid!(1.3.6.1.4.1.311.21.20),
    oid!(1.3.6.1.4.1.311.13.2.2),
];

/// Every name that the request asks for, wherever it stands.
///
/// # Errors
///
/// `badCSR` if a byte of the request is out of place, or it asks for something that is not allowed.
pub(crate) fn requested_names(der: &[u8]) -> Result<BTreeSet<Identifier>, Problem> {
    let mut outer = Reader::new(der);
    let mut request = Reader::new(outer.expect(SEQUENCE)?);
    outer.end()?;
    let mut info = Reader::new(request.expect(SEQUENCE)?);
    check_signature_algorithm(request.expect(SEQUENCE)?)?;
    request.bytes_as_bits()?;
    request.end()?;
    if info.natural()? != [0] {
        return Err(bad("the csr's version is not 0 (RFC 2986 §4.1)"));
    }
    let subject = info.expect(SEQUENCE)?;
    check_key(info.expect(SEQUENCE)?)?;
    let attributes = info.expect(ATTRIBUTES)?;
    info.end()?;
    let mut names: BTreeSet<Identifier> = common_name(subject)?.into_iter().collect();
    if let Some(extensions) = extension_request(attributes)? {
        collect_extensions(extensions, &mut names)?;
    }
    match names.is_empty() {
        true => Err(bad("the csr names no host")),
        false => Ok(names),
    }
}

/// The algorithm has no parameters but the NULL that RSA wants (RFC 4055 §5, RFC 5758 §3.2).
fn check_signature_algorithm(algorithm: &[u8]) -> Result<(), NotDer> {
    let mut algorithm = Reader::new(algorithm);
    algorithm.oid()?;
    if !algorithm.is_empty() {
        algorithm.element()?;
    }
    algorithm.end()
}

/// The key's encoding (RFC 3279 §2.3.1, RFC 5480 §2): what the CA copies must be what was looked at.
fn check_key(spki: &[u8]) -> Result<(), NotDer> {
    let mut spki = Reader::new(spki);
    let mut algorithm = Reader::new(spki.expect(SEQUENCE)?);
    let key = spki.bytes_as_bits()?;
    spki.end()?;
    if algorithm.oid()? != OID_PKCS1_RSAENCRYPTION {
        if !algorithm.is_empty() {
            algorithm.element()?;
        }
        return algorithm.end();
    }
    if !algorithm.expect(NULL)?.is_empty() {
        return Err(NotDer);
    }
    algorithm.end()?;
    let mut key = Reader::new(key);
    let mut numbers = Reader::new(key.expect(SEQUENCE)?);
    key.end()?;
    numbers.natural()?;
    numbers.natural()?;
    numbers.end()
}

/// The subject's one common name, if it has one.
fn common_name(subject: &[u8]) -> Result<Option<Identifier>, Problem> {
    let mut names = Reader::new(subject);
    let mut found = None;
    let mut common_names = 0;
    while !names.is_empty() {
        let mut attributes = Reader::new(names.expect(SET)?);
        while !attributes.is_empty() {
            let mut attribute = Reader::new(attributes.expect(SEQUENCE)?);
            let kind = attribute.oid()?;
            let (tag, value) = attribute.element()?;
            attribute.end()?;
            if kind == EMAIL_ADDRESS {
                return Err(bad("the csr's subject has an e-mail address"));
            }
            if kind == OID_X509_COMMON_NAME {
                common_names += 1;
                if common_names > 1 {
                    return Err(bad("the csr has more than one common name"));
                }
                found = host_in_common_name(tag, value)?;
            } else if !HARMLESS_IN_SUBJECT.contains(&kind) {
                return Err(bad(&format!(
                    "the csr's subject has the attribute {kind}, which is not allowed; a common name is enough"
                )));
            }
        }
    }
    Ok(found)
}

fn host_in_common_name(tag: u8, value: &[u8]) -> Result<Option<Identifier>, Problem> {
    let text = match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => str::from_utf8(value).ok(),
        _ => None,
    };
    let text =
        text.ok_or_else(|| bad("the csr's common name must be a UTF8String, PrintableString or IA5String"))?;
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > MAX_COMMON_NAME {
        return Err(bad(
            "the csr's common name is longer than 64 characters; leave it out, the subject alternative name is enough",
        ));
    }
    name("common name", text).map(Some)
}

/// The content of the one extensionRequest attribute's one value, if there is one (RFC 2985 §5.4.2).
fn extension_request(attributes: &[u8]) -> Result<Option<&[u8]>, Problem> {
    let mut attributes = Reader::new(attributes);
    let mut requested = None;
    while !attributes.is_empty() {
        let mut attribute = Reader::new(attributes.expect(SEQUENCE)?);
        let kind = attribute.oid()?;
        let mut values = Reader::new(attribute.expect(SET)?);
        attribute.end()?;
        if kind == MICROSOFT_EXTENSIONS {
            return Err(bad(
                "the csr asks for extensions in a Microsoft attribute; use the standard extensionRequest",
            ));
        }
        if kind == OID_PKCS9_EXTENSION_REQUEST {
            if requested.replace(values.expect(SEQUENCE)?).is_some() {
                return Err(bad("the csr has more than one extensionRequest attribute"));
            }
            if !values.is_empty() {
                return Err(bad(
                    "the csr's extensionRequest attribute has more than one value",
                ));
            }
        } else if !HARMLESS_ATTRIBUTES.contains(&kind) {
            return Err(bad(&format!(
                "the csr has the attribute {kind}, which is not allowed"
            )));
        }
    }
    Ok(requested)
}

fn collect_extensions(extensions: &[u8], names: &mut BTreeSet<Identifier>) -> Result<(), Problem> {
    let mut extensions = Reader::new(extensions);
    let mut seen = BTreeSet::new();
    while !extensions.is_empty() {
        let mut extension = Reader::new(extensions.expect(SEQUENCE)?);
        let kind = extension.oid()?;
        // DER leaves a default value out: a criticality that is there is TRUE (X.690 §11.1, §11.5).
        let value = match extension.element()? {
            (BOOLEAN, [0xff]) => extension.expect(OCTET_STRING)?,
            (OCTET_STRING, value) => value,
            _ => return Err(NotDer.into()),
        };
        extension.end()?;
        if !seen.insert(kind.as_bytes().to_vec()) {
            return Err(bad("the csr asks for the same extension twice"));
        }
        let mut content = Reader::new(value);
        if kind == OID_X509_EXT_SUBJECT_ALT_NAME {
            collect_alternative_names(content.expect(SEQUENCE)?, names)?;
        } else if kind == OID_X509_EXT_KEY_USAGE {
            check_key_usage(content.expect(BIT_STRING)?)?;
        } else if kind == OID_X509_EXT_EXTENDED_KEY_USAGE {
            check_extended_key_usage(content.expect(SEQUENCE)?)?;
        } else if kind == OID_X509_EXT_BASIC_CONSTRAINTS {
            check_basic_constraints(content.expect(SEQUENCE)?)?;
        } else if kind == OID_X509_EXT_SUBJECT_KEY_IDENTIFIER {
            content.expect(OCTET_STRING)?;
        } else if kind == TLS_FEATURE && value == MUST_STAPLE {
            content.expect(SEQUENCE)?;
        } else {
            return Err(bad(&format!(
                "the csr asks for the extension {kind}, which is not allowed"
            )));
        }
        content.end()?;
    }
    Ok(())
}

fn collect_alternative_names(list: &[u8], names: &mut BTreeSet<Identifier>) -> Result<(), Problem> {
    let mut list = Reader::new(list);
    // RFC 5280 §4.2.1.6: "GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName".
    if list.is_empty() {
        return Err(bad("the csr's subject alternative name is an empty list"));
    }
    while !list.is_empty() {
        names.insert(match list.element()? {
            (DNS_NAME, host) => {
                let text = str::from_utf8(host)
                    .map_err(|_| bad("the csr has a DNS name with other characters than ASCII"))?;
                name("subject alternative name", text)?
            }
            (IP_ADDRESS, octets) => Identifier::from_octets(octets).ok_or_else(|| {
                bad("the csr has an IP address of neither 4 nor 16 octets, or IPv4 inside IPv6")
            })?,
            _ => {
                return Err(bad(
                    "the csr has a subject alternative name that is neither a DNS name nor an IP address",
                ));
            }
        });
    }
    Ok(())
}

/// RFC 5280 §4.2.1.3: nine bits, of which keyCertSign is bit 5 and cRLSign bit 6. Those that the last byte does not use
/// are zero (X.690 §11.2.1).
fn check_key_usage(content: &[u8]) -> Result<(), Problem> {
    let (unused, first, last) = match content {
        [unused @ 0..=7, byte] => (unused, byte, byte),
        [unused @ 0..=7, first, last] => (unused, first, last),
        _ => return Err(NotDer.into()),
    };
    if last.trailing_zeros() < u32::from(*unused) {
        return Err(NotDer.into());
    }
    match first & 0b0000_0110 {
        0 => Ok(()),
        _ => Err(bad(
            "the csr asks for a key usage of CAs (keyCertSign or cRLSign)",
        )),
    }
}

fn check_extended_key_usage(purposes: &[u8]) -> Result<(), Problem> {
    let mut purposes = Reader::new(purposes);
    while !purposes.is_empty() {
        if ![SERVER_AUTH, CLIENT_AUTH].contains(&purposes.oid()?) {
            return Err(bad(
                "the csr asks for an extended key usage other than serverAuth and clientAuth",
            ));
        }
    }
    Ok(())
}

/// RFC 5280 §4.2.1.9: nothing in it means "not a CA". Some clients write the FALSE that DER leaves out.
fn check_basic_constraints(content: &[u8]) -> Result<(), Problem> {
    match content {
        [] | [BOOLEAN, 1, 0] => Ok(()),
        _ => Err(bad("the csr asks for a CA's certificate")),
    }
}

fn name(place: &str, text: &str) -> Result<Identifier, Problem> {
    Identifier::dns(text)
        .map_err(|invalid| bad(&format!("the csr has a {place} that is no host name: {invalid}")))
}
