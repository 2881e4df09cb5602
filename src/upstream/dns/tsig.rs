//! Signatures of DNS messages by a shared secret (TSIG, RFC 8945). hickory has the record and knows how it is written;
//! its own signer lacks HMAC-SHA1, which is lego's default.

use aws_lc_rs::hmac;
use hickory_proto::op::Message;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::tsig::TSIG;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::rdata::tsig::make_tsig_record;
use hickory_proto::rr::rdata::tsig::message_tbs;
use hickory_proto::serialize::binary::BinEncoder;

use crate::acme::secret::Secret;

/// RFC 8945 §10: "The RECOMMENDED value for Fudge is 300 seconds."
const FUDGE: u16 = 300;

const HEADER_BYTES: usize = 12;

/// The algorithms, under the names that servers and lego use.
const ALGORITHMS: [(&str, TsigAlgorithm, &hmac::Algorithm); 5] = [
    (
        "hmac-sha1",
        TsigAlgorithm::HmacSha1,
        &hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
    ),
    ("hmac-sha224", TsigAlgorithm::HmacSha224, &hmac::HMAC_SHA224),
    ("hmac-sha256", TsigAlgorithm::HmacSha256, &hmac::HMAC_SHA256),
    ("hmac-sha384", TsigAlgorithm::HmacSha384, &hmac::HMAC_SHA384),
    ("hmac-sha512", TsigAlgorithm::HmacSha512, &hmac::HMAC_SHA512),
];

/// A key that a server knows, too.
#[derive(Debug)]
pub(crate) struct Key {
    name: Name,
    algorithm: TsigAlgorithm,
    hmac: &'static hmac::Algorithm,
    secret: Secret<Vec<u8>>,
}

/// The signature of a question, which that of its answer covers.
pub(crate) struct Signature(Vec<u8>);

/// The names of the algorithms.
pub(crate) fn algorithms() -> String {
    let names: Vec<_> = ALGORITHMS.iter().map(|(name, ..)| *name).collect();
    names.join(", ")
}

impl Key {
    /// A key; `None`: the algorithm is unknown.
    pub(crate) fn new(name: Name, algorithm: &str, secret: Secret<Vec<u8>>) -> Option<Self> {
        let algorithm = algorithm.trim_end_matches('.').to_ascii_lowercase();
        let (_, algorithm, hmac) = ALGORITHMS.into_iter().find(|(known, ..)| *known == algorithm)?;
        Some(Self {
            name,
            algorithm,
            hmac,
            secret,
        })
    }

    /// Signs a message whole, at this Unix time.
    pub(crate) fn sign(&self, message: &mut Message, now: u64) -> Result<Signature, String> {
        let tsig = TSIG::new(
            self.algorithm.clone(),
            now,
            FUDGE,
            Vec::new(),
            message.metadata.id,
            None,
            Vec::new(),
        );
        let signed = message_tbs(message, &tsig, &self.name).map_err(|error| error.to_string())?;
        let mac = hmac::sign(&self.hmac(), &signed).as_ref().to_vec();
        message.signature = Some(Box::new(make_tsig_record(
            self.name.clone(),
            tsig.set_mac(mac.clone()),
        )));
        Ok(Signature(mac))
    }

    /// Checks the answer to a message that was signed (RFC 8945 §5.3).
    pub(crate) fn verify(&self, answer: &[u8], question: &Signature, now: u64) -> Result<(), String> {
        let message = Message::from_vec(answer).map_err(|error| error.to_string())?;
        let Some((name, tsig)) = signature_of(&message) else {
            return Err("the answer is not signed".to_owned());
        };
        if let Some(error) = &tsig.error {
            return Err(format!(
                "the server refuses the signature: {error:?} (key {}, {})",
                self.name,
                self.algorithm.to_name()
            ));
        }
        if *name != self.name || tsig.algorithm != self.algorithm {
            return Err("the answer is signed by another key".to_owned());
        }
        let garbled = || "the answer is garbled".to_owned();
        let unsigned = answer
            .get(..start_of_last(answer).ok_or_else(garbled)?)
            .ok_or_else(garbled)?;
        let signed = self.covered(unsigned, tsig, question).ok_or_else(garbled)?;
        hmac::verify(&self.hmac(), &signed, &tsig.mac)
            .map_err(|_| "the signature of the answer is wrong".to_owned())?;
        match tsig.time.abs_diff(now) <= u64::from(FUDGE) {
            true => Ok(()),
            false => Err("the answer was signed at another time; compare the clocks".to_owned()),
        }
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(*self.hmac, self.secret.reveal())
    }

