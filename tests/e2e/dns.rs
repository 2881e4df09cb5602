//! pebble-challtestsrv, the DNS of these tests: it answers 127.0.0.1 for every name that it has not been told about,
//! and it is where the TXT records for the CA's own challenges are set.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

use crate::process::Daemon;
use crate::process::free_port;
use crate::process::program;
use crate::web::Web;

const PROGRAM: &str = "pebble-challtestsrv";

/// The DNS server.
pub(crate) struct Dns {
    /// Where it answers.
    pub(crate) port: u16,
    /// Where it answers, whatever the case of the letters.
    pub(crate) any_case: SocketAddr,
    /// Where it is told what to answer.
    pub(crate) management_port: u16,
    web: Web,
    _daemon: Daemon,
}

impl Dns {
    /// Starts it, and waits until it can be told what to answer.
    pub(crate) fn start(directory: &Path, runtime: &Runtime) -> Self {
        let (port, management_port) = (free_port(), free_port());
        let mut command = program(PROGRAM);
        command.args(["-dns01", &format!("127.0.0.1:{port}")]);
        command.args(["-management", &format!("127.0.0.1:{management_port}")]);
        command.args([
            "-defaultIPv6",
            "",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ]);
        let mut daemon = Daemon::start(PROGRAM, "pebble", &mut command, directory.join("dns.log"));
        let web = Web::plain();
        let harmless = json!({ "host": "nobody.example.com." });
        let url = format!("http://127.0.0.1:{management_port}/clear-txt");
        daemon.wait_for("its management", || web.post(&url, &harmless));
        let front = runtime
            .block_on(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
            .unwrap();
        let any_case = front.local_addr().unwrap();
        runtime.spawn(relay(Arc::new(front), port));
        Self {
            port,
            any_case,
            management_port,
            web,
            _daemon: daemon,
        }
    }

    /// From now on the name has this address and no other.
    pub(crate) fn point(&self, name: &str, address: Ipv4Addr) {
        let record = json!({ "host": format!("{name}."), "addresses": [address.to_string()] });
        for action in ["clear-a", "add-a"] {
            let url = format!("http://127.0.0.1:{}/{action}", self.management_port);
            self.web
                .post(&url, &record)
                .expect("the DNS server takes an address");
        }
    }
}

/// Hands questions on with small letters only. acme-proxy writes names in small and capital letters at random, so that
/// answers are harder to forge; to every other DNS server that makes no difference (RFC 4343), but to pebble-challtestsrv
/// it does.
async fn relay(front: Arc<UdpSocket>, server: u16) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, asker)) = front.recv_from(&mut buffer).await {
        let question = buffer[..length].to_vec();
        let front = front.clone();
        tokio::spawn(async move {
            let answer = ask(question, server).await.expect("pebble-challtestsrv answers");
            front.send_to(&answer, asker).await
        });
    }
}

/// Asks with small letters, and has the answer repeat the question as it was.
async fn ask(mut question: Vec<u8>, server: u16) -> std::io::Result<Vec<u8>> {
    // RFC 1035 §4.1: behind twelve octets stands the name, and behind the name a zero. No label is so long that its
    // length could be taken for a letter.
    let name = question.iter().skip(12).take_while(|octet| **octet != 0).count();
    let name = 12..12 + name;
    let as_asked = question[name.clone()].to_vec();
    question[name.clone()].make_ascii_lowercase();
    let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    back.send_to(&question, (Ipv4Addr::LOCALHOST, server)).await?;
    let mut answer = vec![0; 4096];
    let length = back.recv(&mut answer).await?;
    answer.truncate(length);
    answer[name].copy_from_slice(&as_asked);
    Ok(answer)
}
