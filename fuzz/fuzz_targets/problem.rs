//! Problem documents: what can be read is written and read again without a change, and text from outside comes out of
//! `cleaned` harmless, short, and not changed by a second pass.

#![no_main]

use acme_proxy::acme::problem::{Problem, cleaned};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(problem) = serde_json::from_slice::<Problem>(data) {
        let written = serde_json::to_vec(&problem).unwrap();
        assert_eq!(serde_json::from_slice::<Problem>(&written).unwrap(), problem);
    }
    let text = String::from_utf8_lossy(data);
    for limit in [0, 1, 16, 300] {
        let clean = cleaned(&text, limit);
        assert!(clean.chars().count() <= limit + 1);
        assert!(
            !clean.chars().any(char::is_control),
            "a control character is left"
        );
        assert!(!clean.contains(['\u{202e}', '\u{2066}', '\u{2028}', '\u{feff}']));
        assert_eq!(cleaned(&clean, limit + 1), clean);
    }
});
