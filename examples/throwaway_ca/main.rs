//! Runs the throwaway CA by itself, for the benchmark and for trying acme-proxy by hand. A test double: see `ca.rs`.

#[expect(
    dead_code,
    reason = "most of what goes wrong at the CA is for tests of the whole daemon"
)]
#[path = "ca.rs"]
mod ca;
#[cfg(test)]
#[path = "../demo/check.rs"]
mod check;
#[cfg(test)]
#[path = "../loopback/instant.rs"]
mod instant;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A throwaway ACME CA on loopback, with External Account Binding. For tests only. At a SIGUSR1 it goes down, at the next
/// one it comes up again.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to write the root certificate.
    #[arg(long, default_value = "root.pem")]
    root: PathBuf,
    /// The EAB key identifier; generated if left out.
    #[arg(long, requires = "eab_hmac_key")]
    eab_kid: Option<String>,
    /// The EAB MAC key, base64url.
    #[arg(long, requires = "eab_kid")]
    eab_hmac_key: Option<String>,
    /// Let the EAB make one account only.
    #[arg(long)]
    eab_once: bool,
    /// Pose challenges, instead of taking every name as proved.
    #[arg(long)]
    challenges: bool,
    /// Let challenges fail, instead of succeed.
    #[arg(long, requires = "challenges")]
    fail_challenges: bool,
    /// Milliseconds that a finalized order stays `processing`.
    #[arg(long, default_value_t = 0)]
    processing: u64,
    /// Percent of good nonces to refuse.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    bad_nonces: u8,
    /// Seconds that certificates are valid; 90 days if left out.
    #[arg(long)]
    life: Option<u64>,
}

/// Whether the CA is down.
struct Switch(watch::Sender<bool>);

#[async_trait]
impl ca::trouble::Trouble for Switch {
    fn is_down(&self) -> bool {
        *self.0.borrow()
    }

    async fn going_down(&self) {
        // It only fails without a sender.
        let _ = self.0.subscribe().wait_for(|down| *down).await;
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is a command")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let defaults = ca::Options::default();
    let eab = match (arguments.eab_kid, arguments.eab_hmac_key) {
        (Some(kid), Some(hmac_key)) => ca::Eab { kid, hmac_key },
        _ => defaults.eab,
    };
    let switch = Arc::new(Switch(watch::Sender::new(false)));
    let mut signals = signal(SignalKind::user_defined1())?;
    let running = ca::start(ca::Options {
        listen: arguments.listen,
        eab,
        eab_once: arguments.eab_once,
        prevalidated: !arguments.challenges,
        challenges_succeed: !arguments.fail_challenges,
        processing: Duration::from_millis(arguments.processing),
        bad_nonces: arguments.bad_nonces,
        life: arguments.life.map(Duration::from_secs),
        trouble: switch.clone(),
        ..ca::Options::default()
    })
    .await?;
    std::fs::write(&arguments.root, &running.root_pem)
        .with_context(|| format!("cannot write {}", arguments.root.display()))?;
    println!("directory     {}", running.directory_url);
    println!("root          {}", arguments.root.display());
    println!("eab_kid       {}", running.eab.kid);
    println!("eab_hmac_key  {}", running.eab.hmac_key);
    println!(
        "figures       {}",
        running.directory_url.replace("/directory", "/stats")
    );
    println!("Stop it with Ctrl-C.");
    let switching = async {
        while signals.recv().await.is_some() {
            switch.0.send_modify(|down| *down = !*down);
        }
    };
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        () = switching => {}
    }
    let stats = running.stats();
    println!(
        "{} orders, {} certificates.",
        stats.orders_opened,
        stats.certificates.len()
    );
    Ok(())
}
