//! Whether a certificate is the one that was asked for, and what it says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Checks key, names, validity and chain up to the root, and describes the certificate.
pub(crate) fn check(
    chain_pem: &str,
    public_key: &[u8],
    names: &[&str],
    root_pem: &str,
) -> anyhow::Result<String> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("the chain is not PEM")?;
    let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).context("the root is not PEM")?;
    let mut path = Vec::new();
    for der in chain.iter().chain([&root]) {
        let (rest, certificate) = X509Certificate::from_der(der).context("a certificate is not DER")?;
        ensure!(rest.is_empty(), "there are bytes after a certificate");
        path.push(certificate);
    }
    ensure!(path.len() >= 3, "the chain is not a leaf and an intermediate");

    for (subject, issuer) in path.iter().zip(path.iter().skip(1)) {
        ensure!(
            subject.issuer() == issuer.subject(),
            "{} does not say that {} issued it",
            subject.subject(),
            issuer.subject()
        );
        ensure!(issuer.is_ca(), "{} is no CA", issuer.subject());
        subject
            .verify_signature(Some(issuer.public_key()))
            .with_context(|| format!("{} has not signed {}", issuer.subject(), subject.subject()))?;
    }
    for certificate in &path {
        ensure!(
            certificate.validity().is_valid(),
            "{} is not valid now",
            certificate.subject()
        );
    }

    let leaf = path.first().context("the chain is empty")?;
    ensure!(!leaf.is_ca(), "the leaf is a CA");
    ensure!(
        leaf.public_key().raw == public_key,
        "the certificate's key is not the client's"
    );
    let certified = hosts(leaf)?;
    ensure!(
        certified == names.iter().map(|name| (*name).to_owned()).collect(),
        "the certificate names {certified:?}, not {names:?}"
    );
    Ok(format!(
        "   Subject  {}\n   Names    {}\n   Issuer   {}\n   Serial   {}\n   Valid    from {} to {}\n",
        leaf.subject(),
        names.join(", "),
        leaf.issuer(),
        leaf.raw_serial_as_string(),
        leaf.validity().not_before,
        leaf.validity().not_after,
    ))
}

/// The leaf's names and addresses, as they are written.
fn hosts(leaf: &X509Certificate<'_>) -> anyhow::Result<BTreeSet<String>> {
    let extension = leaf
        .subject_alternative_name()?
        .context("the leaf has no names")?;
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Ok((*name).to_owned()),
        GeneralName::IPAddress(octets) => {
            address(octets).context("the leaf has an address of a wrong length")
        }
        other => Err(anyhow::anyhow!("the leaf names {other}, which is no host")),
    };
    extension.value.general_names.iter().map(host).collect()
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}
