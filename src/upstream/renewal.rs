//! The CA's renewal information (RFC 9773 §4): one GET, whose answer is held against the RFC before anybody hears of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::acme::problem::cleaned;
use crate::acme::renewal::CertificateId;
use crate::acme::renewal::RenewalInfo;
use crate::upstream::Suggestion;
use crate::upstream::fault::Fault;
use crate::upstream::http::Client;

/// How long a suggestion holds if the CA does not say.
const GOOD_FOR: Duration = Duration::from_secs(6 * 3600);

/// RFC 9773 §4.3.2: limits of what a CA may ask for.
const GOOD_FOR_LIMITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// The longest URL of an explanation.
const MAX_URL: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    suggested_window: Window,
    #[serde(rename = "explanationURL")]
    explanation_url: Option<String>,
}

#[derive(Deserialize)]
struct Window {
    start: Timestamp,
    end: Timestamp,
}

/// Asks below the directory's `renewalInfo`.
pub(crate) async fn ask(
    client: &Client,
    base: &str,
    certificate: &CertificateId,
) -> Result<Suggestion, Fault> {
    let url = format!("{}/{certificate}", base.trim_end_matches('/'));
    let answer = client.get(&url).await?;
    let body: Body = serde_json::from_slice(&answer.body)
        .map_err(|error| Fault::Nonsense(format!("its renewal information: {error}")))?;
    let explanation = body.explanation_url.filter(|url| {
        let is_web = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        is_web && cleaned(url, MAX_URL) == *url
    });
    let Window { start, end } = body.suggested_window;
    let info = RenewalInfo::new(start, end, explanation)
        .ok_or_else(|| Fault::Nonsense("a renewal window that ends before it starts".to_owned()))?;
    let (least, most) = GOOD_FOR_LIMITS;
    Ok(Suggestion {
        info,
        good_for: answer.retry_after.unwrap_or(GOOD_FOR).clamp(least, most),
    })
}
