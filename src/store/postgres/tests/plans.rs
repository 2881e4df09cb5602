//! No statement of a request reads through a table or an index, however much is stored: the server itself says how it does
//! each, those within functions too (its module `auto_explain`).

#[path = "../../../../examples/loopback/plans.rs"]
mod explained;

use std::collections::BTreeSet;

use crate::acme::certificate::Der;
use crate::acme::id::{AccountId, OrderId};
use crate::acme::identifier::Identifier;
use crate::acme::job::{Job, Lane, Work};
use crate::acme::order::Order;
use crate::acme::upstream::UpstreamName;
use crate::store::contract::{HERE, LIFETIME, account, again, at, done, issued, names, order};
use crate::store::postgres::PostgresStore;
use crate::store::postgres::tests::{server, settings};
use crate::store::shared::Shared as _;
use crate::store::{NameQuota, Store, Versioned};

/// Rows of every table, as many as make an index worth while; of some the time is over.
const FILL: &str = "SET search_path = acme_proxy;
CREATE TEMPORARY TABLE n AS SELECT decode(md5(n::text), 'hex') id, n::text word, n number FROM generate_series(1, 20000) n;
INSERT INTO accounts SELECT id, 1, 'x', id || 'k', id || 'o' FROM n;
INSERT INTO orders SELECT id, 1, 'x', decode(md5((number % 1000)::text), 'hex'), 'default', id || id, id,
  CASE WHEN number % 2 = 0 THEN 1 END, CASE WHEN number % 2 = 0 THEN number END,
  id, id, id, number % 50 = 0, number, id, number, number,
  CASE WHEN number > 200 THEN 9000000000000000000 ELSE 0 END FROM n;
INSERT INTO counted_names SELECT id, id, number FROM n;
INSERT INTO issuers SELECT id, 'x' FROM n;
INSERT INTO sealed SELECT 'value ' || word, 1, 'x' FROM n;
INSERT INTO jobs (work, order_id, lane, owner, since, due, body)
  SELECT 'issue/' || word, id, 'issue/other', decode(md5((number % 1000)::text), 'hex'), number, number, 'x' FROM n;
INSERT INTO jobs_after SELECT 'issue/' || word, 'issue/other', id, 0, 0, 'x' FROM n;
INSERT INTO nonces SELECT id, CASE WHEN number > 20 THEN 9000000000000000000 ELSE 0 END FROM n;
INSERT INTO holds SELECT word, 1, now() + interval '1 year' FROM n;
INSERT INTO attempts SELECT id, CASE WHEN number > 20 THEN now() ELSE '-infinity' END FROM n;
ANALYZE";

