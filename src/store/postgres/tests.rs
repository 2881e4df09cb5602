//! The contract on PostgreSQL, and what only PostgreSQL has to answer for.

#[expect(dead_code, reason = "each program uses its part")]
#[path = "../../../examples/loopback/postgres.rs"]
mod server;

use std::time::Duration;

use crate::store::postgres::{PostgresStore, Secret, Settings, connect};

async fn settings() -> Settings {
    Settings {
        connection: connect::Settings {
            config: server::Postgres::fresh_database().await.unwrap(),
            connections: 16,
            wait: Duration::from_secs(10),
        },
        secret: Secret::new(vec![7; 32]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_opens() {
    PostgresStore::open(settings().await).await.unwrap();
}
