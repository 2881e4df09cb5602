//! Signs what a target has made of an input: mutations seldom survive a signature.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use x509_parser::prelude::FromDer as _;

static KEY: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap());

/// DER of a `SubjectPublicKeyInfo` on P-256, up to the point.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// DER of the algorithm ecdsa-with-SHA256.
const ECDSA_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// The same request or certificate by a good key. `spki` is the part of it that holds its key; what stands before and
/// behind that stays, also what a parser passes over.
pub fn signed_again(der: &[u8], spki: &[u8]) -> Option<Vec<u8>> {
    let (before, behind) = around(content(content(der)?)?, spki)?;
    let body = element(0x30, &[before, &P256, KEY.public_key().as_ref(), behind].concat());
    let signature = KEY.sign(&SystemRandom::new(), &body).unwrap();
    let bits = element(0x03, &[&[0], signature.as_ref()].concat());
    Some(element(0x30, &[body.as_slice(), &ECDSA_SHA256, &bits].concat()))
}

/// What stands before and behind a part of the bytes.
fn around<'d>(whole: &'d [u8], part: &[u8]) -> Option<(&'d [u8], &'d [u8])> {
    let at = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    Some((whole.get(..at)?, whole.get(at + part.len()..)?))
}

/// The content of the first element.
fn content(der: &[u8]) -> Option<&[u8]> {
    Some(x509_parser::asn1_rs::Any::from_der(der).ok()?.1.data)
}

/// Tag, length, content.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let header = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [header.as_slice(), content].concat()
}
