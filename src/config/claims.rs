//! `claims`: for how long step-ca itself would certify. Nothing of it has an effect, but what step-ca refuses is an
//! error here, too: it serves nothing under a provisioner with such claims.

use std::time::Duration;

use crate::config::reader::Reported;
use crate::config::reader::Section;
use crate::config::value::GoDuration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// What an absent duration is to step-ca.
#[derive(Clone, Copy)]
pub(crate) struct Lifetimes {
    min: Duration,
    max: Duration,
    default: Duration,
}

impl Lifetimes {
    /// Those of step-ca, without `authority.claims`.
    pub(crate) const OF_STEP_CA: Self = Self {
        min: MINUTE.saturating_mul(5),
        max: HOUR.saturating_mul(24),
        default: HOUR.saturating_mul(24),
    };
}

/// The lifetimes that hold where these claims do; `outer` are those for what they do not say.
pub(crate) fn read(claims: &Section<'_>, outer: Lifetimes) -> Result<Lifetimes, Reported> {
    claims.warn("has no effect here: the CA decides how long certificates are valid");
    let ssh = [
        "minUserSSHCertDuration",
        "maxUserSSHCertDuration",
        "defaultUserSSHCertDuration",
        "minHostSSHCertDuration",
        "maxHostSSHCertDuration",
        "defaultHostSSHCertDuration",
    ];
    let flags = [
        "enableSSHCA",
        "disableRenewal",
        "allowRenewalAfterExpiry",
        "disableSmallstepExtensions",
    ];
    let duration = |key| {
        let written = claims.parsed::<GoDuration>(key)?;
        match written {
            Some(GoDuration(Duration::ZERO)) => Err(claims
                .place(key)
                .error("is zero; write e.g. \"24h\", or remove it")),
            Some(GoDuration(duration)) => Ok(Some(duration)),
            None => Ok(None),
        }
    };
    let (min, max, default) = (
        duration("minTLSCertDuration"),
        duration("maxTLSCertDuration"),
        duration("defaultTLSCertDuration"),
    );
    let others: Vec<Result<(), Reported>> = (ssh
        .into_iter()
        .map(|key| claims.parsed::<GoDuration>(key).map(drop)))
    .chain(flags.into_iter().map(|key| claims.flag(key).map(drop)))
    .collect();
    let found = Lifetimes {
        min: min?.unwrap_or(outer.min),
        max: max?.unwrap_or(outer.max),
        default: default?.unwrap_or(outer.default),
    };
    others.into_iter().collect::<Result<(), _>>()?;
    for (key, is_wrong, text) in [
        (
            "minTLSCertDuration",
            found.min > found.max,
            "is above maxTLSCertDuration",
        ),
        (
            "defaultTLSCertDuration",
            found.default < found.min,
            "is below minTLSCertDuration",
        ),
        (
            "defaultTLSCertDuration",
            found.default > found.max,
            "is above maxTLSCertDuration",
        ),
    ] {
        if is_wrong {
            return Err(claims.place(key).error(format_args!(
                "{text} (step-ca's own values are 5m, 24h and 24h), so that step-ca serves nothing under these claims; \
                 remove claims, which has no effect here"
            )));
        }
    }
    Ok(found)
}
