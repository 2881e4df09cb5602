//! The database that replicas share: each of its hosts, and what the one that takes writes says about itself. Nothing is
//! written to it.

use jiff::{SignedDuration, Timestamp};

use crate::app::deep::{Check, Facts, Finding};
use crate::store::StoreError;
use crate::store::postgres::Settings;
use crate::store::postgres::fault::Fault;
use crate::store::postgres::survey::{self, Primary, State};

/// Clocks that differ by more are not set by the same time servers.
const TOLERATED: SignedDuration = SignedDuration::from_secs(5);

pub(crate) async fn look(facts: &Facts) -> Vec<Finding> {
    let Some(settings) = &facts.config.database else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut primaries = 0;
    for looked in survey::look(&settings.connection).await {
        let host = looked.host.to_string();
        match looked.state {
            Ok(State::ReadOnly) => {
                let text = "lets us in, and takes no writes: a standby";
                findings.push(Finding::ok(Check::Database, host, text));
            }
            Ok(State::Primary(primary)) => {
                primaries += 1;
                findings.extend(of_primary(&host, &primary, settings, facts.clock.now()));
            }
            Err(StoreError::Unavailable(why)) if settings.connection.url.hosts.len() > 1 => {
                findings.push(Finding::warning(Check::Database, host, why, "do what it says"));
            }
            Err(error) => {
                let fix = "do what it says";
                findings.push(Finding::failure(Check::Database, host, error.to_string(), fix));
            }
        }
    }
    let place = settings.connection.place();
    match primaries {
        0 => findings.push(Finding::failure(
            Check::Database,
            place,
            "none of the hosts takes writes",
            "start the primary, or promote a standby, and name it in db.dataSource",
        )),
        1 => {}
        _ => findings.push(Finding::failure(
            Check::Database,
            place,
            "more than one of the hosts takes writes: they are not one database",
            "name the hosts of one cluster in db.dataSource, and look whether two primaries are running",
        )),
    }
    findings
}

fn of_primary(host: &str, primary: &Primary, settings: &Settings, now: Timestamp) -> Vec<Finding> {
    let ok = |text: String| Finding::ok(Check::Database, host, text);
    let tls = primary.tls.as_deref().unwrap_or("no TLS");
    let mut findings = vec![ok(format!("PostgreSQL {}, takes writes, {tls}", primary.version))];
    findings.push(match (&primary.schema, primary.may_create) {
        (Err(why), _) => Finding::failure(Check::Database, host, why.to_string(), "do what it says"),
        (Ok(true), _) => ok("the schema acme_proxy is there".to_owned()),
        (Ok(false), true) => ok("the schema acme_proxy will be made at the first start".to_owned()),
        (Ok(false), false) => Finding::failure(
            Check::Database,
            host,
            "the user may not make the schema acme_proxy",
            Fault::Rights.sentence(),
        ),
    });
    for (name, value) in &primary.durability {
        if !["on", "remote_apply"].contains(&value.as_str()) {
            findings.push(Finding::failure(
                Check::Database,
                host,
                format!(
                    "{name} is {value}: what was acknowledged would be lost, and acme-proxy does not start"
                ),
                format!(
                    "set {name} = on, in postgresql.conf or where the role or the database has another value"
                ),
            ));
        }
    }
    findings.push(standbys(host, primary));
    findings.push(connections(host, primary, settings.connection.pool));
    if let Some(time) = primary.time {
        let ahead = time.duration_since(now);
        let text = format!("its clock is {:.1} s ahead of this host's", ahead.as_secs_f64());
        findings.push(match ahead.abs() > TOLERATED {
            true => Finding::warning(Check::Database, host, text, Fault::ClockSkew.sentence()),
            false => ok(text),
        });
    }
    findings
}

fn standbys(host: &str, primary: &Primary) -> Finding {
    let synchronous = !primary.synchronous.is_empty();
    let text = format!("{} standbys follow it", primary.standbys);
    match (primary.standbys, synchronous) {
        (0, true) => Finding::failure(
            Check::Database,
            host,
            format!(
                "it waits for standbys ({}), and none follows it",
                primary.synchronous
            ),
            "start a standby, or no write ends",
        ),
        (0, false) => Finding::ok(Check::Database, host, "no standby follows it"),
        (_, true) => Finding::ok(
            Check::Database,
            host,
            format!("{text}, synchronously: {}", primary.synchronous),
        ),
        (_, false) => Finding::warning(
            Check::Database,
            host,
            format!("{text}, none synchronously: a failover loses what they do not have yet"),
            "set synchronous_standby_names; docs/HIGH-AVAILABILITY.md says what is lost otherwise",
        ),
    }
}

fn connections(host: &str, primary: &Primary, pool: usize) -> Finding {
    let (used, most) = primary.connections;
    let text = format!(
        "{used} of {most} connections are in use; this replica takes up to {}",
        pool + 1
    );
    let left = most.saturating_sub(used);
    match i64::try_from(pool).is_ok_and(|pool| pool < left) {
        true => Finding::ok(Check::Database, host, text),
        false => Finding::warning(Check::Database, host, text, Fault::TooManyConnections.sentence()),
    }
}
