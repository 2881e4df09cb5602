//! The certificate with its chains (RFC 8555 §7.4.2), of which instant-acme knows only the first.

use std::time::Duration;

use tokio::time::Instant;
use tokio::time::timeout_at;
use x509_parser::pem::Pem;

use crate::acme::certificate::MAX_ALTERNATES;
use crate::acme::problem::cleaned;
use crate::upstream::Chains;
use crate::upstream::acme::Session;
use crate::upstream::fault::Fault;
use crate::upstream::http::Answer;

/// How long fetching the other chains may take together.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(20);

impl Session {
    /// Fetches them. Another chain that can not be had is done without: the first one is good.
    pub(crate) async fn chains(&self, url: &str) -> Result<Chains, Fault> {
        let here = self.client.permitted(url)?;
        let answer = self.signed(url, "").await?;
        let first = pem(&answer)?;
        let mut others = Vec::new();
        let end = Instant::now() + OTHERS_TIMEOUT;
        for link in answer.alternates.iter().take(MAX_ALTERNATES) {
            let other = match here.join(link) {
                Ok(target) => timeout_at(end, self.signed(target.as_str(), "")).await,
                Err(_) => Ok(Err(Fault::Foreign(cleaned(link, 200)))),
            };
            let Ok(other) = other else {
                tracing::warn!("the CA takes too long for its other chains; the rest is done without");
                break;
            };
            match other.and_then(|other| pem(&other)) {
                Ok(other) => others.push(other),
                Err(fault) => {
                    tracing::warn!(%fault, "another chain of the CA's is done without");
                    if fault.is_rate_limit() {
                        break;
                    }
                }
            }
        }
        Ok(Chains { first, others })
    }
}

/// The answer's text, if it is whole certificates or other PEM. What is not, such as somebody's page or a chain that
/// breaks off, is not the CA's last word about the order.
fn pem(answer: &Answer) -> Result<String, Fault> {
    let text = String::from_utf8(answer.body.to_vec())
        .map_err(|_| Fault::Nonsense("a chain that is no text".to_owned()))?;
    let mut blocks = 0_usize;
    for block in Pem::iter_from_buffer(text.as_bytes()) {
        block.map_err(|_| Fault::Nonsense("a chain that is no PEM, or breaks off".to_owned()))?;
        blocks = blocks.saturating_add(1);
    }
    match blocks {
        0 => Err(Fault::Nonsense("a chain without a certificate".to_owned())),
        _ => Ok(text),
    }
}
