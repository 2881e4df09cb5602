//! The contract on PostgreSQL, and what only PostgreSQL has to answer for.

#[expect(dead_code, reason = "each program uses its part")]
#[path = "../../../examples/loopback/postgres.rs"]
mod server;

use crate::acme::secret::Secret;
use crate::store::postgres::{PostgresStore, Settings, connect};

/// How to reach a new, empty database.
async fn settings() -> Settings {
    let config = server::Postgres::fresh_database().await.unwrap();
    let Some(tokio_postgres::config::Host::Unix(directory)) = config.get_hosts().first() else {
        panic!("a host of another kind")
    };
    let url = format!("postgresql://postgres@/?host={}", directory.display());
    Settings {
        connection: connect::Settings {
            url: url.parse().unwrap(),
            database: config.get_dbname().unwrap().to_owned(),
            password: None,
            pool: 16,
        },
        secret: Secret::new(vec![7; 32]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_opens() {
    PostgresStore::open(settings().await).await.unwrap();
}
