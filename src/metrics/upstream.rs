//! The metrics of each upstream. The label `upstream` is its name in the configuration.

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

/// The metrics of each upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// `acme_proxy_upstream_up`: Whether the CA's directory answered at the latest look. Label: `upstream`.
    pub up: IntGaugeVec,
    /// `acme_proxy_upstream_ready`: Whether there is an account at the CA. Label: `upstream`.
    pub ready: IntGaugeVec,
    /// `acme_proxy_upstream_breaker_open`: Whether the CA has failed so often in a row that one request at a time is let through. Label: `upstream`.
    pub breaker_open: IntGaugeVec,
    /// `acme_proxy_upstream_jobs_waiting`: Jobs for the CA, by kind. Labels: `upstream,kind`.
    pub jobs_waiting: IntGaugeVec,
    /// `acme_proxy_upstream_oldest_job_seconds`: How long the oldest job for the CA has been waiting; 0 if there is none. Labels: `upstream,kind`.
    pub oldest_job: GaugeVec,
    /// `acme_proxy_upstream_requests_total`: What was asked of the CA (register, open, advance, revoke, renewal, probe), by outcome (done, retry, `rate_limited`, refused, gone); each is one HTTP request or several. Labels: `upstream,operation,outcome`.
    pub requests: IntCounterVec,
    /// `acme_proxy_upstream_http_requests_total`: HTTP requests to the CA, by outcome (done, `bad_nonce`, `rate_limited`, `server_error`, refused, timeout, unreachable, `too_long`). Labels: `upstream,outcome`.
    pub http_requests: IntCounterVec,
    /// `acme_proxy_upstream_retries_total`: What is to be asked of the CA again because of a fault. Label: `upstream`.
    pub retries: IntCounterVec,
    /// `acme_proxy_upstream_rate_limited_total`: Times that the CA asked us to slow down (429). Label: `upstream`.
    pub rate_limited: IntCounterVec,
    /// `acme_proxy_upstream_certificate_mismatch_total`: Certificates from the CA that did not match their order, and were not handed out. Should stay 0: alert on it. Label: `upstream`.
    pub certificate_mismatch: IntCounterVec,
    /// `acme_proxy_upstream_failovers_total`: Orders that were placed elsewhere because the CA failed. Label: `upstream`.
    pub failovers: IntCounterVec,
}

impl UpstreamMetrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(format!("acme_proxy_upstream_{name}"), help), labels)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(
                Opts::new(format!("acme_proxy_upstream_{name}_total"), help),
                labels,
            )
        };
        Ok(Self {
            up: gauge(
                "up",
                "Whether the CA's directory answered at the latest look.",
                &["upstream"],
            )?,
            ready: gauge("ready", "Whether there is an account at the CA.", &["upstream"])?,
            breaker_open: gauge(
                "breaker_open",
                "Whether the CA has failed so often in a row that one request at a time is let through.",
                &["upstream"],
            )?,
            jobs_waiting: gauge("jobs_waiting", "Jobs for the CA, by kind.", &["upstream", "kind"])?,
            oldest_job: GaugeVec::new(
                Opts::new(
                    "acme_proxy_upstream_oldest_job_seconds",
                    "How long the oldest job for the CA has been waiting; 0 if there is none.",
                ),
                &["upstream", "kind"],
            )?,
            requests: counter(
                "requests",
                "What was asked of the CA (register, open, advance, revoke, renewal, probe), by outcome (done, retry, rate_limited, refused, gone); each is one HTTP request or several.",
                &["upstream", "operation", "outcome"],
            )?,
            http_requests: counter(
                "http_requests",
                "HTTP requests to the CA, by outcome (done, bad_nonce, rate_limited, server_error, refused, timeout, unreachable, too_long).",
                &["upstream", "outcome"],
            )?,
            retries: counter(
                "retries",
                "What is to be asked of the CA again because of a fault.",
                &["upstream"],
            )?,
            rate_limited: counter(
                "rate_limited",
                "Times that the CA asked us to slow down (429).",
                &["upstream"],
            )?,
            certificate_mismatch: counter(
                "certificate_mismatch",
                "Certificates from the CA that did not match their order, and were not handed out. Should stay 0: alert on it.",
                &["upstream"],
            )?,
            failovers: counter(
                "failovers",
                "Orders that were placed elsewhere because the CA failed.",
                &["upstream"],
            )?,
        })
    }

    /// Shows the upstream from the start, so that a rate over its counters is right from the first event on.
    pub fn show(&self, upstream: &str) {
        for gauge in [&self.up, &self.ready, &self.breaker_open] {
            gauge.with_label_values(&[upstream]);
        }
        let counters = [
            &self.retries,
            &self.rate_limited,
            &self.certificate_mismatch,
            &self.failovers,
        ];
        for counter in counters {
            counter.with_label_values(&[upstream]);
        }
    }

    /// Says nothing more about how the upstream is. What has been counted stays.
    pub fn forget(&self, upstream: &str) {
        for gauge in [&self.up, &self.ready, &self.breaker_open] {
            // It is there, or has just gone.
            drop(gauge.remove_label_values(&[upstream]));
        }
        for family in [self.jobs_waiting.collect(), self.oldest_job.collect()].concat() {
            for metric in family.get_metric() {
                let labels = metric.get_label().iter().map(|pair| (pair.name(), pair.value()));
                let labels: HashMap<&str, &str> = labels.collect();
                if labels.get("upstream") == Some(&upstream) {
                    drop(self.jobs_waiting.remove(&labels));
                    drop(self.oldest_job.remove(&labels));
                }
            }
        }
    }

    pub(crate) fn collectors(&self) -> [Box<dyn Collector>; 11] {
        [
            Box::new(self.up.clone()),
            Box::new(self.ready.clone()),
            Box::new(self.breaker_open.clone()),
            Box::new(self.jobs_waiting.clone()),
            Box::new(self.oldest_job.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.http_requests.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.rate_limited.clone()),
            Box::new(self.certificate_mismatch.clone()),
            Box::new(self.failovers.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_any_more_of_how_an_upstream_is_that_has_gone_and_all_of_the_others() {
        let metrics = UpstreamMetrics::new().unwrap();
        for name in ["default", "spare"] {
            metrics.show(name);
            for kind in ["issue", "revoke"] {
                metrics.jobs_waiting.with_label_values(&[name, kind]).set(1);
                metrics.oldest_job.with_label_values(&[name, kind]).set(1.0);
            }
        }
        metrics.forget("spare");
        let gauges: [&dyn Collector; 5] = [
            &metrics.up,
            &metrics.ready,
            &metrics.breaker_open,
            &metrics.jobs_waiting,
            &metrics.oldest_job,
        ];
        let counts = gauges.map(|gauge| {
            let families = gauge.collect();
            let labels = families
                .iter()
                .flat_map(|family| family.get_metric())
                .flat_map(|metric| metric.get_label());
            let named = |name: &str| labels.clone().filter(|pair| pair.value() == name).count();
            (named("default"), named("spare"))
        });
        assert_eq!(counts, [(1, 0), (1, 0), (1, 0), (2, 0), (2, 0)]);
        let retries = metrics.retries.with_label_values(&["spare"]);
        assert_eq!(retries.get(), 0, "what has been counted stays");
    }
}
