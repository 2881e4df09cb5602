//! The throwaway CA as a process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::{EAB_HMAC_KEY, EAB_KID, proxy};

/// The CA as a process. It is killed when this is dropped.
pub(crate) struct ThrowawayCa {
    pub(crate) directory_url: String,
    pub(crate) root: PathBuf,
    pub(crate) root_pem: String,
    client: reqwest::Client,
    child: Child,
}

#[derive(Deserialize)]
struct CaStats {
    issued: BTreeMap<String, u64>,
}

impl ThrowawayCa {
    pub(crate) async fn start(directory: &Path, port: u16) -> anyhow::Result<Self> {
        let root = directory.join("root.pem");
        let child = Command::new(beside("throwaway_ca")?)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--eab-kid", EAB_KID, "--eab-hmac-key", EAB_HMAC_KEY])
            .arg("--root")
            .arg(&root)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run the throwaway CA")?;
        // The root is written once the CA listens.
        for _ in 0..100 {
            match std::fs::read_to_string(&root) {
                Ok(root_pem) if root_pem.ends_with("-----END CERTIFICATE-----\n") => {
                    let certificate = reqwest::Certificate::from_pem(root_pem.as_bytes())?;
                    let builder = reqwest::Client::builder()
                        .no_proxy()
                        .tls_certs_only([certificate]);
                    return Ok(Self {
                        directory_url: format!("https://127.0.0.1:{port}/directory"),
                        root,
                        root_pem,
                        client: builder.build()?,
                        child,
                    });
                }
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
        bail!("the throwaway CA did not start")
    }

    /// It goes down, or comes up again.
    pub(crate) fn switch(&self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok(kill_process(pid.context("the CA has ended")?, Signal::USR1)?)
    }

    /// A benchmark of something that is wrong is worth nothing.
    pub(crate) async fn nothing_issued_twice(&self) -> anyhow::Result<()> {
        let url = self.directory_url.replace("/directory", "/stats");
        let stats: CaStats = serde_json::from_slice(&self.client.get(&url).send().await?.bytes().await?)?;
        for (names, count) in stats.issued {
            // Each fresh acme-proxy gets its own certificate.
            ensure!(
                count == 1 || names == proxy::NAME,
                "the CA issued {count} certificates for {names}"
            );
        }
        Ok(())
    }
}

/// Another example of this package, built beside this one.
pub(crate) fn beside(example: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(example);
    ensure!(
        program.is_file(),
        "there is no {}: build with `--examples`",
        program.display()
    );
    Ok(program)
}
