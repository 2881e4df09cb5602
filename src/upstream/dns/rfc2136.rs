//! `rfc2136`: dynamic updates of a zone at its primary server (RFC 2136), signed by a TSIG key: BIND, Knot, PowerDNS,
//! Windows and others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::Message;
use hickory_proto::op::Query;
use hickory_proto::op::ResponseCode;
use hickory_proto::op::update_message;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordSet;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::TXT;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;

use crate::acme::secret::Secret;
use crate::upstream::dns::Record;
use crate::upstream::dns::provider::Action;
use crate::upstream::dns::provider::Provider;
use crate::upstream::dns::tsig;
use crate::upstream::dns::tsig::Key;
use crate::upstream::dns::variables::Noted;
use crate::upstream::dns::variables::Variables;
use crate::upstream::dns::web::Web;
use crate::upstream::lookup;

/// One message and its answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// What lego takes if none is configured.
const DEFAULT_ALGORITHM: &str = "hmac-sha1";

#[derive(Debug)]
struct Rfc2136 {
    /// `host:port`.
    server: String,
    key: Option<Key>,
    ttl: u32,
    /// Zones that need not be asked for.
    zones: Vec<Name>,
}

/// Reads the variables.
pub(crate) fn read(variables: &mut Variables) -> Result<Arc<dyn Provider>, Noted> {
    variables.ignored(&["SEQUENCE_INTERVAL", "DNS_TIMEOUT"]);
    let gss = ["REALM", "USERNAME", "PASSWORD", "KEYTAB"].map(|part| format!("TSIG_GSS_{part}"));
    let gss = variables.unavailable(&gss.each_ref().map(String::as_str), "write a TSIG key");
    let server = variables.required("NAMESERVER", "the primary server, e.g. \"ns1.example.com:53\"");
    let server = server.and_then(|text| {
        with_port(&text).ok_or_else(|| {
            variables.wrong(
                "NAMESERVER",
                "is no \"host\" or \"host:port\"; write e.g. \"ns1.example.com:53\"",
            )
        })
    });
    let key = key(variables);
    let ttl = variables.ttl(120, 1);
    let listed = variables.text("ZONES").unwrap_or_default();
    let mut zones = Vec::new();
    for zone in listed.split(',').map(str::trim).filter(|zone| !zone.is_empty()) {
        match fully_qualified(zone) {
            Some(zone) => zones.push(zone),
            None => return Err(variables.wrong("ZONES", "is no list of zones separated by commas")),
        }
    }
    zones.sort_by_key(|zone| std::cmp::Reverse(zone.num_labels()));
    gss?;
    Ok(Arc::new(Rfc2136 {
        server: server?,
        key: key?,
        ttl: ttl?,
        zones,
    }))
}

/// The key, of its three variables or of a file that `tsig-keygen` wrote.
fn key(variables: &mut Variables) -> Result<Option<Key>, Noted> {
    let file = variables.secret("TSIG");
    let (name, algorithm, secret) = match &file {
        Some(file) => {
            let word = |key| word_after(file.reveal(), key).map(str::to_owned);
            (word("key"), word("algorithm"), word("secret").map(Secret::new))
        }
        None => (
            variables.text("TSIG_KEY"),
            variables.text("TSIG_ALGORITHM"),
            variables.secret("TSIG_SECRET"),
        ),
    };
    let (name, secret) = match (name, secret) {
        (Some(name), Some(secret)) => (name, secret),
        (None, None) if file.is_none() => return Ok(None),
        _ if file.is_some() => {
            return Err(variables.wrong("TSIG_FILE", "names a file that is not what tsig-keygen writes"));
        }
        (Some(_), None) => {
            return Err(variables.wrong("TSIG_SECRET", "is missing; write the key's secret, in base64"));
        }
        (None, _) => return Err(variables.wrong("TSIG_KEY", "is missing; write the key's name")),
    };
    let Some(name) = fully_qualified(&name) else {
        return Err(variables.wrong("TSIG_KEY", "is no name of a key"));
    };
    variables.secrets.push(secret.clone());
    let Ok(bytes) = STANDARD.decode(secret.reveal()) else {
        return Err(variables.wrong(
            "TSIG_SECRET",
            "is not base64; write the secret as the server has it",
        ));
    };
    let algorithm = algorithm.unwrap_or_else(|| DEFAULT_ALGORITHM.to_owned());
    match Key::new(name, &algorithm, Secret::new(bytes)) {
        Some(key) => Ok(Some(key)),
        None => {
            let known = tsig::algorithms();
            Err(variables.wrong("TSIG_ALGORITHM", format!("is unknown; write one of {known}")))
        }
    }
}

/// `key "name" { algorithm hmac-sha256; secret "..."; };`
fn word_after<'t>(file: &'t str, key: &str) -> Option<&'t str> {
    let mut words = file.split(|c: char| c.is_whitespace() || "{};\"".contains(c));
    words.by_ref().find(|word| *word == key)?;
    words.find(|word| !word.is_empty())
}

