//! The database of a step-ca: whatever stands in the file, reading ends, in entries that lie within it or in a sentence.

#![no_main]

use std::io::Cursor;

use acme_proxy::app::import::bolt::Bolt;
use libfuzzer_sys::fuzz_target;

/// Where the two checksums of the meta pages are, with pages of 1 KiB.
const META: [usize; 2] = [16, 1024 + 16];

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    for at in META {
        if let Some(content) = file.get_mut(at..at + 64) {
            // Mutations seldom survive a checksum.
            let checksum = fnv1a(&content[..56]);
            content[56..].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let mut total = 0;
    let read = Bolt::open(Cursor::new(&file)).and_then(|mut bolt| {
        bolt.entries(b"acme_accounts", |key, value| {
            assert!(key.len() + value.len() <= file.len());
            total += 1;
        })
    });
    match read {
        Ok(found) => assert!(found || total == 0),
        Err(error) => assert!(error.to_string().starts_with(['i', 'c']), "{error}"),
    }
});

/// FNV-1a with 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
