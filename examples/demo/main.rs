//! The demo: a throwaway CA, acme-proxy, and a client that gets a certificate, all on loopback, told in plain words.
//!
//! `SERVE=1` keeps acme-proxy running afterwards, and prints the certbot command to try against it.

#[expect(dead_code, reason = "what goes wrong at the CA is for tests")]
#[path = "../throwaway_ca/ca.rs"]
mod ca;
mod check;
mod client;
#[expect(dead_code, reason = "only a test asks what the proxy has seen")]
#[path = "../loopback/connect.rs"]
mod connect;
#[path = "../loopback/dns.rs"]
mod dns;
#[path = "../loopback/http01.rs"]
mod http01;
#[path = "../loopback/instant.rs"]
mod instant;
#[path = "../loopback/proxy.rs"]
mod proxy;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use self::http01::Http01;
use self::proxy::AcmeProxy;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const NAMES: [&str; 2] = ["www.demo.example.com", "mail.demo.example.com"];

/// Tells the reader what happens.
#[expect(clippy::print_stdout, reason = "the demo speaks to a reader")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("\nThe demo failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("acme-proxy-demo-").tempdir()?;
    say(format_args!(
        "Everything happens on 127.0.0.1 and in {}.\n",
        directory.path().display()
    ));

    say(
        "1. A throwaway CA starts. Like a public CA for organisations, it wants External Account Binding (EAB)",
    );
    say("   and takes the organisation's names as proved.");
    let ca = ca::start(ca::Options::default()).await?;
    say(format_args!("   Its directory: {}\n", ca.directory_url));

    say("2. Two small servers start that stand for the organisation's network: a DNS server to which every");
    say("   name is 127.0.0.1, and the client's web server, which answers http-01 challenges.");
    let dns = dns::start(ANY_PORT).await?;
    let web = http01::start(ANY_PORT).await?;
    say(format_args!("   DNS: {}. Web: {}.\n", dns.address, web.address));

    say(
        "3. acme-proxy starts, with a ca.json written for it. It opens its one account at the CA with the EAB,",
    );
    say("   and has the CA issue its own TLS certificate.");
    let settings = proxy::Settings {
        directory: directory.path(),
        ca_url: &ca.directory_url,
        ca_root_pem: &ca.root_pem,
        eab_kid: &ca.eab.kid,
        eab_hmac_key: &ca.eab.hmac_key,
        resolver: dns.address,
        http_port: web.address.port(),
        limits: serde_json::json!({}),
        database: None,
    };
    let proxy = unless_interrupted(AcmeProxy::start(&settings)).await?;
    say("   It is ready: /health answers, under the certificate that the CA has issued to it.");
    say(format_args!("   Its directory: {}", proxy.directory_url()));
    say(format_args!("   Its figures:   {}", proxy.metrics_url));
    say(format_args!(
        "   Its store:     {} (process {})\n",
        proxy.store.display(),
        proxy.pid()?
    ));

    // From here on acme-proxy is stopped before its directory goes, whatever happens.
    let mut outcome = unless_interrupted(demonstrate(&proxy, &ca, &web))
        .await
        .map_err(|error| error.context(proxy.log_tail()));
    let port = web.address.port();
    drop(web);
    if outcome.is_ok() && std::env::var_os("SERVE").is_some_and(|value| value == "1") {
        outcome = serve(&proxy, directory.path(), port).await;
    }
    let stopped = proxy.stop().await;
    outcome.and(stopped)?;
    say("acme-proxy has stopped, and its directory is gone. All is well.");
    Ok(())
}

/// Gets a certificate through acme-proxy, and checks everything about it.
async fn demonstrate(proxy: &AcmeProxy, ca: &ca::Running, web: &Http01) -> anyhow::Result<()> {
    say("4. A client asks acme-proxy for a certificate.");
    let obtained = client::obtain(proxy, web, &NAMES).await?;

    say("\n5. Is the certificate right?");
    let certificate = check::check(&obtained.chain, &obtained.public_key, &NAMES, &ca.root_pem)?;
    say("   Its key is the client's, its names are the ones asked for, it is valid now, and its chain leads");
    say("   by two good signatures to the CA's root.\n");
    say(certificate);
    say(&obtained.chain);

    let stats = ca.stats();
    ensure!(
        stats.accounts == 1 && stats.eab_uses == 1,
        "acme-proxy opened more than one account at the CA"
    );
    say(format_args!(
        "The CA has seen {} account, opened with {} use of the EAB, and {} orders: acme-proxy's own and the client's.\n",
        stats.accounts, stats.eab_uses, stats.orders_opened
    ));
    Ok(())
}

/// Leaves acme-proxy running, and says how certbot gets a certificate from it.
async fn serve(proxy: &AcmeProxy, directory: &Path, http_port: u16) -> anyhow::Result<()> {
    let tunnel = connect::start().await?;
    let directory = directory.display();
    say("acme-proxy goes on running. Try certbot against it, in another terminal:\n");
    say(format_args!(
        "HTTPS_PROXY=http://{} REQUESTS_CA_BUNDLE={directory}/ca-root.pem \\",
        tunnel.address
    ));
    say("certbot certonly --non-interactive --agree-tos --register-unsafely-without-email \\");
    say(format_args!(
        "  --standalone --http-01-address 127.0.0.1 --http-01-port {http_port} \\"
    ));
    say(format_args!(
        "  --config-dir {directory}/certbot --work-dir {directory}/certbot --logs-dir {directory}/certbot \\"
    ));
    say(format_args!(
        "  --server {} -d certbot.demo.example.com\n",
        proxy.directory_url()
    ));
    say("The proxy named there takes acme-proxy's made-up name for 127.0.0.1. If there is no certbot yet:");
    say("sudo apt-get install certbot. Stop the demo with Ctrl-C.");
    interrupted().await;
    Ok(())
}

/// Runs the future, and gives up on Ctrl-C or SIGTERM.
async fn unless_interrupted<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        outcome = future => outcome,
        () = interrupted() => bail!("interrupted"),
    }
}

async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
