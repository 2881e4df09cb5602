//! Requests of the tests themselves: to what manages Pebble, and to acme-proxy's health and metrics.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

use crate::process::read;

/// Makes requests, one at a time.
pub(crate) struct Web {
    runtime: Runtime,
    client: reqwest::Client,
}

impl Web {
    /// Trusts nobody: for requests without TLS.
    pub(crate) fn plain() -> Self {
        Self::new(Vec::new(), "localhost")
    }

    /// Trusts the root in this file only, and takes the name for this machine.
    pub(crate) fn trusting(root: &Path, name: &str) -> Self {
        let root = reqwest::Certificate::from_pem(read(root).as_bytes());
        Self::new(vec![root.unwrap()], name)
    }

    fn new(roots: Vec<reqwest::Certificate>, name: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only(roots);
        let client = client.resolve(name, ([127, 0, 0, 1], 0).into());
        // Between two requests nobody notices that the other side closes a connection.
        let client = client.pool_max_idle_per_host(0).timeout(Duration::from_secs(10));
        Self {
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            client: client.build().unwrap(),
        }
    }

    /// The body of what is there, if the answer is a success.
    pub(crate) fn get(&self, url: &str) -> Option<String> {
        self.send(self.client.get(url))
    }

    /// Posts JSON; the body of the answer, if it is a success.
    pub(crate) fn post(&self, url: &str, body: &Value) -> Option<String> {
        self.send(self.client.post(url).body(body.to_string()))
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Option<String> {
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            answer.error_for_status().ok()?.text().await.ok()
        })
    }
}
