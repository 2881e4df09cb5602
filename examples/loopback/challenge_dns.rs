//! A DNS server for tests that is told over HTTP what to answer: `POST /set-a`, `/set-txt` and `/clear-txt`, with a JSON
//! body of `host` and `value`. Names that it has not been told about have the address 127.0.0.1.
//!
//! Unlike pebble-challtestsrv, it does not care about the case of letters, and it takes back one TXT record of a name
//! without the others: acme-proxy and its client may both prove the same name at the same time.

#[path = "dns_server.rs"]
mod server;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use http::StatusCode;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::server::Dns;

/// A server that answers until this is dropped.
pub(crate) struct ChallengeDns {
    /// Where it answers, UDP and TCP.
    pub(crate) address: SocketAddr,
    /// Where it is told what to answer.
    pub(crate) management: SocketAddr,
    _dns: Dns,
    _tasks: JoinSet<()>,
}

/// What it has been told, by names in small letters with a dot at the end.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    addresses: HashMap<String, Ipv4Addr>,
    texts: HashMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Order {
    host: String,
    value: String,
}

/// Starts to listen on ports of this machine that are free.
pub(crate) async fn start() -> anyhow::Result<ChallengeDns> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let records = Records::default();
    let of_dns = records.clone();
    let zone = move |name: &Name, kind: RecordType| of_dns.find(name, kind);
    let dns = server::start(any_port, Arc::new(zone)).await?;
    let listener = TcpListener::bind(any_port).await?;
    let management = listener.local_addr()?;
    let router = Router::new().route("/{action}", post(obey)).with_state(records);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // It only ends when it is aborted.
        let _ = axum::serve(listener, router).await;
    });
    Ok(ChallengeDns {
        address: dns.address,
        management,
        _dns: dns,
        _tasks: tasks,
    })
}

async fn obey(State(records): State<Records>, Path(action): Path<String>, body: String) -> StatusCode {
    match serde_json::from_str(&body) {
        Ok(order) => records.change(&action, order),
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

impl Records {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, action: &str, Order { host, value }: Order) -> StatusCode {
        let mut told = self.told();
        let host = host.to_ascii_lowercase();
        match (action, value.parse()) {
            ("set-a", Ok(address)) => drop(told.addresses.insert(host, address)),
            ("set-txt", _) => told.texts.entry(host).or_default().push(value),
            ("clear-txt", _) => told.texts.entry(host).or_default().retain(|text| *text != value),
            _ => return StatusCode::BAD_REQUEST,
        }
        StatusCode::OK
    }

    fn find(&self, name: &Name, kind: RecordType) -> Vec<RData> {
        let told = self.told();
        let host = name.to_lowercase().to_ascii();
        match (kind, told.addresses.get(&host), told.texts.get(&host)) {
            (RecordType::A, Some(address), _) => vec![RData::A(A(*address))],
            (RecordType::TXT, _, Some(texts)) => {
                let record = |text: &String| RData::TXT(TXT::new(vec![text.clone()]));
                texts.iter().map(record).collect()
            }
            (RecordType::A, None, _) => vec![RData::A(A(Ipv4Addr::LOCALHOST))],
            _ => Vec::new(),
        }
    }
}
