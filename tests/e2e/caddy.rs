//! Caddy, which gets certificates for its sites by itself: http-01 or tls-alpn-01 on its own ports.

use std::path::Path;
use std::path::PathBuf;

use crate::certificate::Leaf;
use crate::certificate::check;
use crate::environment::Environment;
use crate::environment::Host;
use crate::process::Daemon;

/// A site under Caddy, served until this is dropped.
struct Caddy {
    daemon: Daemon,
    storage: PathBuf,
}

impl Caddy {
    /// Starts it, with one of its challenges turned off.
    fn start(host: &Host<'_>, name: &str, without: &str) -> Self {
        let storage = host.directory.join("storage");
        let caddyfile = host.directory.join("Caddyfile");
        let (http, https) = (host.http_port(), host.tls_port());
        let (address, url) = (host.address, host.directory_url());
        let (root, kept) = (host.root().display(), storage.display());
        let text = format!(
            "{{
                admin off
                http_port {http}
                https_port {https}
                default_bind {address}
                storage file_system {kept}
            }}
            {name} {{
                respond \"served\"
                tls {{
                    issuer acme {{
                        email admin@example.com
                        dir {url}
                        trusted_roots {root}
                        {without}
                    }}
                }}
            }}"
        );
        std::fs::write(&caddyfile, text).unwrap();
        let mut caddy = host.program("caddy");
        caddy
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(caddyfile);
        let log = host.directory.join("caddy.log");
        Self {
            daemon: Daemon::start("caddy", "caddy", &mut caddy, log),
            storage,
        }
    }

    /// Its certificate, once it is there, checked.
    fn leaf(&mut self, host: &Host<'_>, name: &str) -> Leaf {
        let (storage, chain) = (&self.storage, format!("{name}.crt"));
        let chain = self.daemon.wait_for("its certificate", || find(storage, &chain));
        let metadata = chain.with_extension("json");
        self.daemon
            .wait_for("its metadata", || metadata.exists().then_some(()));
        check(host, &chain, &chain.with_extension("key"), &[name])
    }
}

/// A file of this name, anywhere below.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => find(&path, name),
            false => path.ends_with(name).then_some(path),
        }
    })
}

#[test]
fn caddy_gets_a_certificate_for_its_site_by_http_01() {
    let environment = Environment::shared();
    let name = "caddy.example.com";
    let host = environment.host(&[name]);
    let mut caddy = Caddy::start(&host, name, "disable_tlsalpn_challenge");
    assert!(caddy.leaf(&host, name).is_p256());
}

#[test]
fn caddy_gets_a_certificate_for_its_site_by_tls_alpn_01() {
    let environment = Environment::shared();
    let name = "alpn.caddy.example.com";
    let host = environment.host(&[name]);
    Caddy::start(&host, name, "disable_http_challenge").leaf(&host, name);
}
