//! Doors for the targets in `fuzz/`, which have no network: compiled for them only.

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::acme::challenge::Token;
use crate::acme::identifier::Identifier;
use crate::validate::Settings;
use crate::validate::http01;
use crate::validate::redirect::Ports;
use crate::validate::redirect::Target;
use crate::validate::tlsalpn01;

/// Whether what an http-01 request brings over this connection proves control.
pub async fn http01_proves<S>(stream: S, name: &Identifier, token: &Token, key_authorization: &str) -> bool
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let ports = Ports::new(&Settings::default());
    match Target::first(name, token, ports) {
        Ok(target) => http01::proves(stream, target, ports, key_authorization).await,
        Err(_) => false,
    }
}

/// Whether a certificate that was shown for tls-alpn-01 proves control.
pub fn tlsalpn01_accepts(leaf: &[u8], identifier: &Identifier, key_authorization: &str) -> bool {
    tlsalpn01::check_certificate(leaf, identifier, key_authorization).is_ok()
}
