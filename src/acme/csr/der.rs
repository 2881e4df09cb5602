//! A reader for the distinguished encoding rules (X.690 §10): one length for each content, and no byte left over.
//!
//! x509-parser passes over bytes after the last element that it knows, which another reader may take for a name. So
//! what a request asks for is read with this.

use x509_parser::asn1_rs::Oid;

use crate::acme::problem::{Problem, ProblemType};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The longest length of a length: no request has 16 MB.
const MAX_LENGTH_BYTES: u8 = 3;

/// The bytes break the encoding rules, or the grammar of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDer;

impl From<NotDer> for Problem {
    fn from(NotDer: NotDer) -> Self {
        Self::new(
            ProblemType::BadCsr,
            "the csr is not the DER of a certification request (RFC 2986): wrong tags or lengths, or bytes too many",
        )
    }
}

/// What is left to read of some elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    /// Reads the elements that these bytes consist of.
    pub(crate) fn new(elements: &'d [u8]) -> Self {
        Self(elements)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn end(self) -> Result<(), NotDer> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(NotDer),
        }
    }

    /// The next element's tag and content.
    pub(crate) fn element(&mut self) -> Result<(u8, &'d [u8]), NotDer> {
        let [tag, first, rest @ ..] = self.0 else {
            return Err(NotDer);
        };
        // Tags above 30 have a longer form, and no place in a request.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (length, rest) = match first {
            short @ 0..=0x7f => (usize::from(*short), rest),
            long => long_length(long & 0x7f, rest)?,
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(NotDer)?;
        self.0 = rest;
        Ok((*tag, content))
    }

    /// The content of the next element, which has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'d [u8], NotDer> {
        match self.element()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(NotDer),
        }
    }

    /// The next element, which is an object identifier.
    pub(crate) fn oid(&mut self) -> Result<Oid<'d>, NotDer> {
        let content = self.expect(OBJECT_IDENTIFIER)?;
        // X.690 §8.19.2: each arc ends in a byte without the high bit, and begins with no needless zeros.
        let mut arc_begins = true;
        for byte in content {
            if arc_begins && *byte == 0x80 {
                return Err(NotDer);
            }
            arc_begins = byte & 0x80 == 0;
        }
        match arc_begins && !content.is_empty() {
            true => Ok(Oid::new(content.into())),
            false => Err(NotDer),
        }
    }

    /// The next element, which is a number of zero or more (X.690 §8.3): big-endian, in as few bytes as possible.
    pub(crate) fn natural(&mut self) -> Result<&'d [u8], NotDer> {
        match self.expect(INTEGER)? {
            [] | [0x80..=0xff, ..] | [0, 0..=0x7f, ..] => Err(NotDer),
            number => Ok(number),
        }
    }

    /// The next element, which is a bit string of whole bytes.
    pub(crate) fn bytes_as_bits(&mut self) -> Result<&'d [u8], NotDer> {
        match self.expect(BIT_STRING)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(NotDer),
        }
    }
}

/// A length of so many bytes: the least that it takes (X.690 §10.1).
fn long_length(bytes: u8, rest: &[u8]) -> Result<(usize, &[u8]), NotDer> {
    if !(1..=MAX_LENGTH_BYTES).contains(&bytes) {
        return Err(NotDer);
    }
    let (length, rest) = rest.split_at_checked(usize::from(bytes)).ok_or(NotDer)?;
    let value = length
        .iter()
        .fold(0, |value, byte| value << 8 | usize::from(*byte));
    match (length, value) {
        ([0, ..], _) | (_, 0..=0x7f) => Err(NotDer),
        _ => Ok((value, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k4_an_element_has_one_encoding() {
        let long = [&[OCTET_STRING, 0x81, 0x80][..], &[7; 0x80]].concat();
        for good in [&[NULL, 0][..], &[SEQUENCE, 2, NULL, 0], &long] {
            let mut reader = Reader::new(good);
            assert!(reader.element().is_ok() && reader.end().is_ok(), "{good:02x?}");
        }
        let bad: [&[u8]; 9] = [
            &[],
            &[SEQUENCE],
            &[SEQUENCE, 0x80, 0, 0],
            &[SEQUENCE, 0x81, 2, NULL, 0],
            &[SEQUENCE, 0x82, 0, 0x80],
            &[SEQUENCE, 0x84, 0, 0, 0, 0],
            &[SEQUENCE, 0xff, 0],
            &[SEQUENCE, 3, NULL, 0],
            &[0x1f, 0x20, 0],
        ];
        for bytes in bad {
            assert_eq!(Reader::new(bytes).element(), Err(NotDer), "{bytes:02x?}");
        }
        let mut two = Reader::new(&[NULL, 0, NULL, 0]);
        two.element().unwrap();
        assert_eq!(two.end(), Err(NotDer));
    }

    #[test]
    fn k4_numbers_and_object_identifiers_have_one_encoding() {
        for good in [&[INTEGER, 1, 0][..], &[INTEGER, 1, 0x7f], &[INTEGER, 2, 0, 0x80]] {
            assert!(Reader::new(good).natural().is_ok(), "{good:02x?}");
        }
        for bad in [&[INTEGER, 0][..], &[INTEGER, 1, 0x80], &[INTEGER, 2, 0, 0x7f]] {
            assert_eq!(Reader::new(bad).natural(), Err(NotDer), "{bad:02x?}");
        }
        assert!(Reader::new(&[6, 3, 0x55, 4, 3]).oid().is_ok());
        for bad in [
            &[6, 0][..],
            &[6, 2, 0x55, 0x84],
            &[6, 3, 0x55, 0x80, 4],
            &[4, 1, 1],
        ] {
            assert_eq!(Reader::new(bad).oid(), Err(NotDer), "{bad:02x?}");
        }
        assert!(Reader::new(&[3, 2, 1, 0]).bytes_as_bits().is_err());
    }
}
