//! C701 to C706, over real TLS on loopback: 127.0.0.2 is allowed, and nothing else is.

use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DnType;
use rcgen::KeyPair;
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS12;
use rustls::version::TLS13;

use super::*;
use crate::validate::testing::Attempt;
use crate::validate::testing::MARKER;
use crate::validate::testing::NAME;

mod certificate;
mod destinations;
mod handshake;

fn sha256(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

/// What an ACME client makes its certificate of.
fn params(name: SanType, key_authorization: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, MARKER);
    params.subject_alt_names = vec![name];
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&sha256(key_authorization))];
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// What an ACME client shows for the attempt at the name.
fn shown_for(attempt: &Attempt, key: &KeyPair) -> CertificateDer<'static> {
    let params = params(dns(NAME), &attempt.key_authorization());
    params.self_signed(key).unwrap().der().clone()
}
