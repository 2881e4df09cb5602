//! What can be ordered together, with a CSR, a certificate, and a stranger's order for each.

use std::sync::OnceLock;

use acme_proxy::acme::certificate::{IssuedCertificate, IssuedChain};
use acme_proxy::acme::challenge::ChallengeType;
use acme_proxy::acme::csr::Csr;
use acme_proxy::acme::id::{AccountId, AuthorizationId, ChallengeId};
use acme_proxy::acme::identifier::Identifier;
use acme_proxy::acme::order::{Accepted, Order, Settled, ValidatedOrder, Verdict};
use jiff::Timestamp;

use crate::harness::ca::pki::Pki;
use crate::rfc8555::s7_1_6_lives::{LIFETIME, start};

/// One of each kind, and two hosts.
const NAMES: [&str; 5] = [
    "a.example.com",
    "b.example.com",
    "*.c.example.com",
    "192.0.2.1",
    "2001:db8::1",
];

/// A set of names that is ordered.
pub(crate) struct Names {
    pub(crate) identifiers: Vec<Identifier>,
    pub(crate) csr: Csr,
    /// As the CA sends it.
    chain: String,
    /// Somebody else's order for the same names, ready, and the certificate that it gets.
    pub(crate) stranger: Order,
    pub(crate) strangers_certificate: IssuedCertificate,
}

impl Names {
    /// The set with this number, any number but one without any of its five lowest bits.
    pub(crate) fn of(number: usize) -> &'static Self {
        static ALL: OnceLock<Vec<Names>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let pki = Pki::generate(None).unwrap();
            (1..1 << NAMES.len()).map(|set| Self::new(set, &pki)).collect()
        });
        &all[number - 1]
    }

    /// How many sets there are.
    pub(crate) const COUNT: usize = (1 << NAMES.len()) - 1;

    fn new(set: usize, pki: &Pki) -> Self {
        let chosen = NAMES.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
        let texts: Vec<String> = chosen.map(|(_, name)| (*name).to_owned()).collect();
        let identifiers: Vec<Identifier> = texts.iter().map(|text| identifier(text)).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(texts.clone()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.serialize_request(&key).unwrap().der().to_vec();
        let leaf = pki.issue(&der, &texts);
        let chain = leaf.unwrap_or_else(|_| panic!("the CSR is good")).chain;
        let csr = Csr::parse(der).unwrap();
        let stranger = ready(&identifiers);
        let matched = csr.matching(&stranger, None).unwrap();
        let (processing, _) = stranger.clone().finalize(matched, start(), LIFETIME).unwrap();
        let validated = processing.validated(start()).unwrap();
        Self {
            strangers_certificate: verified(&chain, &validated),
            identifiers,
            csr,
            chain,
            stranger,
        }
    }

    /// The certificate for an order of these names.
    pub(crate) fn certificate(&self, order: &ValidatedOrder) -> IssuedCertificate {
        verified(&self.chain, order)
    }
}

fn verified(chain: &str, order: &ValidatedOrder) -> IssuedCertificate {
    IssuedChain::verify(chain, order.ordered(), start())
        .unwrap()
        .certificate
}

fn identifier(text: &str) -> Identifier {
    Identifier::ip(text).unwrap_or_else(|_| Identifier::dns(text).unwrap())
}

fn ready(identifiers: &[Identifier]) -> Order {
    let kind = ChallengeType::Http01;
    let offered = identifiers.iter().map(|name| (name.clone(), vec![kind]));
    let provisioner = "acme".to_owned();
    let mut order = Order::new(
        AccountId::random(),
        provisioner,
        offered.collect(),
        start(),
        LIFETIME,
    );
    for index in 0..identifiers.len() {
        let authorization = AuthorizationId {
            order: order.id(),
            index: u16::try_from(index).unwrap(),
        };
        let id = ChallengeId { authorization, kind };
        let Ok(Accepted::Started(started, _)) = order.accept_challenge(id, start()) else {
            panic!("a new challenge can be accepted");
        };
        let Settled::Finished(proved) = started.settle_validation(id, 0, Verdict::Proved, 1, start()) else {
            panic!("the first verdict is awaited");
        };
        order = proved;
    }
    order
}

/// Certificates of the throwaway CA are valid around the real time.
pub(crate) fn today() -> Timestamp {
    acme_proxy::clock::Clock::system().now()
}
