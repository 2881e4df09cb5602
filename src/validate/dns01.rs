//! dns-01 (RFC 8555 §8.4): the digest of the key authorization is looked for in the TXT records below the name.
//!
//! Aliases are followed, be it into another zone: that is how organisations delegate dns-01. Every failure that time may
//! heal is transient, a record with another value too: a server may still have the one of an earlier order. Nothing that
//! DNS has said is told to the client, but for how a record misses the right value.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::acme::identifier::Identifier;
use crate::acme::problem::ProblemType;
use crate::validate::Failure;
use crate::validate::net::LookupFailure;
use crate::validate::net::Network;

/// The longest name in DNS, in characters without the final dot.
const MAX_NAME: usize = 253;

/// How many TXT records are compared: more than fit into an answer over UDP, less than could fit into one over TCP.
const MAX_RECORDS: usize = 1000;

/// Why an attempt failed; its text is for the log.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("DNS: {0}")]
    Lookup(#[from] LookupFailure),
    #[error("the name is too long")]
    NameTooLong,
    #[error("no TXT record at {0}")]
    NoRecord(String),
    #[error("{0} TXT records at {1}")]
    TooManyRecords(usize, String),
    #[error("{count} TXT records at {owner}, none with the digest ({nearest:?})")]
    Mismatch {
        count: usize,
        owner: String,
        nearest: Nearest,
    },
}

/// What the record that comes nearest to the right value has instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearest {
    KeyAuthorization,
    DecoratedDigest,
    Other,
}

/// Makes one attempt.
pub(crate) async fn validate(
    network: &Network,
    identifier: &Identifier,
    key_authorization: &str,
) -> Result<(), Failure> {
    let base = match identifier {
        Identifier::Dns(name) | Identifier::Wildcard(name) => name,
        // RFC 8738 §7: "The existing \"dns-01\" challenge MUST NOT be used to validate IP identifiers."
        Identifier::Ip(_) => {
            return Err(Failure::new(
                ProblemType::Malformed,
                format!(
                    "dns-01 can not prove control of the address {identifier}; use http-01 or tls-alpn-01"
                ),
                false,
                "an address",
            ));
        }
    };
    let place = format!("_acme-challenge.{base}");
    match look_up(network, &place, key_authorization).await {
        Ok(owner) => {
            if !owner.trim_end_matches('.').eq_ignore_ascii_case(&place) {
                tracing::info!(identifier = %identifier, owner, "dns-01 was met by the record of another name");
            }
            Ok(())
        }
        Err(cause) => Err(Failure::new(
            cause.problem_type(),
            format!("dns-01 of {identifier}: {}", cause.sentence(&place)),
            cause.is_transient(),
            &cause.to_string(),
        )),
    }
}

/// The name that has the right record.
async fn look_up(network: &Network, place: &str, key_authorization: &str) -> Result<String, Cause> {
    if place.len() > MAX_NAME {
        return Err(Cause::NameTooLong);
    }
    let texts = network.texts(place).await?;
    match texts.values.len() {
        0 => return Err(Cause::NoRecord(texts.owner)),
        1..=MAX_RECORDS => {}
        count => return Err(Cause::TooManyRecords(count, texts.owner)),
    }
    // RFC 8555 §8.4: "Verify that the contents of one of these records match the digest value". The others belong to other
    // orders, e.g. the one for the wildcard.
    let digest = digest(key_authorization);
    match texts.values.iter().any(|value| value == digest.as_bytes()) {
        true => Ok(texts.owner),
        false => Err(Cause::Mismatch {
            count: texts.values.len(),
            owner: texts.owner,
            nearest: nearest(&texts.values, &digest, key_authorization),
        }),
    }
}

/// RFC 8555 §8.4: the base64url encoding, without padding, of the SHA-256 digest of the key authorization.
fn digest(key_authorization: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, key_authorization.as_bytes()))
}

fn nearest(values: &[Vec<u8>], digest: &str, key_authorization: &str) -> Nearest {
    let is = |expected: &str| {
        values.iter().any(|value| {
            let text = String::from_utf8_lossy(value);
            text.trim_matches([' ', '"', '\\', '=']) == expected
        })
    };
    match (is(key_authorization), is(digest)) {
        (true, _) => Nearest::KeyAuthorization,
        (_, true) => Nearest::DecoratedDigest,
        _ => Nearest::Other,
    }
}

impl Cause {
    fn problem_type(&self) -> ProblemType {
        match self {
            Self::Lookup(_) | Self::NameTooLong | Self::NoRecord(_) => ProblemType::Dns,
            Self::TooManyRecords(..) | Self::Mismatch { .. } => ProblemType::IncorrectResponse,
        }
    }

    /// Whether another attempt may go better (CONFORMANCE J6). Records reach secondary servers late, and the servers that
    /// are asked may remember for a while what was there before, or that nothing was.
    fn is_transient(&self) -> bool {
        match self {
            Self::Lookup(LookupFailure::TooManyAliases) | Self::NameTooLong | Self::TooManyRecords(..) => {
                false
            }
            Self::Lookup(_) | Self::NoRecord(_) | Self::Mismatch { .. } => true,
        }
    }

    /// What the client is told.
    fn sentence(&self, place: &str) -> String {
        match self {
            Self::Lookup(LookupFailure::NoSuchName) => format!(
                "{place} does not exist in DNS (NXDOMAIN); create the TXT record, and wait until all name servers have it"
            ),
            Self::Lookup(LookupFailure::NoAddress) | Self::NoRecord(_) => {
                format!("{place} has no TXT record; create it, and wait until all name servers have it")
            }
            Self::Lookup(LookupFailure::TooManyAliases) => {
                format!("{place} is an alias over too many CNAME records, or of itself; shorten the chain")
            }
            Self::Lookup(LookupFailure::Unanswered(_)) => format!(
                "the DNS look-up of TXT records at {place} failed; check the name servers of its domain, and its DNSSEC \
                 if it is signed"
            ),
            Self::NameTooLong => {
                format!(
                    "{place} would be longer than {MAX_NAME} characters; use another challenge or a shorter name"
                )
            }
            Self::TooManyRecords(..) => {
                format!("{place} has more than {MAX_RECORDS} TXT records; remove those of earlier orders")
            }
            Self::Mismatch { nearest, .. } => {
                let what = match nearest {
                    Nearest::KeyAuthorization => {
                        "one holds the key authorization itself, where its SHA-256 digest in base64url belongs"
                    }
                    Nearest::DecoratedDigest => {
                        "one has quotes, blanks or padding around the right value; remove them"
                    }
                    Nearest::Other => {
                        "none has the digest of the key authorization; check that the record is the one of this order, and \
                         wait until all name servers have it"
                    }
                };
                format!("of the TXT records at {place}, {what}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
