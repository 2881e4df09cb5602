//! A database with as many orders as one has that has been in use for years: copies of an order that acme-proxy itself
//! has issued, each with an id, a name, an account and times of its own, so that every record can be read.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::Uri;
use tokio_postgres::{Client, Config};

use crate::issuance::{Plan, Worker};
use crate::postgres::client;
use crate::proxy::AcmeProxy;
use crate::{Ports, ThrowawayCa, client as wire, dns, http01, keys};

/// The domain of the names.
const DOMAIN: &str = "stored.example.com";

/// How many orders an account has.
const ORDERS_EACH: u32 = 10;

/// Jobs that wait for a CA, nonces and changes that are still remembered.
const JOBS: u32 = 10_000;
const MARKS: u32 = 100_000;

/// How many of the copies are read over ACME.
const READS: u32 = 50;

/// One client, with a certificate, an order that is pending, and what it answers challenges with.
pub(crate) struct Owner {
    worker: Worker,
    objects: Vec<(&'static str, String)>,
    name: String,
    _dns: dns::Dns,
}

impl Owner {
    /// Gets a certificate.
    pub(crate) async fn new(proxy: &AcmeProxy, ports: &Ports, ca: &ThrowawayCa) -> anyhow::Result<Self> {
        let directory: Uri = proxy.directory_url().parse()?;
        let root = ca.root_pem.as_bytes();
        let dns = dns::start((Ipv4Addr::LOCALHOST, ports.dns).into()).await?;
        let plan = Plan {
            directory: directory.to_string(),
            target: wire::Target::new(&directory, root, &[proxy.address.ip()]).await?,
            web: http01::start((Ipv4Addr::LOCALHOST, ports.http).into()).await?,
            eab: None,
            connection_per_issuance: false,
            account_per_issuance: false,
            poll_interval: Duration::from_millis(50),
            obey: false,
            patience: Duration::from_secs(90),
        };
        let request = keys::requests(1, 1, DOMAIN)?.pop().context("a request")?;
        let mut worker = Worker::new(Arc::new(plan), None)?;
        let objects = worker.objects(&request).await;
        Ok(Self {
            worker,
            objects: objects.map_err(|what| anyhow::anyhow!("the first order: {what}"))?,
            name: request.names.into_iter().next().context("a name")?,
            _dns: dns,
        })
    }

    /// Fills the database with copies of the order that has a certificate.
    pub(crate) async fn copy(&self, database: &Config, orders: u32) -> anyhow::Result<()> {
        let (order, account) = (id(self.url("certificate")?)?, id(self.url("account")?)?);
        let client = client(database).await?;
        let indexes = drop_indexes(&client).await?;
        let copied = COPY
            .replace("$ORDERS", &orders.to_string())
            .replace("$ACCOUNTS", &(orders / ORDERS_EACH).max(1).to_string())
            .replace("$JOBS", &JOBS.min(orders).to_string())
            .replace("$MARKS", &MARKS.to_string())
            .replace("$ORDER", order)
            .replace("$ACCOUNT", account)
            .replace("$NAME", &self.name)
            .replace("$DOMAIN", DOMAIN);
        client.batch_execute(&copied).await.context("the copies")?;
        for definition in indexes {
            client.batch_execute(&definition).await?;
        }
        client.batch_execute("VACUUM ANALYZE").await?;
        Ok(client.batch_execute("CHECKPOINT").await?)
    }

    /// Reads some of the copies as their owners do.
    pub(crate) async fn read(&mut self, orders: u32) -> anyhow::Result<()> {
        let accounts = (orders / ORDERS_EACH).max(1);
        let (account, order, certificate) = (
            self.url("account")?.to_owned(),
            self.url("order")?.to_owned(),
            self.url("certificate")?.to_owned(),
        );
        for number in (1..=orders).step_by(usize::try_from(orders / READS.min(orders))?) {
            let (owner, copy) = (copied("account", number % accounts), copied("order", number));
            let kid = account.replace(id(&account)?, &owner);
            for (url, what) in [
                (&order, format!("n{number}.{DOMAIN}")),
                (&certificate, "-----BEGIN CERTIFICATE-----".to_owned()),
            ] {
                let url = url.replace(id(url)?, &copy);
                let body = self.worker.look(&kid, &url).await;
                let body = body.map_err(|what| anyhow::anyhow!("{url} can not be read: {what}"))?;
                let body = String::from_utf8_lossy(&body);
                ensure!(body.contains(&what), "{url} is not what it should be: {body}");
            }
        }
        Ok(())
    }

