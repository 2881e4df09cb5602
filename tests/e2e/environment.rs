//! Everything that a test needs: Pebble, acme-proxy, and a place for the test's ACME client.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::acme_proxy::AcmeProxy;
use crate::acme_proxy::Place;
use crate::acme_proxy::Upstream;
use crate::acme_proxy::dns01_calls;
use crate::connect;
use crate::connect::Connect;
use crate::pebble::Pebble;
use crate::process;
use crate::process::program;

/// A running acme-proxy before a running Pebble. Everything ends when this is dropped.
pub(crate) struct Environment {
    pub(crate) acme_proxy: AcmeProxy,
    pub(crate) pebble: Pebble,
    place: Place,
    tunnel: Connect,
    pub(crate) runtime: Runtime,
    clients: AtomicU8,
    directory: TempDir,
}

impl Environment {
    /// Starts everything. A new order at Pebble gets an authorization that is valid already, if there is one, with a
    /// likelihood of `reuse` percent.
    pub(crate) fn start(upstream: Upstream, reuse: u8) -> Self {
        Self::start_with(upstream, &[("PEBBLE_AUTHZREUSE", &reuse.to_string())])
    }

    /// Starts everything, with these variables for Pebble.
    pub(crate) fn start_with(upstream: Upstream, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("acme-proxy-e2e-")
            .tempdir()
            .unwrap();
        // Programs that were started by root go on as another user, who has to find what is theirs.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).unwrap();
        let runtime = Runtime::new().unwrap();
        let tunnel = runtime.block_on(connect::start()).unwrap();
        let zone = match upstream {
            Upstream::Rfc2136(server) => Some(server),
            Upstream::Dns01 | Upstream::Prevalidated => None,
        };
        let pebble = Pebble::start(directory.path(), &runtime, variables, zone);
        let place = Place::free();
        let acme_proxy = AcmeProxy::start(directory.path(), &place, &pebble, upstream);
        Self {
            acme_proxy,
            pebble,
            place,
            tunnel,
            runtime,
            clients: AtomicU8::new(0),
            directory,
        }
    }

    /// One for all tests that run at the same time and leave it as it is. It ends with the last of them.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Environment>> = Mutex::new(Weak::new());
        // A test that could not start it does not keep the next from trying.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start(Upstream::Dns01, 50));
            *shared = Arc::downgrade(&started);
            started
        })
    }

    /// Stops acme-proxy and starts it again, perhaps configured otherwise.
    pub(crate) fn restarted(self, upstream: Upstream) -> Self {
        self.acme_proxy.end();
        let directory = self.directory.path();
        let acme_proxy = AcmeProxy::start(directory, &self.place, &self.pebble, upstream);
        Self { acme_proxy, ..self }
    }

    /// acme-proxy's `ca.json`.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("ca.json")
    }

    /// acme-proxy's port.
    pub(crate) fn port(&self) -> u16 {
        self.place.port
    }

    /// What the program for dns-01 has been told about a name: each time, the action and the value.
    pub(crate) fn dns01_calls(&self, name: &str) -> Vec<(String, String)> {
        let fqdn = format!("_acme-challenge.{name}.");
        let calls = dns01_calls(self.directory.path()).into_iter();
        let about_name = calls.filter_map(|call| match <[String; 3]>::try_from(call) {
            Ok([action, about, value]) => (about == fqdn).then_some((action, value)),
            Err(call) => panic!("{call:?}"),
        });
        about_name.collect()
    }

    /// A host of its own for a client: names, an address to which they lead, a directory.
    pub(crate) fn host(&self, names: &[&str]) -> Host<'_> {
        let number = self.clients.fetch_add(1, Ordering::Relaxed) + 2;
        let address = Ipv4Addr::new(127, 0, 0, number);
        for name in names {
            self.pebble.dns.point(name, address);
        }
        let directory = self.directory.path().join(format!("client-{number}"));
        std::fs::create_dir(&directory).unwrap();
        Host {
            environment: self,
            directory,
            address,
        }
    }
}

/// Where an ACME client runs.
pub(crate) struct Host<'a> {
    pub(crate) environment: &'a Environment,
    /// For all its files.
    pub(crate) directory: PathBuf,
    /// Where its names lead.
    pub(crate) address: Ipv4Addr,
}

impl Host<'_> {
    /// A program that reaches acme-proxy by its name.
    pub(crate) fn program(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = program(name);
        command.env("HTTPS_PROXY", self.proxy());
        command.env("HOME", &self.directory);
        command
    }

    /// Runs a program of this package, and gives what it has said.
    pub(crate) fn run(&self, command: &Command, package: &str) -> String {
        let said = process::run(command, package);
        said.unwrap_or_else(|said| {
            panic!(
                "{said}\n--- acme-proxy ---\n{}",
                self.environment.acme_proxy.log()
            )
        })
    }

    /// The URL of acme-proxy's directory.
    pub(crate) fn directory_url(&self) -> String {
        self.environment.place.directory_url("acme")
    }

    /// The directory whose accounts have to be bound to an external account.
    pub(crate) fn bound_directory_url(&self) -> String {
        self.environment.place.directory_url("bound")
    }

    /// The root of acme-proxy's certificate: Pebble has issued it.
    pub(crate) fn root(&self) -> &Path {
        &self.environment.pebble.issuing_root
    }

    /// The port for http-01, on the host's own address.
    pub(crate) fn http_port(&self) -> u16 {
        self.environment.place.http_port
    }

    /// The port for tls-alpn-01, on the host's own address.
    pub(crate) fn tls_port(&self) -> u16 {
        self.environment.place.tls_port
    }

    /// The HTTPS proxy through which a program reaches acme-proxy.
    pub(crate) fn proxy(&self) -> String {
        format!("http://{}", self.environment.tunnel.address)
    }
}
