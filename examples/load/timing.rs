//! Whether the time of an answer tells what the answer does not (SECURITY C222, C501): a stranger asks two things in
//! turn, over one warm connection, again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::client::Connection;
use crate::issuance::{Plan, Worker};
use crate::keys::{self, AccountKey};
use crate::table;

/// Rounds that are not counted, because connection and caches are cold.
const WARM_UP: usize = 200;

/// A request, and how it is refused.
struct Question {
    url: String,
    kid: String,
    status: StatusCode,
}

/// Two requests of which one could be told from the other.
struct Pair {
    name: String,
    first: Question,
    second: Question,
}

/// The table, of so many rounds for each pair.
pub(crate) async fn table(plan: Arc<Plan>, rounds: usize, domain: &str) -> anyhow::Result<String> {
    let request = keys::requests(1, 1, domain)?.pop().context("a request")?;
    let owned = Worker::new(Arc::clone(&plan), None)?.objects(&request).await;
    let owned = owned.map_err(|what| anyhow::anyhow!("the owner of what is asked for: {what}"))?;
    let mut stranger = Stranger::new(&plan).await?;
    let mut rows = vec![
        [
            "first / second",
            "rounds",
            "p50 µs",
            "p90 µs",
            "p50 µs",
            "p90 µs",
            "p50 + µs",
            "faster %",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for pair in stranger.pairs(&owned)? {
        stranger.connection = plan.target.connect(None).await?;
        rows.push(stranger.compare(&pair, rounds).await?);
    }
    Ok(format!(
        "{}faster: how often the first was answered before the second would have been; within {:.1} of 50 by chance.\n",
        table::aligned(&rows),
        100.0 / float(rounds).sqrt(),
    ))
}

/// An account with nothing of its own.
struct Stranger {
    key: AccountKey,
    account: String,
    connection: Connection,
    nonce: String,
}

impl Stranger {
    async fn new(plan: &Plan) -> anyhow::Result<Self> {
        let mut connection = plan.target.connect(None).await?;
        let (new_nonce, new_account) = (
            plan.directory.replace("/directory", "/new-nonce"),
            plan.directory.replace("/directory", "/new-account"),
        );
        let reply = connection.send(Method::HEAD, &new_nonce, String::new()).await?;
        let nonce = reply.header("replay-nonce").context("no nonce")?;
        let key = AccountKey::generate()?;
        let body = key.sign(&new_account, &nonce, None, r#"{"termsOfServiceAgreed":true}"#)?;
        let reply = connection.send(Method::POST, &new_account, body).await?;
        Ok(Self {
            key,
            account: reply.header("location").context("the stranger has no account")?,
            connection,
            nonce: reply.header("replay-nonce").context("no nonce")?,
        })
    }

    fn pairs(&self, owned: &[(&str, String)]) -> anyhow::Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for (name, url) in owned {
            let nothing = of_nothing(url, 1)?;
            pairs.push(match *name {
                // Signed by the stranger, as somebody else.
                "account" => Pair {
                    name: "kid of another account / of none (C222)".to_owned(),
                    first: self.question(&self.account, url, StatusCode::BAD_REQUEST),
                    second: self.question(&self.account, &nothing, StatusCode::BAD_REQUEST),
                },
                name => Pair {
                    name: format!("{name} of another account / of none (C501)"),
                    first: self.question(url, &self.account, StatusCode::NOT_FOUND),
                    second: self.question(&nothing, &self.account, StatusCode::NOT_FOUND),
                },
            });
        }
        let (_, order) = owned
            .iter()
            .find(|(name, _)| *name == "order")
            .context("an order")?;
        pairs.push(Pair {
            name: "two orders that are none, to compare with".to_owned(),
            first: self.question(&of_nothing(order, 1)?, &self.account, StatusCode::NOT_FOUND),
            second: self.question(&of_nothing(order, 2)?, &self.account, StatusCode::NOT_FOUND),
        });
        Ok(pairs)
    }

    fn question(&self, url: &str, kid: &str, status: StatusCode) -> Question {
        Question {
            url: url.to_owned(),
            kid: kid.to_owned(),
            status,
        }
    }

    async fn compare(&mut self, pair: &Pair, rounds: usize) -> anyhow::Result<Vec<String>> {
        let (mut firsts, mut seconds) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        let mut faster = 0.0;
        for round in 0..WARM_UP + rounds {
            // Whichever is asked after the other finds the caches as that one has left them.
            let (first, second) = match round % 2 {
                0 => {
                    let first = self.ask(&pair.first).await?;
                    (first, self.ask(&pair.second).await?)
                }
                _ => {
                    let second = self.ask(&pair.second).await?;
                    (self.ask(&pair.first).await?, second)
                }
            };
            if round >= WARM_UP {
                faster += match first.cmp(&second) {
                    std::cmp::Ordering::Less => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Greater => 0.0,
                };
                firsts.push(first);
                seconds.push(second);
            }
        }
        firsts.sort_unstable();
        seconds.sort_unstable();
        Ok(vec![
            pair.name.clone(),
            rounds.to_string(),
            format!("{:.0}", micros(&firsts, 50)),
            format!("{:.0}", micros(&firsts, 90)),
            format!("{:.0}", micros(&seconds, 50)),
            format!("{:.0}", micros(&seconds, 90)),
            format!("{:+.1}", micros(&firsts, 50) - micros(&seconds, 50)),
            format!("{:.1}", 100.0 * faster / float(rounds)),
        ])
    }

    /// The time from the last byte of the request to the last one of its answer. What goes before, signing, is ours.
    async fn ask(&mut self, question: &Question) -> anyhow::Result<Duration> {
        let body = self
            .key
            .sign(&question.url, &self.nonce, Some(&question.kid), "")?;
        let start = Instant::now();
        let reply = self.connection.send(Method::POST, &question.url, body).await?;
        let time = start.elapsed();
        ensure!(
            reply.status == question.status,
            "{} is answered with {}",
            question.url,
            reply.status
        );
        self.nonce = reply.header("replay-nonce").context("no nonce")?;
        Ok(time)
    }
}

/// The URL with another id than the one in it: 32 hexadecimal digits, of which these bits are turned over.
fn of_nothing(url: &str, bits: u128) -> anyhow::Result<String> {
    let id = url
        .rsplit('/')
        .filter_map(|part| part.get(..32))
        .find(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let id = id.with_context(|| format!("there is no id in {url}"))?;
    let other = format!("{:032x}", u128::from_str_radix(id, 16)? ^ bits);
    Ok(url.replace(id, &other))
}

/// The nearest rank of a sorted list.
fn micros(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
