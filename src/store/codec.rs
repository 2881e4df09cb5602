//! Records as bytes: JSON in an envelope with the version of its form, `{"v":1,"record":...}`.
//!
//! A later form gets a new number and a new arm in [`open`], so that the records of older binaries can still be read. What
//! can not be read is [`StoreError::Corrupt`] under the record's name; its content is never shown, for it may be secret.

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::acme::job::{Job, WorkKind};
use crate::store::StoreError;

/// The form that records are written in.
const FORM: u32 = 1;

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct Read<'a> {
    v: u32,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// A job, with its kind beside it, so that a job of a later version's kind can be told from a damaged one.
#[derive(Serialize)]
struct WrittenJob<'a> {
    kind: &'a str,
    job: &'a Job,
}

#[derive(Deserialize)]
struct ReadJob<'a> {
    kind: String,
    #[serde(borrow)]
    job: &'a RawValue,
}

/// The record's bytes.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&Written { v: FORM, record })
        .map_err(|error| StoreError::Failed(format!("a record can not be written as JSON: {error}")))
}

/// The record of that name, read from its bytes.
pub(crate) fn decode<T: DeserializeOwned>(name: impl Display + Copy, bytes: &[u8]) -> Result<T, StoreError> {
    parse(name, open(name, bytes)?)
}

/// A job's bytes.
pub(crate) fn encode_job(job: &Job) -> Result<Vec<u8>, StoreError> {
    encode(&WrittenJob {
        kind: job.work.kind().name(),
        job,
    })
}

/// The job of that name, or `None` if it is of a kind that this version does not know.
pub(crate) fn decode_job(name: impl Display + Copy, bytes: &[u8]) -> Result<Option<Job>, StoreError> {
    let record: ReadJob<'_> = parse(name, open(name, bytes)?)?;
    match WorkKind::ALL.iter().any(|kind| kind.name() == record.kind) {
        true => parse(name, record.job).map(Some),
        false => Ok(None),
    }
}

/// Bytes that mean nothing to the store, such as a key of the daemon's own.
pub(crate) fn encode_bytes(bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    encode(&STANDARD.encode(bytes))
}

/// The bytes that [`encode_bytes`] took.
pub(crate) fn decode_bytes(name: impl Display + Copy, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    let text: String = decode(name, bytes)?;
    STANDARD
        .decode(text)
        .map_err(|_| StoreError::Corrupt(format!("{name} is not base64")))
}

/// The content of an envelope of a form that is known.
fn open<'a>(name: impl Display + Copy, bytes: &'a [u8]) -> Result<&'a RawValue, StoreError> {
    let envelope: Read<'a> = serde_json::from_slice(bytes).map_err(|error| unreadable(name, &error))?;
    match envelope.v {
        FORM => Ok(envelope.record),
        other => Err(StoreError::Corrupt(format!(
            "{name} is of form {other}, which this version can not read; it reads form {FORM}"
        ))),
    }
}

fn parse<'a, T: Deserialize<'a>>(name: impl Display + Copy, record: &'a RawValue) -> Result<T, StoreError> {
    serde_json::from_str(record.get()).map_err(|error| unreadable(name, &error))
}

/// Where reading stopped, but not what stands there: serde's own message quotes the content.
fn unreadable(name: impl Display + Copy, error: &serde_json::Error) -> StoreError {
    StoreError::Corrupt(format!("{name} can not be read (column {})", error.column()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::id::{AccountId, OrderId};
    use crate::acme::job::Work;
    use crate::acme::upstream::UpstreamName;
    use jiff::Timestamp;

    #[test]
    fn a_record_stands_in_a_versioned_envelope_and_reads_back() {
        let job = Job::now(
            Work::Issue(OrderId::from_bytes([7; 16])),
            AccountId::from_bytes([9; 16]),
            UpstreamName::DEFAULT,
            Timestamp::UNIX_EPOCH,
        );
        let bytes = encode_job(&job).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["v"], 1);
        assert_eq!(json["record"]["kind"], "issue");
        assert_eq!(decode_job("job", &bytes), Ok(Some(job)));
        let bytes = encode_bytes(b"\0secret\xff").unwrap();
        assert_eq!(decode_bytes("named", &bytes).unwrap(), b"\0secret\xff");
    }

    #[test]
    fn a_job_of_the_form_without_owner_upstream_and_beginning_can_still_be_read() {
        let old = br#"{"v":1,"record":{"kind":"issue","job":{"work":{"issue":"07070707070707070707070707070707"},"due":"1970-01-01T00:00:00Z","faults":2}}}"#;
        let job = decode_job("job", old).unwrap().unwrap();
        assert_eq!((job.owner, job.faults), (AccountId::DAEMON, 2));
        assert_eq!(
            (job.upstream, job.since),
            (UpstreamName::DEFAULT, Timestamp::UNIX_EPOCH)
        );
        assert_eq!(job.work, Work::Issue(OrderId::from_bytes([7; 16])));
    }

    #[test]
    fn f23_what_can_not_be_read_is_corrupt_and_named_but_not_shown() {
        for damaged in [
            &b""[..],
            b"hunter2",
            br#"{"v":1}"#,
            br#"{"v":2,"record":"hunter2"}"#,
            br#"{"v":1,"record":{"hunter2":1}}"#,
            br#"{"v":1,"record":["hunter2"]}"#,
        ] {
            let StoreError::Corrupt(text) = decode::<String>("order 07", damaged).unwrap_err() else {
                panic!("another error")
            };
            assert!(text.contains("order 07"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_job_of_an_unknown_kind_is_told_from_a_damaged_one() {
        let unknown = br#"{"v":1,"record":{"kind":"renew","job":{"work":{"renew":"x"},"when":3}}}"#;
        assert_eq!(decode_job("job", unknown), Ok(None));
        let damaged = br#"{"v":1,"record":{"kind":"issue","job":{"work":{"renew":"x"},"when":3}}}"#;
        assert!(matches!(decode_job("job", damaged), Err(StoreError::Corrupt(_))));
    }
}
