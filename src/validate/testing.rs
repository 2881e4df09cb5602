//! What the tests of validation talk to: a DNS server and TCP servers on loopback, each with an answer to order.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::op::OpCode;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::CNAME;
use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UdpSocket;
use tokio_rustls::TlsAcceptor;

use crate::acme::challenge::ChallengeType;
use crate::acme::challenge::Token;
use crate::acme::identifier::Identifier;
use crate::acme::problem::ProblemType;
use crate::validate::Failure;
use crate::validate::Settings;
use crate::validate::Validator;

/// The name under validation, unless a test says otherwise.
pub(crate) const NAME: &str = "www.example.com";

/// What hosts answer, and nobody may ever be told.
pub(crate) const MARKER: &str = "INTERNAL-SECRET-MARKER";

/// Addresses that are this machine, its neighbours or a cloud's secrets, in each form that there is (C601).
pub(crate) const FORBIDDEN: [&str; 24] = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "fd00::5efe:127.0.0.1",
];

/// One validation to be: 127.0.0.2 is allowed, and nothing else is.
pub(crate) struct Attempt {
    pub(crate) settings: Settings,
    pub(crate) token: Token,
    kind: ChallengeType,
    identifier: Identifier,
}

impl Attempt {
    pub(crate) fn http01(resolver: SocketAddr, port: u16) -> Self {
        Self::by(ChallengeType::Http01, resolver, port)
    }

    pub(crate) fn tls_alpn01(resolver: SocketAddr, port: u16) -> Self {
        Self::by(ChallengeType::TlsAlpn01, resolver, port)
    }

    pub(crate) fn by(kind: ChallengeType, resolver: SocketAddr, port: u16) -> Self {
        Self {
            settings: settings(&[resolver], &["127.0.0.2/32"], port),
            token: Token::random(),
            kind,
            identifier: Identifier::dns(NAME).unwrap(),
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub(crate) fn of(self, name: &str) -> Self {
        let identifier = Identifier::dns(name).unwrap();
        Self { identifier, ..self }
    }

    pub(crate) fn of_address(self, address: &str) -> Self {
        let identifier = Identifier::Ip(address.parse().unwrap());
        Self { identifier, ..self }
    }

    pub(crate) fn key_authorization(&self) -> String {
        self.token
            .key_authorization("9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI")
    }

    /// Makes the attempt, and checks that nothing which was fetched is told.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let validator = Validator::new(self.settings.clone()).unwrap();
        let key_authorization = self.key_authorization();
        let verdict = validator
            .validate(self.kind, &self.identifier, &self.token, &key_authorization)
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

    pub(crate) async fn fails(&self) -> Failure {
        self.run().await.unwrap_err()
    }
}

/// What the client's software goes by, and whether there is another attempt.
pub(crate) fn kinds(failure: &Failure) -> (ProblemType, bool) {
    (failure.problem.kind, failure.transient)
}

/// A DNS server on which the name has one address.
pub(crate) async fn zone(address: &str) -> DnsServer {
    DnsServer::of(&[(NAME, &[address])]).await
}

/// What the DNS server says.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These records, owned by the name that was asked for.
    Addresses(Vec<IpAddr>),
    /// A chain of CNAME records from the name that was asked for, and the addresses at its end.
    Aliased(Vec<String>, Vec<IpAddr>),
    /// An address of another name, then these records.
    Foreign(String, IpAddr, Vec<IpAddr>),
    NoRecords,
    NxDomain,
    ServFail,
    Refused,
    Silence,
    /// The records, and over UDP the question in lower case, whatever its case was.
    LowerCase(Vec<IpAddr>),
    /// The records over TCP only; UDP gets a truncated answer.
    OverTcp(Vec<IpAddr>),
    /// These records, as they are.
    Records(Vec<Record>),
    /// These records, and this response code.
    Code(ResponseCode, Vec<Record>),
    /// These records; the message is cut after so many bytes over UDP, with TC set or not.
    Cut(usize, bool, Vec<Record>),
    /// Whatever is made of the message without records.
    Raw(fn(Message) -> Vec<u8>),
    /// Over UDP a forged answer with these records comes first.
    After(Forgery, Vec<Record>, Box<Self>),
}

/// What is wrong with a forged answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Forgery {
    Id,
    Name,
    Type,
    Class,
    Sender,
}

/// A DNS server, on UDP and TCP.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    asked: Asked,
}

/// Ids, names and types. What is repeated over UDP for want of an answer in time is there once.
type Asked = Arc<Mutex<Vec<(u16, String, RecordType)>>>;

type Script = Arc<dyn Fn(&str, RecordType) -> Answer + Send + Sync>;

