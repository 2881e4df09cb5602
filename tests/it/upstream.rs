//! The CA's side: real Pebble, a double that lies, and the scripted CA with the whole daemon before it. Needs Debian's
//! packages `pebble`, `knot` and `curl`. `docs/UPSTREAM.md` says which test shows which rule.

mod account;
mod answers;
mod bodies;
mod buyer;
mod certificates;
mod dns;
mod dns_faults;
mod double;
mod downtime;
mod hostile;
#[path = "../../examples/loopback/knot.rs"]
pub(crate) mod knot;
mod meter;
mod offers;
mod outage;
mod pebble;
pub(crate) mod scene;
mod table;
mod way;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use acme_proxy::acme::certificate::Der;
use acme_proxy::acme::id::OrderId;
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::order::Order;
use acme_proxy::acme::order::ValidatedOrder;
use acme_proxy::upstream::Error;
use acme_proxy::upstream::Issuer;
use acme_proxy::upstream::Progress;
use acme_proxy::upstream::account::Vault;
use async_trait::async_trait;
use jiff::Timestamp;

/// A test CA's TLS files: `roots.pem` with an unrelated root first, `server.pem`, `server.key`.
struct TlsFiles {
    directory: tempfile::TempDir,
}

impl TlsFiles {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            (pem, rcgen::Issuer::new(params, key))
        };
        let (unrelated, _) = authority("unrelated root");
        let (root, issuer) = authority("test root");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .extended_key_usages
            .push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        let server = params.signed_by(&key, &issuer).unwrap();
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(files.path("roots.pem"), unrelated + &root).unwrap();
        std::fs::write(files.path("server.pem"), server.pem()).unwrap();
        std::fs::write(files.path("server.key"), key.serialize_pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A vault in memory that can be told to crash: the save with that number stores nothing, or stores and does not return
/// well.
#[derive(Default)]
struct MemoryVault {
    record: Mutex<Option<Vec<u8>>>,
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    saves: Mutex<u32>,
    crash: Mutex<Option<Crash>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Crash {
    Before(u32),
    After(u32),
}

impl MemoryVault {
    fn crashing(crash: Crash) -> Arc<Self> {
        let vault = Self::default();
        *vault.crash.lock().unwrap() = Some(crash);
        Arc::new(vault)
    }

    fn restart(&self) {
        *self.crash.lock().unwrap() = None;
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.record.lock().unwrap().as_ref().unwrap()).unwrap()
    }
}

#[async_trait]
impl Vault for MemoryVault {
    async fn load(&self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.record.lock().unwrap().clone())
    }

    async fn save(&self, bytes: Vec<u8>) -> Result<(), String> {
        let mut saves = self.saves.lock().unwrap();
        *saves += 1;
        let crash = *self.crash.lock().unwrap();
        if crash == Some(Crash::Before(*saves)) {
            return Err("crashed".to_owned());
        }
        *self.record.lock().unwrap() = Some(bytes);
        match crash == Some(Crash::After(*saves)) {
            true => Err("crashed".to_owned()),
            false => Ok(()),
        }
    }

    async fn keep(&self, id: &str, bytes: Vec<u8>) -> Result<(), String> {
        self.kept.lock().unwrap().insert(id.to_owned(), bytes);
        Ok(())
    }

    async fn others(&self) -> Result<Vec<Vec<u8>>, String> {
        Ok(self.kept.lock().unwrap().values().cloned().collect())
    }

    async fn begin(&self) -> Result<tokio::sync::OwnedMutexGuard<()>, String> {
        Ok(Arc::<tokio::sync::Mutex<()>>::default().lock_owned().await)
    }

    async fn end(&self, _: tokio::sync::OwnedMutexGuard<()>) {}
}

#[expect(clippy::disallowed_methods, reason = "Pebble's certificates begin now")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn names(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::dns(name).unwrap()).collect()
}

/// An order for these names, whose CSR is by a key of this algorithm, opened at the CA or not yet.
fn order_of(list: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Order {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let list_of_names: Vec<String> = list.iter().map(|&name| name.to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(list_of_names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap();
    let csr = Der::new(csr.der().to_vec());
    Order::for_daemon(
        OrderId::random(),
        names(list),
        csr,
        now(),
        Duration::from_secs(3600),
    )
}

fn order(list: &[&str]) -> Order {
    order_of(list, &rcgen::PKCS_ECDSA_P256_SHA256)
}

fn validated(order: &Order) -> ValidatedOrder {
    order.validated(now()).unwrap()
}

/// Opens the order at the CA and remembers the URL, as the worker does.
async fn opened(ca: &dyn Issuer, order: Order) -> Order {
    let opened = ca.open(&validated(&order)).await.unwrap();
    order.opened_upstream(opened)
}

/// What the worker does until there is a chain, in a hurry.
async fn issued(ca: &dyn Issuer, order: &Order) -> Result<String, Error> {
    for _ in 0..200 {
        match ca.advance(&validated(order)).await {
            Ok(Progress::Issued(chains)) => return Ok(chains.first),
            Ok(Progress::Waiting { .. }) | Err(Error::Transient { .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no certificate");
}
