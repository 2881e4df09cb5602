//! What step-ca tells whoever asks, at `/` and below `/1.0`: health, version, roots and provisioners. None of its routes
//! that sign, renew or revoke is here: there is one way to a certificate, which is ACME.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;

use crate::acme::certificate::{Der, Fingerprint, to_pem};
use crate::acme::challenge::ChallengeType;
use crate::acme::problem::Problem;
use crate::server::respond::{self, Rejection};
use crate::server::{Shared, admin};

/// Certificates that are handed out as they are. Nothing here is issued under them.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// `root` of the configuration.
    pub own: Vec<Root>,
    /// `federatedRoots` of the configuration.
    pub federated: Vec<Root>,
}

/// A root certificate.
#[derive(Debug, Clone)]
pub struct Root {
    fingerprint: Fingerprint,
    pem: String,
}

/// The file holds no certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("holds no certificate, or one that can not be read")]
pub struct InvalidRoot;

impl Root {
    /// By it the certificate is asked for.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The certificates of a PEM file, of which there must be one.
    ///
    /// # Errors
    ///
    /// There is none, or one is broken.
    pub fn all_of(pem: &[u8]) -> Result<Vec<Self>, InvalidRoot> {
        let blocks: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let blocks = blocks.map_err(|_| InvalidRoot)?;
        let read = |block: &CertificateDer<'_>| match x509_parser::parse_x509_certificate(block) {
            Ok(([], _)) => Ok(Self {
                fingerprint: Fingerprint::of(block),
                pem: to_pem([&Der::new(block.to_vec())]),
            }),
            Ok(_) | Err(_) => Err(InvalidRoot),
        };
        let roots: Vec<Self> = blocks.iter().map(read).collect::<Result<_, _>>()?;
        match roots.is_empty() {
            true => Err(InvalidRoot),
            false => Ok(roots),
        }
    }
}

#[derive(Serialize)]
struct Certificates<'a> {
    crts: Vec<&'a str>,
}

#[derive(Serialize)]
struct OneRoot<'a> {
    ca: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provisioners<'a> {
    provisioners: Vec<Provisioner<'a>>,
    next_cursor: &'static str,
}

/// A provisioner as step-ca shows it. Its keys are nobody's business.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provisioner<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    terms_of_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    website: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    caa_identities: &'a [String],
    #[serde(rename = "requireEAB", skip_serializing_if = "std::ops::Not::not")]
    require_eab: bool,
    challenges: &'a [ChallengeType],
}

/// The routes, each in both places.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let mut routes = Router::new();
    for prefix in ["", "/1.0"] {
        let at = |path: &str| format!("{prefix}{path}");
        routes = routes
            .route(&at("/health"), get(health))
            .route(&at("/version"), get(admin::version))
            .route(&at("/roots"), get(roots))
            .route(&at("/roots.pem"), get(roots_pem))
            .route(&at("/root/{sha}"), get(root))
            .route(&at("/federation"), get(federation))
            .route(&at("/provisioners"), get(provisioners));
    }
    routes
}

async fn health(State(shared): State<Arc<Shared>>) -> Result<Response, Rejection> {
    admin::health(&shared.metrics)
}

/// GET roots. The status is step-ca's.
async fn roots(State(shared): State<Arc<Shared>>) -> Result<Response, Rejection> {
    let crts = shared.settings.roots.own.iter().map(|root| root.pem.as_str());
    respond::json(StatusCode::CREATED, [], &Certificates { crts: crts.collect() })
}

/// GET federation: all roots, our own among them. The status is step-ca's.
async fn federation(State(shared): State<Arc<Shared>>) -> Result<Response, Rejection> {
    let Roots { own, federated } = &shared.settings.roots;
    let crts = own.iter().chain(federated).map(|root| root.pem.as_str());
    respond::json(StatusCode::CREATED, [], &Certificates { crts: crts.collect() })
}

async fn roots_pem(State(shared): State<Arc<Shared>>) -> Response {
    let pem: String = shared
        .settings
        .roots
        .own
        .iter()
        .map(|root| root.pem.as_str())
        .collect();
    ([(CONTENT_TYPE, "application/x-pem-file")], pem).into_response()
}

/// GET root/…: the root with this SHA-256, in hexadecimal of either case, with or without hyphens.
async fn root(State(shared): State<Arc<Shared>>, Path(sha): Path<String>) -> Result<Response, Rejection> {
    let wanted = sha.replace('-', "").to_ascii_lowercase();
    let Roots { own, federated } = &shared.settings.roots;
    let mut known = own.iter().chain(federated);
    let found = known.find(|root| root.fingerprint.to_string() == wanted);
    let found =
        found.ok_or_else(|| Problem::malformed("there is no root with this fingerprint").with_status(404))?;
    respond::json(StatusCode::OK, [], &OneRoot { ca: &found.pem })
}

/// GET provisioners: all of them on one page.
async fn provisioners(State(shared): State<Arc<Shared>>) -> Result<Response, Rejection> {
    let shown = shared.settings.provisioners.iter().map(|meta| Provisioner {
        kind: "ACME",
        name: &meta.name,
        terms_of_service: meta.terms_of_service.as_deref(),
        website: meta.website.as_deref(),
        caa_identities: &meta.caa_identities,
        require_eab: meta.external_account_required,
        challenges: &meta.challenges,
    });
    let page = Provisioners {
        provisioners: shown.collect(),
        next_cursor: "",
    };
    respond::json(StatusCode::OK, [], &page)
}
