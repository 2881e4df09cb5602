//! C601 to C613, over real DNS packets and real sockets on loopback: 127.0.0.2 is allowed, and nothing else is.

use std::net::SocketAddr;
use std::sync::Mutex;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::acme::challenge::ChallengeType;
use crate::validate::Validator;
use crate::validate::testing::Answer as DnsAnswer;
use crate::validate::testing::DnsServer;
use crate::validate::testing::assert_untouched;
use crate::validate::testing::head;
use crate::validate::testing::http;
use crate::validate::testing::listeners;
use crate::validate::testing::moved;
use crate::validate::testing::ok;
use crate::validate::testing::serve;
use crate::validate::testing::settings;

mod content;
mod destinations;

const NAME: &str = "www.example.com";
const MARKER: &str = "INTERNAL-SECRET-MARKER";

struct Attempt {
    settings: Settings,
    token: Token,
    name: String,
}

impl Attempt {
    fn new(resolver: SocketAddr, port: u16) -> Self {
        Self {
            settings: settings(&[resolver], &["127.0.0.2/32"], port),
            token: Token::random(),
            name: NAME.to_owned(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn of(self, name: &str) -> Self {
        let name = name.to_owned();
        Self { name, ..self }
    }

    fn key_authorization(&self) -> String {
        self.token
            .key_authorization("9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI")
    }

    async fn run(&self) -> Result<(), Failure> {
        let validator = Validator::new(self.settings.clone()).unwrap();
        let name = Identifier::dns(&self.name).unwrap();
        let verdict = validator
            .validate(
                ChallengeType::Http01,
                &name,
                &self.token,
                &self.key_authorization(),
            )
            .await;
        if let Err(failure) = &verdict {
            let told = serde_json::to_string(&failure.problem).unwrap();
            assert!(!told.contains(MARKER), "{told}");
            assert!(!failure.detail.contains(MARKER), "{}", failure.detail);
            assert!(
                !failure.detail.contains(self.token.as_str()),
                "{}",
                failure.detail
            );
            assert!(
                !failure.detail.chars().any(char::is_control),
                "{}",
                failure.detail
            );
        }
        verdict
    }

    async fn fails(&self) -> Failure {
        self.run().await.unwrap_err()
    }
}

fn kinds(failure: &Failure) -> (ProblemType, bool) {
    (failure.problem.kind, failure.transient)
}

async fn zone(port_owner: &str) -> DnsServer {
    DnsServer::of(&[(NAME, &[port_owner])]).await
}

/// One attempt against a server that answers each request with this text.
async fn answered(answer: impl Fn(&Attempt) -> String) -> Result<(), Failure> {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::new(dns.address, port);
    let text = answer(&attempt);
    http(web, move |_| text.clone());
    attempt.run().await
}

#[tokio::test]
async fn the_key_authorization_at_its_place_proves_control() {
    let (port, [web]) = listeners(["127.0.0.2"]).await;
    let dns = zone("127.0.0.2").await;
    let attempt = Attempt::new(dns.address, port);
    let (path, content) = (attempt.token.as_str().to_owned(), attempt.key_authorization());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    http(web, move |head| {
        seen.lock().unwrap().push(head.to_owned());
        ok(&content)
    });
    attempt.run().await.unwrap();
    let expected = format!(
        "GET /.well-known/acme-challenge/{path} HTTP/1.1\r\nhost: {NAME}\r\nuser-agent: {USER_AGENT}\r\n\
         accept: */*\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(*requests.lock().unwrap(), [expected]);
}
