//! Certificate requests (RFC 2986), good ones and bad ones: written by hand, byte by byte, because no library makes
//! what must be refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{PublicKeyData as _, SigningKey as _};

use crate::harness::key::Key;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const OCTETS: u8 = 0x04;
pub(crate) const BITS: u8 = 0x03;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8: u8 = 0x0c;
pub(crate) const PRINTABLE: u8 = 0x13;
pub(crate) const IA5: u8 = 0x16;
pub(crate) const BMP: u8 = 0x1e;

/// RFC 5280 §4.2.1.6: the general name of a host.
pub(crate) const DNS_NAME: u8 = 0x82;
/// And that of an address.
pub(crate) const IP_ADDRESS: u8 = 0x87;

pub(crate) const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
pub(crate) const SAN: &[u64] = &[2, 5, 29, 17];
pub(crate) const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
pub(crate) const MICROSOFT_EXTENSIONS: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 14];

/// Tag, length, value (X.690 §8.1).
pub(crate) fn tlv(tag: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut der = vec![tag];
    match u8::try_from(value.len()) {
        Ok(short @ 0..=127) => der.push(short),
        Ok(_) | Err(_) => {
            let length = value.len().to_be_bytes();
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            der.push(0x80 | u8::try_from(length.len() - zeros).unwrap());
            der.extend_from_slice(&length[zeros..]);
        }
    }
    der.extend_from_slice(value);
    der
}

/// An object identifier (X.690 §8.19).
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut value = Vec::new();
    let first = arcs[0] * 40 + arcs[1];
    for arc in std::iter::once(&first).chain(&arcs[2..]) {
        let sevens = (1..10).take_while(|i| arc >> (7 * i) > 0).count();
        for i in (0..=sevens).rev() {
            let more = if i > 0 { 0x80 } else { 0 };
            value.push(u8::try_from(arc >> (7 * i) & 0x7f).unwrap() | more);
        }
    }
    tlv(OID, value)
}

/// One extension, not critical.
pub(crate) fn extension(id: &[u64], value: impl AsRef<[u8]>) -> Vec<u8> {
    tlv(SEQUENCE, [oid(id), tlv(OCTETS, value)].concat())
}

/// A subject alternative name of these general names.
pub(crate) fn san(names: &[Vec<u8>]) -> Vec<u8> {
    extension(SAN, tlv(SEQUENCE, names.concat()))
}

/// A subject alternative name of these hosts.
pub(crate) fn san_of(hosts: &[&str]) -> Vec<u8> {
    san(&hosts.iter().map(|host| tlv(DNS_NAME, host)).collect::<Vec<_>>())
}

/// One attribute of a subject.
pub(crate) fn attribute(id: &[u64], tag: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    tlv(SET, tlv(SEQUENCE, [oid(id), tlv(tag, value)].concat()))
}

/// The attribute that holds extensions.
pub(crate) fn extension_attribute(id: &[u64], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = tlv(SEQUENCE, extensions.concat());
    tlv(SEQUENCE, [oid(id), tlv(SET, extensions)].concat())
}

/// A request in the making.
#[derive(Clone)]
pub(crate) struct Draft {
    /// The attributes of the subject.
    pub(crate) subject: Vec<Vec<u8>>,
    /// DER of the `SubjectPublicKeyInfo`, if not the signer's.
    pub(crate) spki: Option<Vec<u8>>,
    /// The attributes of the request, the extensions among them.
    pub(crate) attributes: Vec<Vec<u8>>,
    /// The signature algorithm, if not the signer's own.
    pub(crate) algorithm: Option<Vec<u8>>,
    /// Whether a bit of the signature is to be flipped.
    pub(crate) tampered: bool,
}

impl Draft {
    /// A request for these hosts, with nothing else.
    pub(crate) fn of(hosts: &[&str]) -> Self {
        Self::with_extensions(&[san_of(hosts)])
    }

