//! A DNS server, over UDP, that a test tells what to answer: TXT records, an alias, or that something is wrong.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// The server; it ends with the test's runtime.
pub(crate) struct Zone {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Result<Vec<RData>, ResponseCode>>>,
    /// Ids and names as they were written: a question that is repeated for want of an answer is one.
    asked: Mutex<HashSet<(u16, String)>>,
}

impl Zone {
    /// A server without any name.
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        tokio::spawn(serve(socket, Arc::clone(&shared)));
        Self { address, shared }
    }

    /// From now on the name has these TXT records and nothing else.
    pub(crate) fn set_txt(&self, name: &str, values: &[&str]) {
        let record = |value: &&str| RData::TXT(TXT::new(vec![(*value).to_owned()]));
        self.set(name, Ok(values.iter().map(record).collect()));
    }

    /// From now on the name is an alias.
    pub(crate) fn set_alias(&self, name: &str, target: &str) {
        let target = Name::from_ascii(format!("{target}.")).unwrap();
        self.set(name, Ok(vec![RData::CNAME(CNAME(target))]));
    }

    /// From now on questions for the name are answered with the code.
    pub(crate) fn fail(&self, name: &str, code: ResponseCode) {
        self.set(name, Err(code));
    }

    fn set(&self, name: &str, answer: Result<Vec<RData>, ResponseCode>) {
        self.shared
            .answers
            .lock()
            .unwrap()
            .insert(name.to_owned(), answer);
    }

    /// How often the name's TXT records were asked for.
    pub(crate) fn looks(&self, name: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        let rooted = format!("{name}.");
        asked
            .iter()
            .filter(|(_, asked)| asked.eq_ignore_ascii_case(&rooted))
            .count()
    }
}

async fn serve(socket: UdpSocket, shared: Arc<Shared>) {
    let mut packet = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        let query = Message::from_vec(&packet[..length]).unwrap();
        let reply = shared.answer(&query).to_vec().unwrap();
        socket.send_to(&reply, from).await.unwrap();
    }
}

impl Shared {
    fn answer(&self, query: &Message) -> Message {
        let question = query.queries[0].clone();
        let owner = question.name().clone();
        let name = owner.to_ascii().to_lowercase().trim_end_matches('.').to_owned();
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        match self.answers.lock().unwrap().get(&name) {
            Some(Ok(data)) => {
                let records = data.iter().cloned();
                reply.add_answers(records.map(|data| Record::from_rdata(owner.clone(), 300, data)));
            }
            Some(Err(code)) => reply.metadata.response_code = *code,
            None => reply.metadata.response_code = ResponseCode::NXDomain,
        }
        if question.query_type() == RecordType::TXT {
            self.asked
                .lock()
                .unwrap()
                .insert((query.metadata.id, owner.to_ascii()));
        }
        reply.add_query(question);
        reply
    }
}
