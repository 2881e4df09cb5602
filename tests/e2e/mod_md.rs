//! Apache's `mod_md`, which gets certificates for its virtual hosts by itself: http-01 or tls-alpn-01 on its own ports.

use std::path::Path;
use std::path::PathBuf;
use std::thread::panicking;

use crate::certificate::Leaf;
use crate::certificate::check;
use crate::dns::hook;
use crate::environment::Environment;
use crate::environment::Host;
use crate::process::Daemon;

/// Where Debian's `apache2-bin` has its modules.
const MODULES: &str = "/usr/lib/apache2/modules";

/// A virtual host under Apache, served until this is dropped.
struct Apache {
    daemon: Daemon,
    config: PathBuf,
    store: PathBuf,
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.daemon.stop();
        let left = running_with(&self.config);
        assert!(
            left.is_empty() || panicking(),
            "processes of Apache are left: {left:?}"
        );
    }
}

/// The processes that have this file in their command lines: Apache's children have their parent's.
fn running_with(config: &Path) -> Vec<String> {
    let config = config.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let running = entries.filter_map(|entry| {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let words = command.split('\0').any(|word| word == config);
        words.then(|| format!("{}: {command}", entry.file_name().display()))
    });
    running.collect()
}

impl Apache {
    /// Starts it with one challenge turned on, and what that needs.
    fn start(host: &Host<'_>, name: &str, challenge: &str, more: &str) -> Self {
        let directory = host.directory.display();
        let store = host.directory.join("md");
        let config = host.directory.join("apache2.conf");
        let (http, https) = (host.http_port(), host.tls_port());
        let (address, url, proxy) = (host.address, host.directory_url(), host.proxy());
        let (root, kept) = (host.root().display(), store.display());
        // mod_unixd takes no notice of User and Group unless root has started it.
        let text = format!(
            "ServerRoot {directory}
            PidFile {directory}/apache2.pid
            ErrorLog {directory}/apache2.log
            LogLevel info
            LoadModule mpm_event_module {MODULES}/mod_mpm_event.so
            LoadModule authz_core_module {MODULES}/mod_authz_core.so
            LoadModule ssl_module {MODULES}/mod_ssl.so
            LoadModule md_module {MODULES}/mod_md.so
            User nobody
            Group nogroup
            ServerName {name}
            Listen {address}:{http}
            Listen {address}:{https}
            MDStoreDir {kept}
            MDCertificateAuthority {url}
            MDCACertificateFile {root}
            MDCertificateAgreement accepted
            MDContactEmail admin@example.com
            MDPrivateKeys P-256
            MDCAChallenges {challenge}
            {more}
            MDPortMap http:{http} https:{https}
            MDHttpProxy {proxy}
            MDomain {name}
            <VirtualHost {address}:{http}>
                ServerName {name}
            </VirtualHost>
            <VirtualHost {address}:{https}>
                ServerName {name}
                SSLEngine on
            </VirtualHost>"
        );
        std::fs::write(&config, text).unwrap();
        let mut apache = host.program("apache2");
        apache.arg("-DFOREGROUND").arg("-f").arg(&config);
        let log = host.directory.join("apache2.log");
        Self {
            daemon: Daemon::start("apache2", "apache2-bin", &mut apache, log),
            config,
            store,
        }
    }

    /// Its certificate, once it is there, checked. A new one waits in `staging` until Apache is told to begin anew.
    fn leaf(&mut self, host: &Host<'_>, name: &str) -> Leaf {
        let staged = self.store.join("staging").join(name).join("job.json");
        self.daemon.wait_for("its certificate", || {
            let job = std::fs::read_to_string(&staged).ok()?;
            job.contains("\"finished\": true").then_some(())
        });
        self.daemon.reload();
        let chain = self.store.join("domains").join(name).join("pubcert.p-256.pem");
        self.daemon
            .wait_for("the certificate in use", || chain.exists().then_some(()));
        check(host, &chain, &chain.with_file_name("privkey.p-256.pem"), &[name])
    }
}

#[test]
fn mod_md_gets_a_certificate_for_its_virtual_host_by_http_01() {
    let environment = Environment::shared();
    let name = "modmd.example.com";
    let host = environment.host(&[name]);
    let mut apache = Apache::start(&host, name, "http-01", "");
    assert!(apache.leaf(&host, name).is_p256());
}

#[test]
fn mod_md_gets_a_certificate_for_its_virtual_host_by_tls_alpn_01() {
    let environment = Environment::shared();
    let name = "alpn.modmd.example.com";
    let host = environment.host(&[name]);
    let more = "Protocols http/1.1 acme-tls/1";
    Apache::start(&host, name, "tls-alpn-01", more).leaf(&host, name);
}

#[test]
fn mod_md_gets_a_certificate_for_its_virtual_host_by_dns_01() {
    let environment = Environment::shared();
    let name = "dns.modmd.example.com";
    let host = environment.host(&[name]);
    let text = "case $1 in setup) publish $2 $3 ;; teardown) withdraw $2 $3 ;; esac";
    let hook = hook(&host, text);
    let more = format!("MDChallengeDns01 {}\nMDChallengeDns01Version 2", hook.display());
    Apache::start(&host, name, "dns-01", &more).leaf(&host, name);
}
