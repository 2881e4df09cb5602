//! What operators see: the metrics (COMPAT section 5, and our own as `acme_proxy_*`) and the state of health.
//!
//! No label ever holds a name, a serial number or an account: the number of series does not grow with certificates.

pub mod health;
pub mod upstream;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::metrics::health::Health;
use crate::metrics::upstream::UpstreamMetrics;

const DAY: f64 = 86_400.0;

/// Every metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The state of health.
    pub health: Health,
    /// `externalcas_certificates_issued_total`: Certificates obtained from the CA. Label: `status`.
    pub certificates_issued: IntCounterVec,
    /// `externalcas_certificates_revoked_total`: Revocations at the CA. Label: `status`.
    pub certificates_revoked: IntCounterVec,
    /// `externalcas_certificate_request_duration_seconds`: From the request to the CA's answer. Label: `operation`.
    pub certificate_request_duration: HistogramVec,
    /// `externalcas_acme_roundtrip_duration_seconds`: One step at the CA. Label: `acme_operation`.
    pub acme_roundtrip_duration: HistogramVec,
    /// `externalcas_certificate_expiration_seconds`: Lifetimes of the issued certificates. Label: `status`.
    pub certificate_expiration: HistogramVec,
    /// `externalcas_external_ca_up`: Whether the CA's directory answered at the latest look. Label: `ca_url`.
    pub external_ca_up: IntGaugeVec,
    /// `externalcas_last_successful_certificate_timestamp_seconds`: When the latest certificate was issued, Unix time.
    pub last_successful_certificate: Gauge,
    /// `acme_proxy_certificate_mismatch_total`: Certificates from the CA that did not match their order, and were not handed out. Should stay 0: alert on it.
    pub certificate_mismatch: IntCounter,
    /// `acme_proxy_upstream_*`: Those of each upstream.
    pub upstream: UpstreamMetrics,
    /// `acme_proxy_http_requests_total`: Requests, by endpoint and HTTP status. Labels: `endpoint,status`.
    pub requests: IntCounterVec,
    /// `acme_proxy_http_request_duration_seconds`: How long requests took. Label: `endpoint`.
    pub request_duration: HistogramVec,
    /// `acme_proxy_problems_total`: Problem documents sent, by type. Label: `type`.
    pub problems: IntCounterVec,
    /// `acme_proxy_nonces_rejected_total`: Requests refused because of their anti-replay nonce.
    pub nonces_rejected: IntCounter,
    /// `acme_proxy_handler_panics_total`: Requests that ended in a panic. Should stay 0: alert on it.
    pub handler_panics: IntCounter,
    /// `acme_proxy_log_lines_dropped_total`: Lines of the log that were dropped, because nobody took them from the standard error in time.
    pub log_lines_dropped: IntCounter,
    /// `acme_proxy_connections`: Open connections of the ACME listener.
    pub connections: IntGauge,
    /// `acme_proxy_proxy_headers_refused_total`: Connections of load balancers that were closed because of their PROXY header, by reason. Label: `reason`.
    pub proxy_headers_refused: IntCounterVec,
    /// `acme_proxy_validations_total`: Validation attempts, by challenge type and outcome (valid, invalid, retry). Labels: `type,outcome`.
    pub validations: IntCounterVec,
    /// `acme_proxy_validation_duration_seconds`: How long validation attempts took. Label: `type`.
    pub validation_duration: HistogramVec,
    /// `acme_proxy_jobs_waiting`: Jobs in the queue, by kind. Label: `kind`.
    pub jobs_waiting: IntGaugeVec,
    /// `acme_proxy_store_commits_total`: Commits to the store.
    pub store_commits: IntCounter,
    /// `acme_proxy_store_syncs_total`: Times that the store waited for the disk; one sync serves all commits that wait.
    pub store_syncs: IntCounter,
    /// `acme_proxy_store_bytes`: Bytes of the store on disk.
    pub store_bytes: IntGauge,
    /// `acme_proxy_store_free_bytes`: Free bytes of the store's file system; not there with PostgreSQL.
    pub store_free_bytes: IntGaugeVec,
    /// `acme_proxy_store_faults_total`: Times that the database could not be used, by what was wrong; docs/TROUBLESHOOTING.md has each. Label: `fault`.
    pub store_faults: IntCounterVec,
    /// `acme_proxy_store_clock_offset_seconds`: How far the database's clock is ahead of this host's; 0 without a database.
    pub store_clock_offset: Gauge,
    /// `acme_proxy_certificates_valid`: Sets of names whose latest certificate has not expired.
    pub certificates_valid: IntGauge,
    /// `acme_proxy_certificates_expiring`: Sets of names whose latest certificate expires within so many days. Label: `days`.
    pub certificates_expiring: IntGaugeVec,
    /// `acme_proxy_certificates_expired`: Sets of names whose latest certificate has expired in the last 30 days.
    pub certificates_expired: IntGauge,
    /// `acme_proxy_ready`: Whether clients can be served: what /readyz says.
    ready: IntGauge,
    /// `acme_proxy_own_certificate_expiry_timestamp_seconds`: When the daemon's own certificate expires, Unix time; 0 while there is none.
    pub own_certificate_expiry: IntGauge,
    /// `acme_proxy_own_certificate_days_left`: Days until the daemon's own certificate expires; 0 while there is none.
    pub own_certificate_days_left: Gauge,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    ///
    /// The library's own, if a name or label were not valid.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let build = IntGaugeVec::new(
            Opts::new("acme_proxy_build_info", "1, with the version of the program."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        let metrics = Self {
            health: Health::default(),
            certificates_issued: IntCounterVec::new(
                Opts::new(
                    "externalcas_certificates_issued_total",
                    "Certificates obtained from the CA.",
                ),
                &["status"],
            )?,
            certificates_revoked: IntCounterVec::new(
                Opts::new("externalcas_certificates_revoked_total", "Revocations at the CA."),
                &["status"],
            )?,
            certificate_request_duration: HistogramVec::new(
                HistogramOpts::new(
                    "externalcas_certificate_request_duration_seconds",
                    "From the request to the CA's answer.",
                )
                .buckets(vec![1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]),
                &["operation"],
            )?,
            acme_roundtrip_duration: HistogramVec::new(
                HistogramOpts::new(
                    "externalcas_acme_roundtrip_duration_seconds",
                    "One step at the CA.",
                )
                .buckets(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
                &["acme_operation"],
            )?,
            certificate_expiration: HistogramVec::new(
                HistogramOpts::new(
                    "externalcas_certificate_expiration_seconds",
                    "Lifetimes of the issued certificates.",
                )
                .buckets(vec![
                    DAY,
                    7.0 * DAY,
                    30.0 * DAY,
                    60.0 * DAY,
                    90.0 * DAY,
                    365.0 * DAY,
                ]),
                &["status"],
            )?,
            external_ca_up: IntGaugeVec::new(
                Opts::new(
                    "externalcas_external_ca_up",
                    "Whether the CA's directory answered at the latest look.",
                ),
                &["ca_url"],
            )?,
            last_successful_certificate: Gauge::with_opts(Opts::new(
                "externalcas_last_successful_certificate_timestamp_seconds",
                "When the latest certificate was issued, Unix time.",
            ))?,
            certificate_mismatch: IntCounter::with_opts(Opts::new(
                "acme_proxy_certificate_mismatch_total",
                "Certificates from the CA that did not match their order, and were not handed out. Should stay 0: alert on it.",
            ))?,
            upstream: UpstreamMetrics::new()?,
            requests: IntCounterVec::new(
                Opts::new(
                    "acme_proxy_http_requests_total",
                    "Requests, by endpoint and HTTP status.",
                ),
                &["endpoint", "status"],
            )?,
            request_duration: HistogramVec::new(
                HistogramOpts::new(
                    "acme_proxy_http_request_duration_seconds",
                    "How long requests took.",
                )
                .buckets(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
                ]),
                &["endpoint"],
            )?,
            problems: IntCounterVec::new(
                Opts::new("acme_proxy_problems_total", "Problem documents sent, by type."),
                &["type"],
            )?,
            nonces_rejected: IntCounter::with_opts(Opts::new(
                "acme_proxy_nonces_rejected_total",
                "Requests refused because of their anti-replay nonce.",
            ))?,
            handler_panics: IntCounter::with_opts(Opts::new(
                "acme_proxy_handler_panics_total",
                "Requests that ended in a panic. Should stay 0: alert on it.",
            ))?,
            log_lines_dropped: IntCounter::with_opts(Opts::new(
                "acme_proxy_log_lines_dropped_total",
                "Lines of the log that were dropped, because nobody took them from the standard error in time.",
            ))?,
            connections: IntGauge::with_opts(Opts::new(
                "acme_proxy_connections",
                "Open connections of the ACME listener.",
            ))?,
            proxy_headers_refused: IntCounterVec::new(
                Opts::new(
                    "acme_proxy_proxy_headers_refused_total",
                    "Connections of load balancers that were closed because of their PROXY header, by reason.",
                ),
                &["reason"],
            )?,
            validations: IntCounterVec::new(
                Opts::new(
                    "acme_proxy_validations_total",
                    "Validation attempts, by challenge type and outcome (valid, invalid, retry).",
                ),
                &["type", "outcome"],
            )?,
            validation_duration: HistogramVec::new(
                HistogramOpts::new(
                    "acme_proxy_validation_duration_seconds",
                    "How long validation attempts took.",
                )
                .buckets(vec![0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
                &["type"],
            )?,
            jobs_waiting: IntGaugeVec::new(
                Opts::new("acme_proxy_jobs_waiting", "Jobs in the queue, by kind."),
                &["kind"],
            )?,
            store_commits: IntCounter::with_opts(Opts::new(
                "acme_proxy_store_commits_total",
                "Commits to the store.",
            ))?,
            store_syncs: IntCounter::with_opts(Opts::new(
                "acme_proxy_store_syncs_total",
                "Times that the store waited for the disk; one sync serves all commits that wait.",
            ))?,
            store_bytes: IntGauge::with_opts(Opts::new(
                "acme_proxy_store_bytes",
                "Bytes of the store on disk.",
            ))?,
            // Without labels, but not there as long as nobody knows.
            store_free_bytes: IntGaugeVec::new(
                Opts::new(
                    "acme_proxy_store_free_bytes",
                    "Free bytes of the store's file system; not there with PostgreSQL.",
                ),
                &[],
            )?,
            store_faults: IntCounterVec::new(
                Opts::new(
                    "acme_proxy_store_faults_total",
                    "Times that the database could not be used, by what was wrong; docs/TROUBLESHOOTING.md has each.",
                ),
                &["fault"],
            )?,
            store_clock_offset: Gauge::with_opts(Opts::new(
                "acme_proxy_store_clock_offset_seconds",
                "How far the database's clock is ahead of this host's; 0 without a database.",
            ))?,
            certificates_valid: IntGauge::with_opts(Opts::new(
                "acme_proxy_certificates_valid",
                "Sets of names whose latest certificate has not expired.",
            ))?,
            certificates_expiring: IntGaugeVec::new(
                Opts::new(
                    "acme_proxy_certificates_expiring",
                    "Sets of names whose latest certificate expires within so many days.",
                ),
                &["days"],
            )?,
            certificates_expired: IntGauge::with_opts(Opts::new(
                "acme_proxy_certificates_expired",
                "Sets of names whose latest certificate has expired in the last 30 days.",
            ))?,
            ready: IntGauge::with_opts(Opts::new(
                "acme_proxy_ready",
                "Whether clients can be served: what /readyz says.",
            ))?,
            own_certificate_expiry: IntGauge::with_opts(Opts::new(
                "acme_proxy_own_certificate_expiry_timestamp_seconds",
                "When the daemon's own certificate expires, Unix time; 0 while there is none.",
            ))?,
            own_certificate_days_left: Gauge::with_opts(Opts::new(
                "acme_proxy_own_certificate_days_left",
                "Days until the daemon's own certificate expires; 0 while there is none.",
            ))?,
            registry,
        };
        metrics.register()?;
        // Shown from the start, so that a rate over them is right from the first event on.
        for status in ["success", "failure"] {
            metrics.certificates_issued.with_label_values(&[status]);
            metrics.certificates_revoked.with_label_values(&[status]);
        }
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let collectors: [Box<dyn Collector>; 31] = [
            Box::new(self.certificates_issued.clone()),
            Box::new(self.certificates_revoked.clone()),
            Box::new(self.certificate_request_duration.clone()),
            Box::new(self.acme_roundtrip_duration.clone()),
            Box::new(self.certificate_expiration.clone()),
            Box::new(self.external_ca_up.clone()),
            Box::new(self.last_successful_certificate.clone()),
            Box::new(self.certificate_mismatch.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.request_duration.clone()),
            Box::new(self.problems.clone()),
            Box::new(self.nonces_rejected.clone()),
            Box::new(self.handler_panics.clone()),
            Box::new(self.log_lines_dropped.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.proxy_headers_refused.clone()),
            Box::new(self.validations.clone()),
            Box::new(self.validation_duration.clone()),
            Box::new(self.jobs_waiting.clone()),
            Box::new(self.store_commits.clone()),
            Box::new(self.store_syncs.clone()),
            Box::new(self.store_bytes.clone()),
            Box::new(self.store_free_bytes.clone()),
            Box::new(self.store_faults.clone()),
            Box::new(self.store_clock_offset.clone()),
            Box::new(self.certificates_valid.clone()),
            Box::new(self.certificates_expiring.clone()),
            Box::new(self.certificates_expired.clone()),
            Box::new(self.ready.clone()),
            Box::new(self.own_certificate_expiry.clone()),
            Box::new(self.own_certificate_days_left.clone()),
        ];
        collectors
            .into_iter()
            .chain(self.upstream.collectors())
            .try_for_each(|collector| self.registry.register(collector))
    }

    /// The page that Prometheus scrapes, in its text format.
    ///
    /// # Errors
    ///
    /// The library's own, if the page can not be written.
    pub fn page(&self) -> Result<String, prometheus::Error> {
        self.ready.set(i64::from(self.health.ready().0));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Raises a counter to a total that is counted elsewhere.
pub fn raise_to(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_go_programs_metrics_and_those_of_the_process() {
        let metrics = Metrics::new().unwrap();
        metrics
            .external_ca_up
            .with_label_values(&["https://ca.example/"])
            .set(1);
        metrics
            .certificate_expiration
            .with_label_values(&["issued"])
            .observe(DAY);
        metrics
            .certificate_request_duration
            .with_label_values(&["issue"])
            .observe(2.0);
        metrics
            .acme_roundtrip_duration
            .with_label_values(&["obtain"])
            .observe(0.2);
        let page = metrics.page().unwrap();
        for line in [
            "externalcas_certificates_issued_total{status=\"success\"} 0",
            "externalcas_certificates_revoked_total{status=\"failure\"} 0",
            "externalcas_certificate_request_duration_seconds_bucket{operation=\"issue\",le=\"2.5\"} 1",
            "externalcas_acme_roundtrip_duration_seconds_bucket{acme_operation=\"obtain\",le=\"0.25\"} 1",
            "externalcas_certificate_expiration_seconds_bucket{status=\"issued\",le=\"86400\"} 1",
            "externalcas_external_ca_up{ca_url=\"https://ca.example/\"} 1",
            "externalcas_last_successful_certificate_timestamp_seconds 0",
            "acme_proxy_nonces_rejected_total 0",
            "acme_proxy_certificate_mismatch_total 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.contains("\nprocess_open_fds "));
    }
}
