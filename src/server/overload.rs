//! What happens when more comes than can be taken on (SECURITY F50): who has begun goes on, and who has not is asked to
//! come again, each at another time. Connections that are not even accepted wait in the kernel, which lets no more than
//! `net.core.somaxconn` wait.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::acme::problem::{Problem, ProblemType};
use crate::server::respond::Rejection;

/// One place in so many is kept for who has begun.
const RESERVE: usize = 4;

/// How many there may be at a time, if the limit is this: 0 is none. Half of the files that the process may open are for
/// the store, the validations and the CA.
pub(crate) fn at_most(limit: usize) -> usize {
    let wanted = match limit {
        0 => usize::MAX,
        limit => limit,
    };
    let files = getrlimit(Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok());
    wanted
        .min(files.unwrap_or(usize::MAX) / 2)
        .clamp(1, Semaphore::MAX_PERMITS)
}

/// Places for connections.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    reserve: usize,
}

/// How much room there was when a connection came. Travels with its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Enough for whatever it brings.
    Plenty,
    /// It has a place of the reserve: nothing begins on it, and each POST is its last, so that the place is soon free.
    Scarce,
}

impl Places {
    pub(crate) fn new(all: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(all)),
            reserve: all / RESERVE,
        }
    }

    /// Waits for a place. It is free again when the permit is dropped.
    pub(crate) async fn take(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.free).acquire_owned().await
    }

    /// How much room there is beside the places that are taken.
    pub(crate) fn room(&self) -> Room {
        match self.free.available_permits() < self.reserve {
            true => Room::Scarce,
            false => Room::Plenty,
        }
    }
}

/// The requests that are worked on. One whose client has gone, or has been answered because it took too long, is worked
/// on all the same: without a bound they would pile up behind a disk that hangs.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    free: Arc<Semaphore>,
}

impl Requests {
    pub(crate) fn new(all: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(all)),
        }
    }

    /// A place for a request, to be dropped when nothing more is done for it.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Rejection> {
        Arc::clone(&self.free).try_acquire_owned().map_err(|_| busy())
    }
}

/// Whether a client that is turned away here has nothing to lose yet.
pub(crate) fn is_beginning(endpoint: &str) -> bool {
    matches!(endpoint, "new-account" | "new-order")
}

/// The client has done nothing wrong, and is to come again.
pub(crate) fn busy() -> Rejection {
    let detail = "the server is busy; try again later";
    Problem::new(ProblemType::ServerInternal, detail)
        .with_status(503)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;

    use axum::response::IntoResponse as _;
    use http::header::RETRY_AFTER;

    #[tokio::test]
    async fn f50_the_last_quarter_of_the_places_is_a_reserve() {
        let places = Places::new(8);
        let mut taken = Vec::new();
        for expected in [[Room::Plenty; 6].as_slice(), &[Room::Scarce; 2]].concat() {
            taken.push(places.take().await.unwrap());
            assert_eq!(places.room(), expected, "{} are taken", taken.len());
        }
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, places.take())
                .await
                .is_err()
        );
        taken.truncate(5);
        assert_eq!(places.room(), Room::Plenty);
    }

    #[test]
    fn f50_no_limit_is_still_one_and_a_high_one_leaves_half_of_the_files_to_others() {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        for limit in [0, 1, 8, usize::MAX] {
            let at_most = at_most(limit);
            assert!(at_most >= 1 && (limit == 0 || at_most <= limit));
            assert!(u64::try_from(at_most).unwrap() <= files / 2);
        }
    }

    #[test]
    fn f50_requests_beyond_the_bound_are_503_and_come_again_each_at_its_time() {
        let requests = Requests::new(2);
        let (first, _second) = (requests.admit().unwrap(), requests.admit().unwrap());
        let mut waits = HashSet::new();
        for _ in 0..200 {
            let answer = requests.admit().unwrap_err().into_response();
            assert_eq!(answer.status(), 503);
            let wait: u64 = answer.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
            assert!((30..=60).contains(&wait), "{wait}");
            waits.insert(wait);
        }
        assert!(waits.len() > 10, "{waits:?}");
        drop(first);
        assert!(requests.admit().is_ok());
    }
}