    /// What the signature of an answer covers (RFC 8945 §4.3): the question's signature, the answer as it was before it
    /// was signed, the variables.
    fn covered(&self, unsigned: &[u8], tsig: &TSIG, question: &Signature) -> Option<Vec<u8>> {
        let mut signed = u16::try_from(question.0.len()).ok()?.to_be_bytes().to_vec();
        signed.extend(&question.0);
        signed.extend(tsig.oid.to_be_bytes());
        signed.extend(unsigned.get(2..10)?);
        signed.extend(number(unsigned, 10)?.checked_sub(1)?.to_be_bytes());
        signed.extend(unsigned.get(HEADER_BYTES..)?);
        let mut variables = Vec::new();
        tsig.emit_tsig_for_mac(&mut BinEncoder::new(&mut variables), &self.name)
            .ok()?;
        signed.extend(variables);
        Some(signed)
    }
}

/// The last record, if it is a signature. hickory tells it from the others only if it is built with DNSSEC.
fn signature_of(message: &Message) -> Option<(&Name, &TSIG)> {
    match (&message.signature, message.additionals.last()) {
        (Some(record), _) => Some((&record.name, &record.data)),
        (None, Some(record)) => match &record.data {
            RData::TSIG(tsig) => Some((&record.name, tsig)),
            _ => None,
        },
        (None, None) => None,
    }
}

/// Where the last record of a message begins (RFC 1035 §4.1).
fn start_of_last(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    for _ in 0..number(message, 4)? {
        at = end_of_name(message, at)?.checked_add(4)?;
    }
    let records: u32 = [6, 8, 10]
        .into_iter()
        .map(|count| number(message, count).map(u32::from))
        .sum::<Option<u32>>()?;
    for _ in 1..records {
        let fixed = end_of_name(message, at)?;
        let data = number(message, fixed.checked_add(8)?)?;
        at = fixed.checked_add(10)?.checked_add(usize::from(data))?;
    }
    Some(at)
}

fn end_of_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return at.checked_add(1),
            0xc0.. => return at.checked_add(2),
            length => at = at.checked_add(1)?.checked_add(usize::from(length))?,
        }
    }
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let secret = Secret::new(b"a secret of some length".to_vec());
        Key::new("acme-key.".parse().unwrap(), "HMAC-SHA256.", secret).unwrap()
    }

    /// An answer as a server signs it: over the question's signature.
    fn answered(key: &Key, question: &Signature, time: u64) -> Vec<u8> {
        let mut answer = Message::query();
        let unsigned = answer.to_vec().unwrap();
        let id = answer.metadata.id;
        let tsig = TSIG::new(
            key.algorithm.clone(),
            time,
            FUDGE,
            Vec::new(),
            id,
            None,
            Vec::new(),
        );
        let mut signed = u16::try_from(question.0.len()).unwrap().to_be_bytes().to_vec();
        signed.extend(&question.0);
        signed.extend(&unsigned);
        let mut variables = Vec::new();
        tsig.emit_tsig_for_mac(&mut BinEncoder::new(&mut variables), &key.name)
            .unwrap();
        signed.extend(variables);
        let mac = hmac::sign(&key.hmac(), &signed).as_ref().to_vec();
        answer.signature = Some(Box::new(make_tsig_record(key.name.clone(), tsig.set_mac(mac))));
        answer.to_vec().unwrap()
    }

    #[test]
    fn an_answer_signed_over_the_question_is_taken_and_a_changed_one_is_not() {
        let key = key();
        let question = key.sign(&mut Message::query(), 1000).unwrap();
        let answer = answered(&key, &question, 1010);
        assert_eq!(key.verify(&answer, &question, 1020), Ok(()));
        for at in 0..answer.len() {
            let mut changed = answer.clone();
            changed[at] ^= 1;
            // The id is not covered, but the original one is, which the record holds; nor are the record's class and
            // time to live, which are the same for all of them.
            let uncovered = at < 2 || (24..30).contains(&at);
            let verdict = key.verify(&changed, &question, 1020);
            assert_eq!(verdict.is_ok(), uncovered, "byte {at}");
        }
        let other = key.sign(&mut Message::query(), 1000).unwrap();
        assert!(key.verify(&answer, &other, 1020).is_err());
        assert!(
            key.verify(&answer, &question, 1000 + 1000)
                .unwrap_err()
                .contains("clocks")
        );
        assert!(
            key.verify(&Message::query().to_vec().unwrap(), &question, 1000)
                .is_err()
        );
    }

    #[test]
    fn a_garbled_answer_is_refused_wherever_it_is_cut() {
        let key = key();
        let question = key.sign(&mut Message::query(), 1000).unwrap();
        let answer = answered(&key, &question, 1000);
        for length in 0..answer.len() {
            assert!(key.verify(&answer[..length], &question, 1000).is_err());
            let _ = start_of_last(&answer[..length]);
        }
    }
}
