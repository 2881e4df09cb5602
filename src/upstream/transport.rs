//! What the ways to a CA and to the API of a DNS provider have in common: roots, deadlines, capped bodies, no redirects,
//! no decompression.

use std::error::Error as StdError;
use std::path::Path;
use std::time::Duration;

use crate::acme::problem::cleaned;
use crate::upstream::SetupError;
use crate::upstream::lookup::Hostnames;

/// TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One request with its whole answer.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

const USER_AGENT: &str = concat!("acme-proxy/", env!("CARGO_PKG_VERSION"));

/// A client that trusts the system's roots, and those of the file.
pub(crate) fn client(roots: Option<&Path>, https_only: bool) -> Result<reqwest::Client, SetupError> {
    let roots = match roots {
        Some(path) => roots_in(path)?,
        None => Vec::new(),
    };
    reqwest::Client::builder()
        .dns_resolver(Hostnames)
        .tls_certs_merge(roots)
        .https_only(https_only)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        .user_agent(USER_AGENT)
        .build()
        .map_err(|error| SetupError::Tls(chain(&error)))
}

/// Why a body is not there.
pub(crate) enum Unread {
    Broken(reqwest::Error),
    TooLong,
}

/// The whole body. No more of it is read than this.
pub(crate) async fn body(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(Unread::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Every certificate of a PEM file.
pub(crate) fn roots_in(path: &Path) -> Result<Vec<reqwest::Certificate>, SetupError> {
    let unusable = |why: String| SetupError::Roots {
        path: path.to_owned(),
        why,
    };
    let pem = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
    let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| unusable(chain(&e)))?;
    match roots.is_empty() {
        true => Err(unusable("there is no certificate in it".to_owned())),
        false => Ok(roots),
    }
}

/// An error with its causes: reqwest's own words do not say that a certificate was refused, its cause does.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    cleaned(&text, 300)
}
