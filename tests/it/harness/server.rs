//! The daemon in this process, on free ports, in a directory of its own, with its own CA, DNS server and web server.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use acme_proxy::acme::order::Order;
use acme_proxy::app::App;
use acme_proxy::app::control::{self, Request};
use acme_proxy::clock::Clock;
use acme_proxy::config::{Config, Overrides};
use acme_proxy::store::sled::SledStore;
use acme_proxy::store::{Store as _, StoreError};
use acme_proxy::upstream::account::VAULT;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::harness::ca;
use crate::harness::client::Client;
use crate::harness::dns::{self, Dns};
use crate::harness::key::{Key, unb64};
use crate::harness::process::free_address;
use crate::harness::web::Web;
use crate::harness::wire::{NAMES, Site};

/// How long to wait before trying again.
const MOMENT: Duration = Duration::from_millis(10);

/// How the daemon is to be started; the default is what most tests want.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) clock: Clock,
    pub(crate) ca: ca::Options,
    /// `authority.policy`.
    pub(crate) policy: Option<Value>,
    /// More members of the provisioner `acme`.
    pub(crate) provisioner: Option<Value>,
    /// Where http-01 is looked for, if not at the web server.
    pub(crate) http_port: Option<u16>,
    /// `authority.config.limits`. Without them bad requests are not limited: all tests come from one address.
    pub(crate) limits: Option<Value>,
    /// Where tls-alpn-01 is looked for.
    pub(crate) tls_port: Option<u16>,
    /// The DNS server for validation, if not the one for which every name is this machine.
    pub(crate) resolver: Option<SocketAddr>,
    /// More of `ca.json`: objects are merged with those that are there, everything else takes their place.
    pub(crate) more: Option<Value>,
}

