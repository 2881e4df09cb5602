//! The throwaway CA's certificates: handed out, revoked, and when to renew them (RFC 8555 §7.4.2 and §7.6, RFC 9773).

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, LINK, RETRY_AFTER};
use serde::Deserialize;
use serde_json::json;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Window;
use super::http_server::json as reply;
use super::jws;
use super::problem::Problem;
use super::protocol::{Ca, Signer, Verified, add, set};
use super::state::{Revocation, lock};

#[derive(Deserialize)]
struct Revoke {
    certificate: String,
    reason: Option<u64>,
}

impl Ca {
    /// RFC 8555 §7.4.2, with a link to every other chain.
    pub(crate) fn certificate(
        &self,
        request: &Verified,
        serial: &str,
        chain: &str,
    ) -> Result<Response, Problem> {
        let account = request.account()?;
        let certificates = lock(&self.memory.certificates);
        let certificate = certificates
            .get(serial)
            .filter(|certificate| certificate.account == account)
            .ok_or_else(Problem::not_found)?;
        let shown: usize = chain.parse().map_err(|_| Problem::not_found())?;
        let chain = match shown.checked_sub(1) {
            None => &certificate.chain,
            Some(alternate) => certificate
                .alternates
                .get(alternate)
                .ok_or_else(Problem::not_found)?,
        };
        let mut response = (
            [(CONTENT_TYPE, "application/pem-certificate-chain")],
            chain.clone(),
        )
            .into_response();
        for other in (0..=certificate.alternates.len()).filter(|other| *other != shown) {
            let url = match other {
                0 => self.url(format_args!("certificate/{serial}")),
                other => self.url(format_args!("certificate/{serial}/{other}")),
            };
            add(
                response.headers_mut(),
                LINK,
                &format!("<{url}>;rel=\"alternate\""),
            );
        }
        Ok(response)
    }

    /// RFC 9773 §4.
    pub(crate) fn renewal_info(&self, path: &str) -> Result<Response, Problem> {
        let id = path.rsplit('/').next().unwrap_or_default();
        let certificates = lock(&self.memory.certificates);
        let certificate = certificates.values().find(|certificate| certificate.id == id);
        let certificate = certificate
            .filter(|_| self.options.renewal_info)
            .ok_or_else(Problem::not_found)?;
        let window = match &*lock(&self.window) {
            Some(window) => window.clone(),
            None => Window::last_third(certificate.not_before, certificate.not_after),
        };
        let mut body = json!({ "suggestedWindow": { "start": window.start, "end": window.end } });
        if let Some(explanation) = window.explanation {
            set(&mut body, "explanationURL", explanation);
        }
        let mut response = reply(StatusCode::OK, &body);
        add(response.headers_mut(), RETRY_AFTER, "21600");
        Ok(response)
    }

    /// RFC 8555 §7.6: by the account that it was issued to, or by the certificate's own key.
    pub(crate) fn revoke(&self, request: &Verified) -> Result<Response, Problem> {
        let wanted: Revoke = request.json()?;
        let der = jws::decode(wanted.certificate.trim_end_matches('='))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| Problem::malformed("not a certificate"))?;
        let serial: String = parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut certificates = lock(&self.memory.certificates);
        let certificate = certificates.get_mut(&serial).ok_or_else(Problem::not_found)?;
        let allowed = match &request.signer {
            Signer::Account(account) => account.id == certificate.account,
            Signer::Key(key) => key.is_subject_key(&parsed.public_key().subject_public_key.data),
        };
        if !allowed {
            return Err(Problem::new(
                403,
                "unauthorized",
                "neither the account's nor the certificate's key",
            ));
        }
        if wanted.reason.is_some_and(|reason| reason == 7 || reason > 10) {
            return Err(Problem::new(
                400,
                "badRevocationReason",
                "RFC 5280 section 5.3.1 has no such reason",
            ));
        }
        if self.options.revocations_refused {
            let why = "this throwaway CA was told to refuse revocations";
            return Err(Problem::new(403, "unauthorized", why));
        }
        if certificate.revoked {
            return Err(Problem::new(400, "alreadyRevoked", "it is revoked already"));
        }
        certificate.revoked = true;
        let reason = wanted.reason;
        lock(&self.memory.revocations).push(Revocation { serial, reason });
        Ok(StatusCode::OK.into_response())
    }
}