fn fully_qualified(name: &str) -> Option<Name> {
    let mut name: Name = name.parse().ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Port 53 unless there is another.
fn with_port(server: &str) -> Option<String> {
    let bare = server.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Some(SocketAddr::new(address, 53).to_string());
    }
    let (host, port) = server.rsplit_once(':').unwrap_or((server, "53"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    let usable = !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok();
    usable.then(|| format!("{host}:{port}"))
}

#[async_trait]
impl Provider for Rfc2136 {
    async fn apply(&self, action: Action, record: &Record, web: &Web) -> Result<(), String> {
        let Some(name) = fully_qualified(&record.name) else {
            return Err("no name of DNS".to_owned());
        };
        let zone = match self.zones.iter().find(|zone| zone.zone_of(&name)) {
            Some(zone) => zone.clone(),
            None => self.zone_of(&name, web).await?,
        };
        let mut set = RecordSet::with_ttl(name, RecordType::TXT, self.ttl);
        set.add_rdata(RData::TXT(TXT::new(vec![record.value.clone()])));
        let update = match action {
            Action::Present => update_message::append(set, zone.clone(), false, false),
            Action::Withdraw => update_message::delete_by_rdata(set, zone.clone(), false),
        };
        let answer = self.exchange(update, web).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(()),
            code => Err(format!("{} refuses to update {zone}: {code}", self.server)),
        }
    }
}

impl Rfc2136 {
    /// The zone that holds the name, by the primary's own word: the owner of the SOA record that it answers with.
    async fn zone_of(&self, name: &Name, web: &Web) -> Result<Name, String> {
        let mut question = Message::query();
        question.add_query(Query::query(name.clone(), RecordType::SOA));
        let answer = self.exchange(question, web).await?;
        let mut records = answer.answers.iter().chain(&answer.authorities);
        let start = records.find(|record| record.record_type() == RecordType::SOA);
        match start.filter(|start| start.name.zone_of(name)) {
            Some(start) => Ok(start.name.clone()),
            None => Err(format!(
                "{} does not know the zone of {name} ({})",
                self.server, answer.metadata.response_code
            )),
        }
    }

    /// Sends a message, signed if there is a key, and checks the answer.
    async fn exchange(&self, mut message: Message, web: &Web) -> Result<Message, String> {
        let now = || u64::try_from(web.now().as_second()).unwrap_or(0);
        let signature = match &self.key {
            Some(key) => Some((key, key.sign(&mut message, now())?)),
            None => None,
        };
        let garbled = |error: &dyn std::fmt::Display| format!("{}: {error}", self.server);
        let question = message.to_vec().map_err(|error| garbled(&error))?;
        let bytes = match tokio::time::timeout(DEADLINE, self.carry(&question)).await {
            Ok(bytes) => bytes.map_err(|error| garbled(&error))?,
            Err(_) => return Err(format!("{} does not answer", self.server)),
        };
        let answer = Message::from_vec(&bytes).map_err(|error| garbled(&error))?;
        if answer.metadata.id != message.metadata.id {
            return Err(garbled(&"an answer to another question"));
        }
        if let Some((key, signature)) = signature {
            key.verify(&bytes, &signature, now())
                .map_err(|error| format!("{} ({})", garbled(&error), answer.metadata.response_code))?;
        }
        Ok(answer)
    }

    /// Over TCP, which any length fits; over UDP, as lego does it, where the server is not reached by TCP.
    async fn carry(&self, question: &[u8]) -> std::io::Result<Vec<u8>> {
        let addresses = lookup::sockets(&self.server).await?;
        match tokio::time::timeout(DEADLINE / 2, TcpStream::connect(&addresses[..])).await {
            Ok(Ok(mut stream)) => {
                let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
                stream
                    .write_all(&[&length.to_be_bytes(), question].concat())
                    .await?;
                let mut answer = vec![0; usize::from(stream.read_u16().await?)];
                stream.read_exact(&mut answer).await?;
                Ok(answer)
            }
            Ok(Err(_)) | Err(_) => {
                let address = addresses.first().ok_or(std::io::ErrorKind::NotFound)?;
                let any = match address.is_ipv4() {
                    true => "0.0.0.0:0",
                    false => "[::]:0",
                };
                let socket = UdpSocket::bind(any).await?;
                // What comes from elsewhere is not received.
                socket.connect(address).await?;
                socket.send(question).await?;
                let mut answer = vec![0; usize::from(u16::MAX)];
                let length = socket.recv(&mut answer).await?;
                answer.truncate(length);
                Ok(answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_of_tsig_keygen_is_read() {
        let file = "key \"acme-key\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};\n";
        assert_eq!(word_after(file, "key"), Some("acme-key"));
        assert_eq!(word_after(file, "algorithm"), Some("hmac-sha256"));
        assert_eq!(word_after(file, "secret"), Some("c2VjcmV0"));
        assert_eq!(word_after("nothing", "key"), None);
    }

    #[test]
    fn port_53_is_the_default() {
        for (server, address) in [
            ("ns1.example.com", Some("ns1.example.com:53")),
            ("ns1.example.com:5353", Some("ns1.example.com:5353")),
            ("192.0.2.1", Some("192.0.2.1:53")),
            ("2001:db8::1", Some("[2001:db8::1]:53")),
            ("[2001:db8::1]", Some("[2001:db8::1]:53")),
            ("[2001:db8::1]:5353", Some("[2001:db8::1]:5353")),
            ("ns1.example.com:domain", None),
            ("https://ns1.example.com", None),
            (":53", None),
        ] {
            assert_eq!(with_port(server).as_deref(), address, "{server}");
        }
    }
}
