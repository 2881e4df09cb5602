//! A load balancer's header: whatever is sent, reading ends, takes the header's bytes and not one more, and a client's
//! address is the one that stands in it.

#![no_main]

use std::net::IpAddr;

use acme_proxy::server::proxy_header::{Refused, Source, read};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().unwrap();
}

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let source = RUNTIME.with(|runtime| runtime.block_on(read(&mut rest)));
    let taken = data.len() - rest.len();
    assert!(taken <= 536);
    let whole = || {
        assert!(data.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
        assert_eq!(taken, 16 + usize::from(u16::from_be_bytes([data[14], data[15]])));
    };
    match source {
        Ok(Source::Client(address)) => {
            whole();
            let stands_there = match data[13] {
                0x11 => IpAddr::from(<[u8; 4]>::try_from(&data[16..20]).unwrap()),
                0x21 => IpAddr::from(<[u8; 16]>::try_from(&data[16..32]).unwrap()),
                other => panic!("{other:#x} has no address"),
            };
            assert_eq!(address, stands_there.to_canonical());
            assert_eq!(data[12], 0x21);
        }
        Ok(Source::Balancer) => {
            whole();
            assert_eq!(data[12], 0x20);
        }
        Err(Refused::Incomplete) => assert!(rest.is_empty()),
        Err(Refused::Version1) => assert!(data.starts_with(b"PROXY ")),
        Err(Refused::TooLong | Refused::Malformed | Refused::NoAddress) => {}
    }
});
