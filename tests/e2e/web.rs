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
    /// Trusts the root in this file only, and takes the name, if there is one, for this machine.
    pub(crate) fn new(root: &Path, name: Option<&str>) -> Self {
        let root = reqwest::Certificate::from_pem(read(root).as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        // Between two requests nobody notices that the other side closes a connection.
        client = client.pool_max_idle_per_host(0).timeout(Duration::from_secs(10));
        if let Some(name) = name {
            client = client.resolve(name, ([127, 0, 0, 1], 0).into());
        }
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
