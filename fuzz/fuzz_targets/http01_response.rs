//! Answers to an http-01 request: whatever a host sends, the exchange ends, and only a 200 with the key authorization
//! in its content proves control.

#![no_main]

use acme_proxy::acme::challenge::Token;
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::validate::fuzzing::http01_proves;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};

const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ.kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
    static TOKEN: Token = Token::random();
}

fuzz_target!(|answer: &[u8]| {
    let name = Identifier::dns("www.example.com").unwrap();
    let proves = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let answer = answer.to_vec();
            let host = tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && theirs.read_buf(&mut request).await.unwrap() > 0 {}
                // The client may have had enough before the end.
                let _ = theirs.write_all(&answer).await;
                let _ = theirs.shutdown().await;
            });
            let token = TOKEN.with(Clone::clone);
            let proves = http01_proves(ours, &name, &token, KEY_AUTHORIZATION).await;
            host.await.unwrap();
            proves
        })
    });
    if proves {
        assert!(
            answer.starts_with(b"HTTP/1."),
            "proved by something else than HTTP"
        );
        // In chunks it may come in pieces; but all of it comes, in order.
        let mut rest = answer.iter();
        assert!(
            KEY_AUTHORIZATION
                .bytes()
                .all(|byte| rest.any(|sent| *sent == byte)),
            "proved without the key authorization"
        );
        let head = String::from_utf8_lossy(&answer[..answer.len().min(4096)]).into_owned();
        assert!(head.contains(" 200"), "proved with another status");
    }
});
