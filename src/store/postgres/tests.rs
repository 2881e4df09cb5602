//! The contract on PostgreSQL, and what only PostgreSQL has to answer for.

#[expect(dead_code, reason = "each program uses its part")]
#[path = "../../../examples/loopback/postgres.rs"]
mod server;

mod lost;
mod migration;
mod moved;
mod plans;
mod queue;
mod replicas;
mod scale;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::acme::id::OrderId;
use crate::acme::secret::Secret;
use crate::store::Store;
use crate::store::contract::{Backend, contract};
use crate::store::postgres::{PostgresStore, Settings, connect};

/// A database, made when it is opened first.
struct Postgres(OnceCell<Config>);

impl Postgres {
    async fn config(&self) -> &Config {
        let fresh = async || server::Postgres::fresh_database().await.unwrap();
        self.0.get_or_init(fresh).await
    }

    async fn client(&self) -> tokio_postgres::Client {
        server::client(self.config().await).await.unwrap()
    }
}

#[async_trait]
impl Backend for Postgres {
    fn new() -> Self {
        Self(OnceCell::new())
    }

    async fn open(&self) -> Arc<dyn Store> {
        let store = PostgresStore::open(settings(self.config().await)).await.unwrap();
        // The replica that had them has not come back in time.
        let over = "UPDATE acme_proxy.jobs SET until = '-infinity' WHERE token IS NOT NULL";
        self.client().await.batch_execute(over).await.unwrap();
        Arc::new(store)
    }

    async fn size(&self) -> usize {
        let client = self.client().await;
        let mut size = 0;
        for table in [
            "accounts",
            "orders",
            "counted_names",
            "issuers",
            "sealed",
            "jobs",
            "jobs_after",
            "nonces",
            "holds",
        ] {
            let count = format!("SELECT count(*) FROM acme_proxy.{table}");
            let count: i64 = client.query_one(&count, &[]).await.unwrap().get(0);
            size += usize::try_from(count).unwrap();
        }
        size
    }

    async fn plant_unknown_job(&self, order: OrderId) {
        let job = br#"{"v":1,"record":{"kind":"renew","job":{"due":"2026-01-01T00:00:00Z"}}}"#;
        let sql = "INSERT INTO acme_proxy.jobs (work, order_id, lane, owner, since, due, body) \
                   VALUES ('renew/1', $1, 'renew/default', '', 0, 0, $2)";
        let client = self.client().await;
        let order = order.as_bytes().as_slice();
        client.execute(sql, &[&order, &job.as_slice()]).await.unwrap();
    }
}

contract!(Postgres);

/// A store in this database.
fn settings(config: &Config) -> Settings {
    let Some(Host::Unix(directory)) = config.get_hosts().first() else {
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

/// Two replicas on one new database, and the database itself.
pub(crate) async fn two_stores() -> (PostgresStore, PostgresStore, tokio_postgres::Client) {
    let config = server::Postgres::fresh_database().await.unwrap();
    let settings = settings(&config);
    let one = PostgresStore::open(settings.clone()).await.unwrap();
    let other = PostgresStore::open(settings).await.unwrap();
    (one, other, server::client(&config).await.unwrap())
}

/// What a statement gives that gives one number.
async fn number(client: &tokio_postgres::Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}