/// What a request, a job or a sweep does to a store.
async fn a_round(store: &PostgresStore) {
    let account = account();
    store.create_account(&account).await.unwrap();
    let read = store.account(account.id()).await.unwrap().unwrap();
    let thumbprint = account.key().thumbprint();
    store.account_by_key("acme", &thumbprint).await.unwrap();
    store
        .account_by_one_time_key("acme", &"kid".parse().unwrap())
        .await
        .unwrap();
    store.update_account(read).await.unwrap();
    let order = order(account.id());
    store.create_order(&order, None).await.unwrap();
    store.order(order.id()).await.unwrap().unwrap();
    store.own_order(account.id(), order.id()).await.unwrap().unwrap();
    assert_eq!(store.own_order(AccountId::random(), order.id()).await, Ok(None));
    store.orders_of(account.id(), None, 10).await.unwrap();
    store.all_orders(Some(order.id()), 10).await.unwrap();
    store.all_accounts(Some(account.id()), 10).await.unwrap();
    let name = Identifier::dns("www.example.com").unwrap();
    let quota = NameQuota {
        name: name.clone(),
        since: at(0),
        orders: 1000,
    };
    let ready = Order::for_daemon(
        order.id(),
        names(&["www.example.com"]),
        Der::new(vec![7; 900]),
        at(0),
        LIFETIME,
    );
    let job = Job::now(Work::Issue(order.id()), account.id(), HERE, at(1));
    let changed = Versioned::with(1, ready.clone());
    store.commit_within(changed, Some(job), &[quota]).await.unwrap();
    store.job(&job.work).await.unwrap().unwrap();
    let lane = Lane::Issue(HERE);
    let lease = store
        .lease(lane, at(9), LIFETIME, 9, 9, 99)
        .await
        .unwrap()
        .remove(0);
    let changed = Versioned::with(2, ready.clone());
    store.renew(&lease, LIFETIME).await.unwrap();
    let changed = store.checkpoint(&lease, changed).await.unwrap();
    store.settle(lease, again(1, 0)).await.unwrap();
    let lease = store
        .lease(lane, at(9), LIFETIME, 9, 9, 99)
        .await
        .unwrap()
        .remove(0);
    let (with_issuers, issuers) = issued("www.example.com");
    let settlement = crate::store::Settlement {
        issuers,
        ..done(Some(changed))
    };
    store.settle(lease, settlement).await.unwrap();
    let certificate = with_issuers.certificate().unwrap();
    store.issuers(certificate.issuers()).await.unwrap();
    store.first_in_line(&ready).await.unwrap();
    store.has_issued(&ready).await.unwrap();
    store.late_orders(&ready, 9).await.unwrap();
    store.orders_for(&name, at(0)).await.unwrap();
    let leaf = certificate.leaf();
    store.order_of_certificate(leaf.fingerprint()).await.unwrap();
    let id = crate::acme::renewal::CertificateId::of(leaf).unwrap();
    store.order_of_certificate_id(&id).await.unwrap();
    store.replacement_of(&id).await.unwrap();
    store.renewals_due(UpstreamName::DEFAULT, at(0), 9).await.unwrap();
    let named = OrderId::random().to_string();
    store.save(&named, Versioned::with(0, vec![1])).await.unwrap();
    store.save(&named, Versioned::with(1, vec![1])).await.unwrap();
    store.load(&named).await.unwrap().unwrap();
    store.names(&named).await.unwrap();
    store
        .external_account_key("acme", &"kid".parse().unwrap())
        .await
        .unwrap();
    store.external_account_keys().await.unwrap();
    store.use_nonce(named.as_bytes(), at(60)).await.unwrap();
    let held = store.hold(&named, LIFETIME).await.unwrap().unwrap();
    assert_eq!(store.extend(&held, LIFETIME).await, Ok(true));
    store.release(held).await.unwrap();
    assert_eq!(store.sweep(at(0), 10).await, Ok(10));
    let sql = "SELECT was_written($1)";
    store.rows(sql, &[&named.as_bytes()]).await.unwrap();
    store.latest_certificates(Some([7; 32]), 500).await.unwrap();
}

#[expect(clippy::print_stdout, reason = "the plans are to be looked at")]
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_request_reads_through_a_table() {
    let server = server::Postgres::start(&[
        "shared_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_nested_statements=on",
        "autovacuum=off",
    ])
    .unwrap();
    let config = server.database().await.unwrap();
    let store = PostgresStore::open(settings(&config)).await.unwrap();
    let client = server::client(&config).await.unwrap();
    client.batch_execute(FILL).await.unwrap();
    let before = server.log().len();
    // From the sixth time on, plans are made for any values.
    for _ in 0..12 {
        a_round(&store).await;
    }
    let log = server.log().split_off(before);
    let plans = explained::plans(&log);
    for (statement, reads) in &plans {
        let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
        println!("{statement}\n    {}", reads.join("\n    "));
    }
    let reads: BTreeSet<&String> = plans.values().flatten().collect();
    let through: Vec<&&String> = reads
        .iter()
        .filter(|read| explained::reads_through(read))
        .collect();
    assert!(through.is_empty(), "{through:?}");
    assert!(reads.len() > 30, "{reads:?}");
    let own = reads
        .iter()
        .find(|read| read.contains("orders_account_id_idx on orders"));
    assert!(own.is_some(), "another account's order is not fetched: {reads:?}");
}
