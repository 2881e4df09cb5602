//! What the daemon does by itself, with many orders in the database.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::metrics::figure;
use crate::harness::postgres::{self, Postgres};
use crate::harness::process::PATIENCE;
use crate::harness::world::World;
use crate::postgres::daemon::{finalized, keep_in};

/// Each deletion of orders is written down, and 1,000 orders are added whose time is over, and 1,200 with certificates: one
/// in three has expired, one in three ends within two weeks.
const MANY: &str = "SET search_path = acme_proxy;
CREATE TABLE public.deletions (orders bigint);
CREATE FUNCTION public.deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.deletions SELECT count(*) FROM gone; RETURN NULL; END $$;
CREATE TRIGGER deleted AFTER DELETE ON orders REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION public.deleted();
INSERT INTO orders SELECT copy.* FROM orders seed, generate_series(1, 2200) n, jsonb_populate_record(seed, jsonb_build_object(
  'id', '\\x' || md5(n::text),
  'names', '\\x' || md5(n::text) || md5(n::text),
  'certificate', '\\x' || md5(n::text), 'certificate_id', '\\x' || md5(n::text), 'renewal_due', NULL,
  'delete_after', CASE WHEN n <= 1000 THEN 0 ELSE seed.delete_after END,
  'valid_until', CASE WHEN n > 1000 THEN
    (extract(epoch FROM now() + interval '5 days' * (n % 3 * 3 - 1)) * 1000000000)::bigint END
)) copy WHERE seed.account = (SELECT id FROM accounts)";

/// Waits until the figure is this one.
async fn until(world: &World, series: &str, wanted: f64) {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        last = figure(world.installation.metrics, series).await;
        if last == Some(wanted) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "{series} is {last:?}, not {wanted}:\n{}",
        world.installation.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_is_deleted_portion_by_portion_until_nothing_is_left_and_all_certificates_are_counted() {
    let world = World::new().await;
    let database = Postgres::fresh_database().await.unwrap();
    keep_in(&world.installation, &postgres::url_of(&database));
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    let (client, order) = finalized(&world, &["seed.example.com"]).await;
    client.until(&order.url, "valid").await;
    daemon.stop().await;
    let superuser = postgres::client(&database).await.unwrap();
    superuser.batch_execute(MANY).await.unwrap();
    let mut daemon = world.installation.start();
    daemon.is_well().await;
    // The seed is valid, too, and for longer than a week.
    until(&world, "acme_proxy_certificates_valid", 801.0).await;
    until(&world, "acme_proxy_certificates_expired", 400.0).await;
    until(&world, r#"acme_proxy_certificates_expiring{days="7"}"#, 0.0).await;
    until(&world, r#"acme_proxy_certificates_expiring{days="14"}"#, 400.0).await;
    let over = "SELECT count(*) FROM acme_proxy.orders WHERE delete_after = 0";
    let deadline = Instant::now() + PATIENCE;
    while superuser.query_one(over, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "{}", world.installation.log());
        sleep(Duration::from_millis(50)).await;
    }
    let deletions = "SELECT max(orders), sum(orders)::bigint FROM public.deletions";
    let deletions = superuser.query_one(deletions, &[]).await.unwrap();
    let (largest, all): (i64, i64) = (deletions.get(0), deletions.get(1));
    assert_eq!((largest, all), (200, 1000));
    daemon.stop().await;
}
