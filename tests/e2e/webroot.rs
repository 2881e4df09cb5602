//! A web server on a client's host, which serves the files that the client leaves in a directory (http-01).

use std::path::PathBuf;

use axum::Router;
use axum::extract::Path;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use tokio::task::JoinHandle;

use crate::environment::Host;

/// A web server that answers until this is dropped.
pub(crate) struct Webroot {
    /// Where the files are to be that answer challenges.
    pub(crate) challenges: PathBuf,
    server: JoinHandle<()>,
}

impl Webroot {
    /// Starts it on the host's address.
    pub(crate) fn on(host: &Host<'_>) -> Self {
        let challenges = host.directory.join("challenges");
        std::fs::create_dir(&challenges).unwrap();
        let router = Router::new().route("/.well-known/acme-challenge/{token}", get(show));
        let router = router.with_state(challenges.clone());
        let runtime = &host.environment.runtime;
        let address = (host.address, host.http_port());
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let server = runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { challenges, server }
    }
}

impl Drop for Webroot {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn show(State(files): State<PathBuf>, Path(token): Path<String>) -> Result<String, StatusCode> {
    std::fs::read_to_string(files.join(token)).map_err(|_| StatusCode::NOT_FOUND)
}
