//! Races between clients, the worker and the clock, over many random schedules: one winner each, and the invariants of
//! SECURITY section 2 afterwards (E4, E11, E12, G4, J8, K3, C305, C309, C313, C503, C506, C910; F30; I1, I2, I4, I5,
//! I7; UPSTREAM rule 4).
//!
//! The registration authority, the workers, the store and the validation are the real ones; the store is shaken, so that
//! everybody meets everybody everywhere. `RACE_SCHEDULES` says how many schedules are run, `RACE_SEED` which ones; `make
//! races` runs 10,000. A failure names its seed, which asks for the same race with the same throws of the dice.

mod accounts;
mod arena;
mod dice;
mod issuer;
mod journal;
mod keys;
mod orders;
mod shaken;

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use acme_proxy::acme::id::OrderId;
use tokio::task::JoinSet;

use crate::harness::dns;
use crate::races::arena::Arena;

/// How many schedules run at a time, each kind in an arena of its own.
const ARENAS: u64 = 16;

/// Runs its race in the arena and gives how many won.
type Race = fn(&Arena) -> Pin<Box<dyn Future<Output = usize> + Send + '_>>;

/// What came of a race's schedules.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    schedules: usize,
    winners: usize,
    conflicts: usize,
}

macro_rules! races {
    ($($module:ident::$race:ident)*) => {
        const RACES: &[(&str, Race)] = &[$((stringify!($race), |arena| Box::pin($module::$race(arena))),)*];
    };
}

races! {
    orders::finalize_against_finalize
    orders::finalize_against_finalize_and_verdict
    orders::finalize_against_the_accounts_deactivation
    orders::finalize_against_expiry
    orders::verdict_against_verdict
    orders::verdict_against_the_accounts_deactivation
    orders::verdict_against_expiry
    orders::verdict_against_the_authorizations_deactivation
    orders::finalize_against_the_authorizations_deactivation
    orders::challenge_against_challenge
    orders::revocation_against_revocation
    orders::issuance_against_issuance
    accounts::registration_against_registration
    accounts::update_against_deactivation
    keys::key_change_against_key_change_to_one_key
    keys::key_change_against_key_change_of_one_account
    keys::key_change_against_new_order
    keys::key_change_against_registration
    keys::registration_against_registration_with_one_external_key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::print_stdout, reason = "the figures are asked for")]
async fn i1_to_i7_every_race_has_one_winner_in_every_schedule() {
    let schedules: u64 = std::env::var("RACE_SCHEDULES").map_or(600, |text| text.parse().unwrap());
    let seed = std::env::var("RACE_SEED").map_or_else(|_| chosen(), |text| text.parse().unwrap());
    let dns = dns::start((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let tallies = Arc::new(Mutex::new(vec![Tally::default(); RACES.len()]));
    let mut arenas = JoinSet::new();
    for _ in 0..ARENAS.min(schedules) {
        let (next, tallies) = (next.clone(), tallies.clone());
        let address = dns.address;
        arenas.spawn(async move {
            let arena = Arena::new(address).await;
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= schedules {
                    return;
                }
                run(&arena, seed.wrapping_add(number), &tallies).await;
            }
        });
    }
    while let Some(ended) = arenas.join_next().await {
        ended.unwrap();
    }
    println!("races: {schedules} schedules, seed {seed}");
    for ((name, _), tally) in RACES.iter().zip(tallies.lock().unwrap().iter()) {
        println!(
            "  {name}: schedules {}, winners {}, conflicts {}",
            tally.schedules, tally.winners, tally.conflicts
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::print_stdout, reason = "the figures are asked for")]
async fn c503_a_hundred_names_at_once_are_each_looked_at_once_and_no_conflict_is_an_answer() {
    let dns = dns::start((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let arena = Arena::new(dns.address).await;
    orders::verdict_against_verdicts(&arena, 100).await;
    println!("a hundred names: {} conflicts", arena.settle().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f30_a_step_of_the_clock_opens_no_second_order_at_the_ca() {
    let dns = dns::start((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let arena = Arena::new(dns.address).await;
    orders::issuance_against_a_step_of_the_clock(&arena).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f43_an_order_that_overtakes_one_that_is_being_opened_gets_no_certificate_of_it() {
    let dns = dns::start((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    for earlier_is_first in [false, true] {
        let arena = Arena::new(dns.address).await;
        orders::issuance_against_a_finalization_of_before(&arena, earlier_is_first).await;
    }
}

/// One schedule: the seed chooses the race.
async fn run(arena: &Arena, seed: u64, tallies: &Mutex<Vec<Tally>>) {
    arena.dice.reseed(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let which = usize::try_from(arena.dice.below(RACES.len() as u64)).unwrap();
    let (name, race) = RACES[which];
    let told = Told { name, seed };
    let winners = race(arena).await;
    let conflicts = arena.settle().await;
    drop(told);
    let mut tallies = tallies.lock().unwrap();
    tallies[which].schedules += 1;
    tallies[which].winners += winners;
    tallies[which].conflicts += conflicts;
}

/// Names the schedule in which a test fails.
struct Told {
    name: &'static str,
    seed: u64,
}

impl Drop for Told {
    #[expect(clippy::print_stderr, reason = "whoever looks into it needs the seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "in the race {}; again with RACE_SCHEDULES=1 RACE_SEED={}",
                self.name, self.seed
            );
        }
    }
}

/// A seed that nobody has chosen.
fn chosen() -> u64 {
    let bytes = *OrderId::random().as_bytes();
    u64::from_be_bytes(*bytes.first_chunk::<8>().unwrap()) >> 16
}