    fn url(&self, of: &str) -> anyhow::Result<&str> {
        let found = self.objects.iter().find(|(name, _)| *name == of);
        Ok(&found.with_context(|| format!("the URL of the {of}"))?.1)
    }
}

/// The id in a URL: 32 hexadecimal digits.
fn id(url: &str) -> anyhow::Result<&str> {
    let parts = url.rsplit('/').filter_map(|part| part.get(..32));
    let mut ids = parts.filter(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    ids.next().with_context(|| format!("there is no id in {url}"))
}

/// The id of a copy, as the statements below make it.
fn copied(kind: &str, number: u32) -> String {
    let mut id = [0; 16];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{kind} {number}").as_bytes());
    id.iter_mut()
        .zip(hash.as_ref())
        .for_each(|(byte, of)| *byte = *of);
    format!("{:032x}", u128::from_be_bytes(id))
}

/// Takes the indexes away that are made faster afterwards. Gives how.
async fn drop_indexes(client: &Client) -> anyhow::Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index \
             WHERE indrelid = 'acme_proxy.orders'::regclass AND NOT indisunique",
            &[],
        )
        .await?;
    let mut definitions = vec!["SET maintenance_work_mem = '512MB'".to_owned()];
    for row in rows {
        let (name, definition): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        client.batch_execute(&format!("DROP INDEX {name}")).await?;
        definitions.push(definition);
    }
    Ok(definitions)
}

/// What the columns are taken from is not in the copies' bodies alone; whoever reads them by id does not see that.
const COPY: &str = r#"
SET search_path = acme_proxy;
SET synchronous_commit = off;
CREATE FUNCTION pg_temp.copied(kind text, number bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT substr(encode(sha256(convert_to(kind || ' ' || number, 'UTF8')), 'hex'), 1, 32) $$;
CREATE TEMPORARY TABLE times AS SELECT
  (extract(epoch FROM now()) * 1000000000)::bigint AS now, 86400000000000::bigint AS day;

INSERT INTO accounts SELECT r.* FROM generate_series(0, $ACCOUNTS - 1) n
CROSS JOIN (SELECT a, convert_from(a.body, 'UTF8') body FROM accounts a WHERE id = '\x$ACCOUNT') seed
CROSS JOIN pg_temp.copied('account', n) AS id
CROSS JOIN LATERAL jsonb_populate_record(seed.a, jsonb_build_object(
  'id', '\x' || id,
  'key', '\x' || encode(substr((seed.a).key, 1, 1) || sha256(decode(id, 'hex')), 'hex'),
  'body', '\x' || encode(convert_to(replace(body, '$ACCOUNT', id), 'UTF8'), 'hex')
)) r;

INSERT INTO orders SELECT r.* FROM generate_series(1, $ORDERS) n
CROSS JOIN times
CROSS JOIN (SELECT o, convert_from(o.body, 'UTF8') body FROM orders o WHERE id = '\x$ORDER') seed
CROSS JOIN LATERAL (SELECT pg_temp.copied('order', n) id, pg_temp.copied('account', n % $ACCOUNTS) owner,
  'n' || n || '.$DOMAIN' AS name, random() AS chance) own
CROSS JOIN LATERAL (SELECT encode(sha256(convert_to(name, 'UTF8')), 'hex') names,
  encode(sha256(decode(id, 'hex')), 'hex') leaf) hashed
CROSS JOIN LATERAL jsonb_populate_record(seed.o, jsonb_build_object(
  'id', '\x' || id, 'account', '\x' || owner, 'names', '\x' || names, 'line', '\x' || names,
  'certificate', '\x' || leaf,
  'certificate_id', '\x' || encode(substr((seed.o).certificate_id, 1, 1) || decode(leaf, 'hex'), 'hex'),
  'renewal_due', now + day + (chance * 60 * day)::bigint,
  'counts_since', now - (chance * 30 * day)::bigint,
  'valid_until', now + day + (chance * 89 * day)::bigint,
  'delete_after', now + day + (chance * 120 * day)::bigint,
  'body', '\x' || encode(convert_to(
    replace(replace(replace(body, '$ORDER', id), '$ACCOUNT', owner), '$NAME', name), 'UTF8'), 'hex')
)) r;

INSERT INTO counted_names SELECT decode(pg_temp.copied('order', n), 'hex'),
  substr(seed.name, 1, 1) || substr(sha256(convert_to('n' || n || '.$DOMAIN', 'UTF8')), 1, 16),
  now - (random() * 30 * day)::bigint
FROM generate_series(1, $ORDERS) n CROSS JOIN times
CROSS JOIN (SELECT name FROM counted_names WHERE order_id = '\x$ORDER' LIMIT 1) seed;

INSERT INTO jobs (work, order_id, lane, owner, since, due, body)
SELECT 'issue/' || id, decode(id, 'hex'), 'issue/default', decode(owner, 'hex'), now, now + 3650 * day, convert_to(
  format('{"v":1,"record":{"kind":"issue","job":{"work":{"issue":"%s"},"owner":"%s","due":"2040-01-01T00:00:00Z","faults":0}}}',
    id, owner), 'UTF8')
FROM generate_series(1, $JOBS) n CROSS JOIN times
CROSS JOIN LATERAL (SELECT pg_temp.copied('order', n) id, pg_temp.copied('account', n % $ACCOUNTS) owner) own;

INSERT INTO nonces SELECT sha256(convert_to(n::text, 'UTF8')), now + day FROM generate_series(1, $MARKS) n CROSS JOIN times;
INSERT INTO attempts SELECT decode(md5(n::text), 'hex'), now() + interval '1 day' FROM generate_series(1, $MARKS) n;
"#;