/// The daemon and everything around it. All of it ends with the test's runtime.
pub(crate) struct Daemon {
    pub(crate) site: Site,
    pub(crate) ca: ca::Running,
    pub(crate) web: Web,
    _dns: Dns,
    directory: TempDir,
    file: Value,
    clock: Clock,
    running: Running,
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        Self::start_with(Plan::default()).await
    }

    /// A daemon whose CA takes so long to issue.
    pub(crate) async fn start_with_slow_ca(processing: Duration) -> Self {
        Self::start_before(ca::Options {
            processing,
            ..ca::Options::default()
        })
        .await
    }

    /// A daemon with this CA.
    pub(crate) async fn start_before(ca: ca::Options) -> Self {
        Self::start_with(Plan {
            ca,
            ..Plan::default()
        })
        .await
    }

    pub(crate) async fn start_with(plan: Plan) -> Self {
        let ca = ca::start(plan.ca).await.unwrap();
        let dns = loop {
            // It needs the port twice, for UDP and for TCP.
            if let Ok(dns) = dns::start((Ipv4Addr::LOCALHOST, free_address().port()).into()).await {
                break dns;
            }
        };
        let web = Web::start().await;
        let directory = TempDir::new().unwrap();
        let write = |name: &str, text: &str| write(&directory.path().join(name), text);
        let own = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned)).unwrap();
        write("own.pem", &own.cert.pem());
        write("own.key", &own.signing_key.serialize_pem());
        write("ca-root.pem", &ca.root_pem);
        let mut provisioner = json!({ "type": "ACME", "name": "acme", "challenges": ["http-01"] });
        for (name, value) in plan.provisioner.iter().flat_map(|more| more.as_object().unwrap()) {
            provisioner[name] = value.clone();
        }
        let mut file = json!({
            "dnsNames": NAMES,
            "logger": { "format": "json" },
            "db": { "type": "sled", "dataSource": directory.path().join("db") },
            "authority": {
                "type": "externalcas",
                "config": {
                    "ca_url": ca.directory_url,
                    "ca_root": directory.path().join("ca-root.pem"),
                    "eab_kid": ca.eab.kid,
                    "eab_hmac_key": ca.eab.hmac_key,
                    "limits": plan.limits.unwrap_or(json!({ "bad_requests_per_address_per_minute": 0 })),
                    "validation": {
                        "resolvers": [plan.resolver.unwrap_or(dns.address).to_string()],
                        "allow": ["127.0.0.0/8"],
                        "http_port": plan.http_port.unwrap_or(web.address.port()),
                        "tls_port": plan.tls_port.unwrap_or(443),
                    },
                },
                "policy": plan.policy.unwrap_or(json!({})),
                "provisioners": [provisioner, { "type": "ACME", "name": "other", "challenges": ["http-01"] }],
            },
            "tls": {
                "certificate": directory.path().join("own.pem"),
                "key": directory.path().join("own.key"),
            },
        });
        if let Some(more) = plan.more {
            merge(&mut file, more);
        }
        let (address, running) = loop {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_address().port()));
            file["address"] = address.to_string().into();
            write("ca.json", &file.to_string());
            match serve(directory.path(), &plan.clock).await {
                Ok(running) => break (address, running),
                Err(error) => assert!(format!("{error:#}").contains("in use"), "{error:#}"),
            }
        };
        Self {
            site: Site {
                address,
                root: own.cert.der().clone(),
                from: None,
                header: Vec::new(),
            },
            ca,
            web,
            _dns: dns,
            directory,
            file,
            clock: plan.clock,
            running,
        }
    }

    /// Stops the daemon as a signal would, and starts it again on the same store.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| ()).await
    }

    /// The same, with a change of `ca.json` in between.
    pub(crate) async fn restart_with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.file);
        write(&self.directory.path().join("ca.json"), &self.file.to_string());
        self.restart_after(|_| ()).await
    }

    /// The same, with something done to its directory in between; the store is in `db`.
    pub(crate) async fn restart_after(mut self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.running.stop.send_replace(true);
        (&mut self.running.task).await.unwrap().unwrap();
        meanwhile(self.directory.path());
        self.start_again().await;
        self
    }

    /// A program that another test starts just when the store is closed has been forked with every open file, and so with
    /// the store's lock, until it runs.
    async fn start_again(&mut self) {
        for _ in 0..500 {
            match serve(self.directory.path(), &self.clock).await {
                Err(error) if format!("{error:#}").contains("in use") => sleep(MOMENT).await,
                started => return self.running = started.unwrap(),
            }
        }
        panic!("the store or the port stays in use");
    }

    /// Stops the daemon and opens its store.
    async fn closed(&mut self) -> SledStore {
        self.running.stop.send_replace(true);
        (&mut self.running.task).await.unwrap().unwrap();
        store_of(&self.directory.path().join("ca.json")).await
    }

    /// The keys of the daemon's accounts at its CAs, whatever they are for. The daemon is started again for it.
    pub(crate) async fn upstream_keys(mut self) -> (Self, Vec<Key>) {
        let store = self.closed().await;
        let mut keys = BTreeSet::new();
        for name in store.names(VAULT).await.unwrap() {
            let record = store.load(&name).await.unwrap().unwrap();
            let record: Value = serde_json::from_slice(&record.value).unwrap();
            let own = [&record["key"], &record["successor"]["key"]];
            keys.extend(own.into_iter().filter_map(|key| key.as_str().map(unb64)));
        }
        drop(store);
        self.start_again().await;
        (self, keys.iter().map(|key| Key::from_pkcs8(key)).collect())
    }

    /// What is stored of an order. The daemon is started again for it.
    pub(crate) async fn stored(mut self, url: &str) -> (Self, Order) {
        let store = self.closed().await;
        let id = url.rsplit('/').next().unwrap().parse().unwrap();
        let order = store.order(id).await.unwrap().unwrap().value;
        drop(store);
        self.start_again().await;
        (self, order)
    }

    /// The key of the certificate that the daemon serves.
    pub(crate) fn own_key(&self) -> Key {
        let pem = std::fs::read_to_string(self.directory.path().join("own.key")).unwrap();
        Key::of("ES256", rcgen::KeyPair::from_pem(&pem).unwrap())
    }

    /// Carries out a command as `acme-proxy eab` does, and gives what it prints.
    pub(crate) async fn control(&self, request: Request) -> anyhow::Result<String> {
        let config = Config::load(&self.directory.path().join("ca.json"), &Overrides::default())?;
        control::carry_out(config, request).await
    }

    /// A client with a new account.
    pub(crate) async fn account(&self) -> Client {
        Client::register(&self.site, Key::new()).await
    }
}

/// Opens the store of a daemon that has ended. Its lock may stay with a program that another test has just forked.
pub(crate) async fn store_of(config: &Path) -> SledStore {
    loop {
        let config = Config::load(config, &Overrides::default()).unwrap();
        match SledStore::open(config.store) {
            Err(StoreError::InUse { .. }) => sleep(MOMENT).await,
            opened => return opened.unwrap(),
        }
    }
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

async fn serve(directory: &Path, clock: &Clock) -> anyhow::Result<Running> {
    let config = Config::load(&directory.join("ca.json"), &Overrides::default())?;
    let app = App::build_at(config, clock.clone()).await?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(app.run(stopped));
    Ok(Running { stop, task })
}

fn write(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).unwrap().write_all(text.as_bytes()).unwrap();
}