    /// A request with exactly these extensions.
    pub(crate) fn with_extensions(extensions: &[Vec<u8>]) -> Self {
        Self {
            subject: Vec::new(),
            spki: None,
            attributes: vec![extension_attribute(EXTENSION_REQUEST, extensions)],
            algorithm: None,
            tampered: false,
        }
    }

    /// The request with a common name as its whole subject.
    pub(crate) fn named(self, tag: u8, common_name: impl AsRef<[u8]>) -> Self {
        let subject = vec![attribute(COMMON_NAME, tag, common_name)];
        Self { subject, ..self }
    }

    /// DER, signed by the key.
    pub(crate) fn sign(&self, key: &Key) -> Vec<u8> {
        let spki = self
            .spki
            .clone()
            .unwrap_or_else(|| key.pair.subject_public_key_info());
        let info = [
            vec![0x02, 0x01, 0x00],
            tlv(SEQUENCE, self.subject.concat()),
            spki,
            tlv(0xa0, self.attributes.concat()),
        ];
        let info = tlv(SEQUENCE, info.concat());
        let mut signature = key.pair.sign(&info).unwrap();
        if self.tampered {
            *signature.last_mut().unwrap() ^= 1;
        }
        let algorithm = self.algorithm.clone().unwrap_or_else(|| algorithm_of(key));
        let signature = tlv(BITS, [&[0], signature.as_slice()].concat());
        tlv(SEQUENCE, [info, algorithm, signature].concat())
    }
}

/// A request of exactly these parts (RFC 2986 §4.1): version, subject, key and attributes in a good one.
pub(crate) fn sign_info(key: &Key, parts: &[Vec<u8>]) -> Vec<u8> {
    let info = tlv(SEQUENCE, parts.concat());
    let signature = tlv(BITS, [&[0], key.pair.sign(&info).unwrap().as_slice()].concat());
    tlv(SEQUENCE, [info, algorithm_of(key), signature].concat())
}

/// The request that an ordinary client sends.
pub(crate) fn plain(key: &Key, hosts: &[&str]) -> Vec<u8> {
    Draft::of(hosts).sign(key)
}

/// An algorithm identifier without parameters, or with NULL as those of RSA want it.
pub(crate) fn algorithm(id: &[u64], null: bool) -> Vec<u8> {
    let parameters: &[u8] = if null { &[0x05, 0x00] } else { &[] };
    tlv(SEQUENCE, [oid(id).as_slice(), parameters].concat())
}

pub(crate) fn algorithm_of(key: &Key) -> Vec<u8> {
    match key.alg {
        "ES256" => algorithm(&[1, 2, 840, 10_045, 4, 3, 2], false),
        "ES384" => algorithm(&[1, 2, 840, 10_045, 4, 3, 3], false),
        "ES512" => algorithm(&[1, 2, 840, 10_045, 4, 3, 4], false),
        "RS256" => algorithm(&[1, 2, 840, 113_549, 1, 1, 11], true),
        _ => algorithm(&[1, 3, 101, 112], false),
    }
}

/// An RSA public key of these numbers (RFC 8017 appendix A.1.1).
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let positive = |number: &[u8]| match number[0] {
        0x80.. => tlv(0x02, [&[0], number].concat()),
        _ => tlv(0x02, number),
    };
    let key = tlv(SEQUENCE, [positive(modulus), positive(exponent)].concat());
    let key = tlv(BITS, [&[0], key.as_slice()].concat());
    tlv(
        SEQUENCE,
        [algorithm(&[1, 2, 840, 113_549, 1, 1, 1], true), key].concat(),
    )
}

/// DER of the first block.
pub(crate) fn first_of_pem(pem: &str) -> Vec<u8> {
    let lines = pem.lines().skip(1).take_while(|line| !line.starts_with("-----"));
    STANDARD.decode(lines.collect::<String>()).unwrap()
}
