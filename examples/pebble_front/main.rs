//! Stands in for Pebble in the tests that others have written for it: takes Pebble's configuration and options, starts a
//! real Pebble with acme-proxy in front of it, and serves at the configured address.
//!
//! A client that asks for `/dir` gets acme-proxy's own directory, whose URLs lead straight to acme-proxy: nothing stands
//! between the two. Pebble's management answers where the configuration says, and knows the certificates. Variables:
//! `CA_ROOT`, the root of the configured TLS certificate.

#[path = "../loopback/challenge_dns.rs"]
mod challenge_dns;
mod children;
mod directory;
#[path = "../loopback/instant.rs"]
mod instant;
mod lowercase;
mod options;
mod proved;
mod settings;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::time::sleep;

use self::children::Children;
use self::directory::Directory;
use self::options::Options;
use self::settings::Settings;

/// How often a child is looked at until it answers.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 600;

// One thread: a child is killed when the thread ends that has started it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::from_arguments(std::env::args().skip(1))?;
    // From here on nobody is turned away: they wait until everything has started.
    let listener = tokio::net::TcpListener::bind(options.pebble.listen_address).await?;
    let directory = tempfile::Builder::new().prefix("pebble-front-").tempdir()?;
    let dns = challenge_dns::start().await?;
    let settings = Settings {
        directory: directory.path(),
        options: &options,
        dns: &dns,
        resolver: lowercase::start(options.dns_server).await?,
        pebble: free_address()?,
        acme_proxy: free_address()?,
        ca_root: std::env::var_os("CA_ROOT").context("CA_ROOT is not set")?.into(),
    };
    let mut children = Children::default();
    children.start_pebble(&settings)?;
    for address in [settings.pebble, options.pebble.management_listen_address] {
        wait_for(&mut children, || async { TcpStream::connect(address).await.ok() }).await?;
    }
    let client = settings.client()?;
    let ca_json = settings.write("ca.json", &settings.for_acme_proxy()?)?;
    proved::addresses(&ca_json, client.clone()).await?;
    children.start_acme_proxy(&settings, &ca_json)?;
    let source = Directory::of(&settings, client)?;
    wait_for(&mut children, || source.fetch()).await?;
    tokio::select! {
        served = source.serve(listener) => served,
        ended = children.ended() => ended,
    }
}

/// Asks again and again, until there is an answer.
async fn wait_for<T, A: Future<Output = Option<T>>>(
    children: &mut Children,
    ask: impl Fn() -> A,
) -> anyhow::Result<T> {
    for _ in 0..LOOKS {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        children.all_run()?;
        sleep(LOOK).await;
    }
    bail!("it has not started in time")
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
