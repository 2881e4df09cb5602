//! A PostgreSQL on an address of its own, which asks for passwords and has a certificate.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use acme_proxy::acme::secret::Secret;
use acme_proxy::store::StoreError;
use acme_proxy::store::postgres::{PostgresStore, Settings, connect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::harness::postgres::{self, Postgres};

/// The user, the database and the password of the tests.
pub(crate) const USER: &str = "acmeproxy";
pub(crate) const PASSWORD: &str = "kanarienvogel";

/// What all replicas of the tests share.
pub(crate) const SECRET: &str = "0123456789abcdefghijklmnopqrstuv";

/// Who gets in how.
const ADMITTED: &str = "local all all trust
host acmeproxy,nowhere acmeproxy,limited 127.0.0.0/8 scram-sha-256
host acmeproxy guest 127.0.0.0/8 scram-sha-256
";

/// The server, until this is dropped.
pub(crate) struct Network {
    pub(crate) server: Postgres,
    /// Where it listens, on PostgreSQL's own port.
    pub(crate) address: Ipv4Addr,
    directory: TempDir,
}

impl Network {
    /// A server with one database and its owner.
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let address = address();
        let listen = format!("listen_addresses={address}");
        let settings: Vec<&str> = [listen.as_str()]
            .into_iter()
            .chain(settings.iter().copied())
            .collect();
        let network = Self {
            server: Postgres::start(&settings).unwrap(),
            address,
            directory: tempfile::tempdir().unwrap(),
        };
        network.admit(ADMITTED).await;
        network
            .sql(&format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"))
            .await;
        network.sql(&format!("CREATE DATABASE {USER} OWNER {USER}")).await;
        network
    }

    /// Carries out a statement as the superuser.
    pub(crate) async fn sql(&self, statement: &str) {
        let client = postgres::client(&self.server.config("postgres")).await.unwrap();
        // What was set to be read-only is not for whoever sets it.
        client
            .batch_execute("SET default_transaction_read_only = off")
            .await
            .unwrap();
        client.batch_execute(statement).await.unwrap();
    }

    /// The same in a database.
    pub(crate) async fn sql_in(&self, database: &str, statement: &str) {
        let client = postgres::client(&self.server.config(database)).await.unwrap();
        client.batch_execute(statement).await.unwrap();
    }

    /// Writes `pg_hba.conf`, and waits until it is read.
    pub(crate) async fn admit(&self, rules: &str) {
        fs::write(self.server.directory().join("data/pg_hba.conf"), rules).unwrap();
        self.reload().await;
    }

    /// Has the server read its settings, which it says in its log before it lets anybody else in.
    pub(crate) async fn reload(&self) {
        let said = || self.server.log().matches("received SIGHUP").count();
        let before = said();
        self.sql("SELECT pg_reload_conf()").await;
        while said() == before {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Gives the server a certificate of a new root for this name, and gives the root's file.
    pub(crate) async fn certify(&self, name: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = root.self_signed(&key).unwrap();
        let issuer = Issuer::new(root, key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let data = self.server.directory().join("data");
        put(&data, "server.crt", &leaf.pem());
        put(&data, "server.key", &key.serialize_pem());
        self.sql("ALTER SYSTEM SET ssl = on").await;
        self.reload().await;
        let file = self.directory.path().join(format!("{name}.pem"));
        fs::write(&file, own.pem()).unwrap();
        file
    }

    /// The URL of the database, with these parameters.
    pub(crate) fn url(&self, parameters: &str) -> String {
        format!("postgresql://{USER}@{}/{USER}?{parameters}", self.address)
    }
}

/// A file of the server's own user.
fn put(data: &Path, name: &str, text: &str) {
    let path = data.join(name);
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
    let owner = fs::metadata(data).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// An address of this host that no other test has.
pub(crate) fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x40, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Opens the store that this URL leads to, with this password.
pub(crate) async fn open(url: &str, password: Option<&str>) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(settings(url, password, SECRET)).await
}

/// The same by a replica with another secret.
pub(crate) async fn open_with(url: &str, secret: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(settings(url, Some(PASSWORD), secret)).await
}

fn settings(url: &str, password: Option<&str>, secret: &str) -> Settings {
    let url: acme_proxy::store::postgres::url::ConnectionUrl = url.parse().unwrap();
    Settings {
        connection: connect::Settings {
            database: url.database.clone().unwrap(),
            password: password.map(|password| Secret::new(password.to_owned())),
            pool: 4,
            url,
        },
        secret: Secret::new(secret.as_bytes().to_vec()),
    }
}

/// What is said instead of opening the store. It shows no password.
pub(crate) async fn complaint(url: &str, password: Option<&str>) -> StoreError {
    let error = open(url, password).await.map(drop).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error}");
    error
}
