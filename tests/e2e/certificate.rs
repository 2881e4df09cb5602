//! Whether a certificate is the one that was asked for, in openssl's judgement.

use std::collections::BTreeSet;
use std::path::Path;

use crate::environment::Host;
use crate::process::program;
use crate::process::run;

/// What a certificate says.
#[derive(Debug)]
pub(crate) struct Leaf {
    /// Hexadecimal.
    pub(crate) serial: String,
    text: String,
}

impl Leaf {
    /// The key is one for ECDSA on P-256.
    pub(crate) fn is_p256(&self) -> bool {
        self.text.contains("NIST CURVE: P-256")
    }

    /// The key is one for RSA of 2,048 bits.
    pub(crate) fn is_rsa_2048(&self) -> bool {
        self.text.contains("Public Key Algorithm: rsaEncryption")
            && self.text.contains("Public-Key: (2048 bit)")
    }
}

/// Checks chain, key and names of a certificate that a client has.
pub(crate) fn check(host: &Host<'_>, chain: &Path, key: &Path, names: &[&str]) -> Leaf {
    check_up_to(host.root(), chain, key, names)
}

/// The same for a chain that leads to another root.
pub(crate) fn check_up_to(root: &Path, chain: &Path, key: &Path, names: &[&str]) -> Leaf {
    openssl(&[
        &"verify",
        &"-x509_strict",
        &"-CAfile",
        &root,
        &"-untrusted",
        &chain,
        &chain,
    ]);
    let of_certificate = openssl(&[&"x509", &"-in", &chain, &"-noout", &"-pubkey"]);
    let of_client = openssl(&[&"pkey", &"-in", &key, &"-pubout"]);
    assert_eq!(
        of_certificate, of_client,
        "the certificate is for the client's key"
    );
    let extension = openssl(&[&"x509", &"-in", &chain, &"-noout", &"-ext", &"subjectAltName"]);
    let certified = extension
        .split([',', '\n', ' '])
        .filter_map(|word| word.strip_prefix("DNS:"));
    assert_eq!(
        certified.collect::<BTreeSet<_>>(),
        names.iter().copied().collect()
    );
    let serial = openssl(&[&"x509", &"-in", &chain, &"-noout", &"-serial"]);
    Leaf {
        serial: serial.trim().strip_prefix("serial=").unwrap().to_owned(),
        text: openssl(&[&"x509", &"-in", &chain, &"-noout", &"-text"]),
    }
}

pub(crate) fn openssl(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let mut command = program("openssl");
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    run(&command, "openssl").unwrap()
}
