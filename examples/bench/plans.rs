//! How PostgreSQL finds what it is asked for, as it says itself.

use std::collections::BTreeSet;

use anyhow::ensure;
use tokio_postgres::Config;

use crate::database::Server;
use crate::explained;
use crate::postgres::client;

/// A table with fewer rows costs nothing to read through.
const LARGE: &str = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'acme_proxy'::regnamespace AND reltuples > 1000";

/// What waits is counted, however much that is, as often as it costs little.
const COUNTED: &str = "SELECT lane, count(*), min(since)";

/// Has every statement of later connections to this database logged with its plan, or no more.
pub(crate) async fn log(database: &Config, on: bool) -> anyhow::Result<()> {
    let name = database.get_dbname().unwrap_or_default();
    let settings = [
        ("auto_explain.log_min_duration", "0", "-1"),
        ("auto_explain.log_nested_statements", "on", "off"),
    ];
    let client = client(database).await?;
    for (setting, yes, no) in settings {
        let value = if on { yes } else { no };
        let set = format!("ALTER DATABASE {name} SET {setting} = {value}");
        client.batch_execute(&set).await?;
    }
    Ok(())
}

/// The statements that were logged from this byte on, and what each reads.
pub(crate) async fn table(server: &Server, from: usize, database: &Config) -> anyhow::Result<String> {
    let log = server.log();
    let plans = explained::plans(log.get(from..).unwrap_or_default());
    let mut large = BTreeSet::new();
    for row in client(database).await?.query(LARGE, &[]).await? {
        large.insert(row.try_get::<_, String>(0)?);
    }
    let is_of_large = |read: &str| {
        let table = read.split(" on ").nth(1).unwrap_or_default();
        large.contains(table.split([' ', ',']).next().unwrap_or_default())
    };
    let (mut text, mut through) = (String::new(), String::new());
    for (statement, reads) in &plans {
        text.push_str(&format!("{statement}\n"));
        for read in reads {
            text.push_str(&format!("    {read}\n"));
            let is_counted = statement.starts_with(COUNTED);
            if explained::reads_through(read) && is_of_large(read) && !is_counted {
                through.push_str(&format!("\n{statement}\n    {read}"));
            }
        }
    }
    ensure!(plans.len() > 20, "plans are missing:\n{text}");
    ensure!(
        through.is_empty(),
        "all of a table, or of an index, is read:{through}"
    );
    Ok(text)
}