impl DnsServer {
    /// Answers as the script says, given the lower-case name without its final dot, and the type.
    pub(crate) async fn start(script: impl Fn(&str, RecordType) -> Answer + Send + Sync + 'static) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let asked = Asked::default();
        let script: Script = Arc::new(script);
        let (log, answers) = (asked.clone(), script.clone());
        tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut packet).await {
                let query = Message::from_vec(&packet[..length]).unwrap();
                let mut answer = ask(&query, &answers, &log);
                while let Answer::After(forgery, records, then) = answer {
                    let message = forged(&query, forgery, records);
                    match forgery {
                        Forgery::Sender => {
                            let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                            other.send_to(&message, from).await.unwrap();
                        }
                        _ => _ = udp.send_to(&message, from).await.unwrap(),
                    }
                    answer = *then;
                }
                if let Some(answer) = reply(&query, false, answer) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await.unwrap();
                let query = Message::from_vec(&query).unwrap();
                if let Some(answer) = reply(&query, true, ask(&query, &script, &log)) {
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    /// A server that knows these addresses of these names, and nothing else.
    pub(crate) async fn of(zone: &[(&str, &[&str])]) -> Self {
        let zone: HashMap<String, Vec<IpAddr>> = zone
            .iter()
            .map(|(name, list)| {
                (
                    (*name).to_owned(),
                    list.iter().map(|ip| ip.parse().unwrap()).collect(),
                )
            })
            .collect();
        Self::start(move |name, _| {
            zone.get(name)
                .cloned()
                .map_or(Answer::NxDomain, Answer::Addresses)
        })
        .await
    }

    /// Every name is at 127.0.0.2 when it is first asked for, and at 127.0.0.1 from then on.
    pub(crate) async fn rebinding() -> Self {
        let asked = Mutex::new(false);
        Self::start(move |_, kind| {
            if kind != RecordType::A {
                return Answer::NoRecords;
            }
            let before = std::mem::replace(&mut *asked.lock().unwrap(), true);
            Answer::Addresses(vec![IpAddr::from([127, 0, 0, if before { 1 } else { 2 }])])
        })
        .await
    }

    /// How many queries of the type have come.
    pub(crate) fn queries(&self, kind: RecordType) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, _, asked)| *asked == kind)
            .count()
    }

    /// The names that were asked for, as they were written.
    pub(crate) fn names(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(_, name, _)| name.clone())
            .collect()
    }
}

fn ask(query: &Message, script: &Script, log: &Asked) -> Answer {
    let (owner, kind) = (query.queries[0].name().to_string(), query.queries[0].query_type());
    let question = (query.id, owner.clone(), kind);
    let mut asked = log.lock().unwrap();
    if !asked.contains(&question) {
        asked.push(question);
    }
    drop(asked);
    script(owner.to_lowercase().trim_end_matches('.'), kind)
}

fn forged(query: &Message, forgery: Forgery, records: Vec<Record>) -> Vec<u8> {
    let mut message = Message::response(query.id, OpCode::Query);
    message.add_query(query.queries[0].clone());
    message.add_answers(records);
    let question = &mut message.queries[0];
    match forgery {
        Forgery::Id => message.metadata.id ^= 1,
        Forgery::Name => _ = question.set_name(Name::from_ascii("other.example.com.").unwrap()),
        Forgery::Type => _ = question.set_query_type(RecordType::HINFO),
        Forgery::Class => _ = question.set_query_class(DNSClass::CH),
        Forgery::Sender => {}
    }
    message.to_vec().unwrap()
}

