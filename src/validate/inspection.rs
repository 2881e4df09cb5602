//! What each of the DNS servers for challenge look-ups answers: for whoever checks an installation. Nothing is validated
//! here.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::DnsError;
use hickory_resolver::net::NetError;
use hickory_resolver::net::xfer::DnsHandle as _;
use hickory_resolver::net::xfer::FirstAnswer as _;
use hickory_resolver::proto::op::DnsRequestOptions;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::RecordType;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::acme::identifier::DnsName;
use crate::acme::problem::cleaned;
use crate::validate::Settings;
use crate::validate::SetupError;
use crate::validate::net::Network;
use crate::validate::net::pool;
use crate::validate::net::system_servers;

/// How long one server may take over one protocol.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks the servers of the settings one by one.
pub struct Inspection {
    servers: Vec<SocketAddr>,
    network: Network,
}

/// What one server answers, or why it is of no use.
#[derive(Debug)]
pub struct Heard {
    /// The server.
    pub server: SocketAddr,
    /// Over UDP, which every look-up begins with.
    pub over_udp: Result<String, String>,
    /// Over TCP, which long answers need.
    pub over_tcp: Result<String, String>,
}

impl Inspection {
    /// Asks nothing yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] when there is no DNS server to ask.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        Ok(Self {
            servers: match settings.resolvers.is_empty() {
                true => system_servers()?,
                false => settings.resolvers.clone(),
            },
            network: Network::new(settings)?,
        })
    }

    /// The addresses of a name, as validation finds them.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub async fn addresses(&self, name: &DnsName) -> Result<Vec<IpAddr>, String> {
        let found = self.network.addresses(name).await;
        found.map_err(|failure| failure.to_string())
    }

    /// What each server says of a name's address, in their order; without a name, of the root. None waits for another one.
    pub async fn heard(&self, name: Option<&DnsName>) -> Vec<Heard> {
        let question = match name.map(|name| Name::from_ascii(format!("{name}."))) {
            Some(Ok(name)) => Query::query(name, RecordType::A),
            Some(Err(_)) | None => Query::query(Name::root(), RecordType::NS),
        };
        let mut asked = JoinSet::new();
        for (place, server) in self.servers.iter().copied().enumerate() {
            let question = question.clone();
            asked.spawn(async move {
                let udp = ask(server, ConnectionConfig::udp(), &question);
                let tcp = ask(server, ConnectionConfig::tcp(), &question);
                let (over_udp, over_tcp) = tokio::join!(udp, tcp);
                let heard = Heard {
                    server,
                    over_udp,
                    over_tcp,
                };
                (place, heard)
            });
        }
        let mut heard = asked.join_all().await;
        heard.sort_by_key(|(place, _)| *place);
        heard.into_iter().map(|(_, heard)| heard).collect()
    }
}

/// What the server says, over one protocol: addresses, or its own word for having none.
async fn ask(server: SocketAddr, mut way: ConnectionConfig, question: &Query) -> Result<String, String> {
    way.port = server.port();
    let said = |error: NetError| cleaned(&error.to_string(), 200);
    let client = pool(server, vec![way]).map_err(said)?;
    let answer = client
        .lookup(question.clone(), DnsRequestOptions::default())
        .first_answer();
    let (code, addresses) = match timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => {
            let code = answer.response_code;
            let records = answer.into_message().answers.into_iter();
            let addresses = records.filter_map(|record| RData::ip_addr(&record.data));
            (code, addresses.map(|address| address.to_string()).collect())
        }
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(no)))) => (no.response_code, Vec::new()),
        Ok(Err(error)) => return Err(said(error)),
        Err(_) => return Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    match code {
        ResponseCode::NoError if addresses.is_empty() => Ok("answers".to_owned()),
        ResponseCode::NoError => Ok(addresses.join(", ")),
        ResponseCode::NXDomain => Ok("there is no such name".to_owned()),
        code => Err(code.to_string()),
    }
}
