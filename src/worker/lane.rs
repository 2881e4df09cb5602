//! How many jobs of a lane may be under way: here, of one owner, and in all processes together.

use std::sync::Arc;

use crate::acme::job::{Lane, WorkKind};
use crate::worker::places::Places;
use crate::worker::{Context, lead};

/// A lane for people.
pub(crate) fn name_of(lane: Lane) -> String {
    let kind = lane.kind().name();
    match lane.upstream() {
        Some(upstream) => format!("{kind} {upstream}"),
        None => kind.to_owned(),
    }
}

/// The places of the lane, whichever worker has taken them.
pub(crate) fn places(context: &Context, lane: Lane) -> Option<Arc<Places>> {
    let health = |name| Some(&context.upstream(name)?.health);
    match lane {
        Lane::Validate => Some(Arc::clone(&context.validating)),
        Lane::Issue(name) => health(name).map(|health| Arc::clone(&health.issuing)),
        Lane::Revoke(name) => health(name).map(|health| Arc::clone(&health.revoking)),
    }
}

/// How many jobs of the lane may be started now.
pub(crate) fn free(context: &Context, lane: Lane, free: usize, all: usize) -> usize {
    match lane {
        _ if !lead::is_ours(context, lane) => 0,
        Lane::Validate => free,
        Lane::Issue(name) | Lane::Revoke(name) => {
            let upstream = context.upstream(name);
            upstream.map_or(0, |upstream| {
                upstream.health.places(free, all, context.clock.now())
            })
        }
    }
}

/// How many jobs to lease now, and how many leases one owner may hold after that.
///
/// Validations wait for hosts of the applicant's choice, which may be as slow as they like. So an owner gets at most a
/// quarter as many places as are free: one gets a fifth of all, and however many there are, some stay free for the
/// next. For the same reason they are leased a few at a time. All other work waits for the CA alone.
pub(crate) fn portion(kind: WorkKind, free: usize) -> (usize, usize) {
    match kind {
        WorkKind::Validate => (free.div_ceil(8), free.div_ceil(4)),
        WorkKind::Issue | WorkKind::Revoke => (free, usize::MAX),
    }
}

/// How many leases of the lane there may be in all processes together. What is done at a CA is bounded for its sake,
/// however many processes there are; what validations cost is this process's own.
pub(crate) fn most_of(lane: Lane, places: usize) -> usize {
    match lane {
        Lane::Validate => usize::MAX,
        Lane::Issue(_) | Lane::Revoke(_) => places,
    }
}