fn reply(query: &Message, tcp: bool, answer: Answer) -> Option<Vec<u8>> {
    let question = query.queries[0].clone();
    let (owner, kind) = (question.name().clone(), question.query_type());
    let mut message = Message::response(query.id, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_query(question);
    let mut add = |owner: &Name, addresses: Vec<IpAddr>| {
        let data = addresses
            .into_iter()
            .map(RData::from)
            .filter(|data| data.record_type() == kind);
        message.add_answers(data.map(|data| Record::from_rdata(owner.clone(), 0, data)));
    };
    match answer {
        Answer::Addresses(addresses) => add(&owner, addresses),
        Answer::Foreign(name, address, addresses) => {
            add(&Name::from_ascii(name).unwrap(), vec![address]);
            add(&owner, addresses);
        }
        Answer::LowerCase(addresses) => {
            add(&owner, addresses);
            if !tcp {
                let question = message.queries[0].name().to_lowercase();
                message.queries[0].set_name(question);
            }
        }
        Answer::OverTcp(addresses) if tcp => add(&owner, addresses),
        Answer::OverTcp(_) => message.metadata.truncation = true,
        Answer::Aliased(names, addresses) => {
            let mut owner = owner;
            let mut aliases = Vec::new();
            for name in names {
                let target = Name::from_ascii(name).unwrap();
                aliases.push(Record::from_rdata(owner, 0, RData::CNAME(CNAME(target.clone()))));
                owner = target;
            }
            add(&owner, addresses);
            message.answers.splice(0..0, aliases);
        }
        Answer::NoRecords => {}
        Answer::NxDomain => message.metadata.response_code = ResponseCode::NXDomain,
        Answer::ServFail => message.metadata.response_code = ResponseCode::ServFail,
        Answer::Refused => message.metadata.response_code = ResponseCode::Refused,
        Answer::Silence => return None,
        Answer::Records(records) => _ = message.add_answers(records),
        Answer::Code(code, records) => {
            message.metadata.response_code = code;
            message.add_answers(records);
        }
        Answer::Cut(length, truncation, records) => {
            message.add_answers(records);
            if !tcp {
                message.metadata.truncation = truncation;
                return Some(message.to_vec().unwrap()[..length].to_vec());
            }
        }
        Answer::Raw(made) => return Some(made(message)),
        Answer::After(_, _, then) => return reply(query, tcp, *then),
    }
    let bytes = message.to_vec().unwrap();
    // What does not fit is left to TCP, as real servers do.
    match bytes.len() > 1232 && !tcp {
        true => {
            message.answers.clear();
            message.metadata.truncation = true;
            Some(message.to_vec().unwrap())
        }
        false => Some(bytes),
    }
}

/// Listeners on one port of several addresses.
pub(crate) async fn listeners<const N: usize>(addresses: [&str; N]) -> (u16, [TcpListener; N]) {
    'port: for _ in 0..100 {
        let port = TcpListener::bind((addresses[0], 0))
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut bound = Vec::new();
        for address in addresses {
            match TcpListener::bind((address, port)).await {
                Ok(listener) => bound.push(listener),
                Err(_) => continue 'port,
            }
        }
        return (port, bound.try_into().unwrap());
    }
    panic!("no port is free on all of {addresses:?}; the tests need IPv4 and IPv6 loopback");
}

/// Hands each connection to the handler; counts them.
pub(crate) fn serve<F, R>(listener: TcpListener, handler: F) -> Arc<Mutex<usize>>
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *counted.lock().unwrap() += 1;
            tokio::spawn(handler(stream));
        }
    });
    count
}

/// Answers each request by its head, e.g. `GET / HTTP/1.1` with the header fields, then closes.
pub(crate) fn http(
    listener: TcpListener,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Arc<Mutex<usize>> {
    let answer = Arc::new(answer);
    serve(listener, move |mut stream| {
        let answer = answer.clone();
        async move {
            let head = head(&mut stream).await;
            let _ = stream.write_all(answer(&head).as_bytes()).await;
        }
    })
}

/// Reads a request's head.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A complete answer.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A redirect.
pub(crate) fn moved(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

/// Fails if anyone has connected, even if nobody has accepted it yet.
pub(crate) async fn assert_untouched(canary: &TcpListener) {
    let connection = tokio::time::timeout(Duration::from_millis(20), canary.accept()).await;
    assert!(connection.is_err(), "a connection to {:?}", canary.local_addr());
}

/// A TLS server's side of connections: with this certificate chain, the first one's key or another, and these protocols.
pub(crate) fn tls_acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: &rcgen::KeyPair,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let signing = provider.key_provider.load_private_key(key).unwrap();
    let certified = CertifiedKey::new(chain, signing);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A `ServerHello` of TLS 1.1 or 1.2, by its minor version, which selects the protocol.
pub(crate) fn server_hello(minor: u8, protocol: &str) -> Vec<u8> {
    let name = protocol.len() as u8;
    let alpn = [&[0, 16, 0, name + 3, 0, name + 1, name], protocol.as_bytes()].concat();
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    // No session, a cipher suite with ECDHE and RSA, no compression.
    hello.extend([0, 0xc0, if minor == 2 { 0x13 } else { 0x2f }, 0]);
    hello.extend([0, alpn.len() as u8]);
    hello.extend(alpn);
    let length = hello.len() as u8;
    [vec![0x16, 3, minor, 0, length + 4, 2, 0, 0, length], hello].concat()
}

/// Settings with these resolvers, and only the named addresses allowed.
pub(crate) fn settings(resolvers: &[SocketAddr], allow: &[&str], port: u16) -> Settings {
    Settings {
        resolvers: resolvers.to_vec(),
        allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
        http_port: port,
        tls_port: port,
        timeout: Duration::from_secs(10),
        ..Settings::default()
    }
}
