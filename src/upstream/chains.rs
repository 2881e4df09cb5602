//! The certificate with its chains (RFC 8555 §7.4.2), of which instant-acme knows only the first.

use crate::acme::certificate::MAX_ALTERNATES;
use crate::acme::problem::cleaned;
use crate::upstream::Chains;
use crate::upstream::acme::Session;
use crate::upstream::fault::Fault;
use crate::upstream::http::Answer;

impl Session {
    /// Fetches them. Another chain that can not be had is done without: the first one is good.
    pub(crate) async fn chains(&self, url: &str) -> Result<Chains, Fault> {
        let here = self.client.permitted(url)?;
        let answer = self.signed(url, "").await?;
        let mut others = Vec::new();
        for link in answer.alternates.iter().take(MAX_ALTERNATES) {
            let other = match here.join(link) {
                Ok(target) => self.signed(target.as_str(), "").await.and_then(pem),
                Err(_) => Err(Fault::Foreign(cleaned(link, 200))),
            };
            match other {
                Ok(other) => others.push(other),
                Err(fault) => tracing::warn!(%fault, "another chain of the CA's is done without"),
            }
        }
        Ok(Chains {
            first: pem(answer)?,
            others,
        })
    }
}

fn pem(answer: Answer) -> Result<String, Fault> {
    let text = String::from_utf8(answer.body.to_vec());
    text.map_err(|_| Fault::Nonsense("a chain that is no text".to_owned()))
}
