//! What a CA may send, and what of it is never handed out (CONFORMANCE K13, SECURITY C1102, C1103).

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, IsCa, KeyPair};
use std::time::Duration;

use super::*;
use crate::acme::order::{Order, ValidatedOrder};

const NAMES: [&str; 2] = ["a.example.com", "*.example.com"];

type Issuer = CertifiedIssuer<'static, KeyPair>;

struct Scene {
    root: Issuer,
    intermediate: Issuer,
    key: KeyPair,
    order: ValidatedOrder,
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn pem(chain: &[&str]) -> String {
    chain.concat()
}

impl Scene {
    fn new() -> Self {
        let root = Issuer::self_signed(ca_params("root"), KeyPair::generate().unwrap()).unwrap();
        let of_intermediate = KeyPair::generate().unwrap();
        let intermediate = Issuer::signed_by(ca_params("intermediate"), of_intermediate, &root).unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = Der::new(params(&NAMES).serialize_request(&key).unwrap().der().to_vec());
        let identifiers = NAMES.iter().map(|name| Identifier::dns(name).unwrap()).collect();
        let order = Order::for_daemon(
            OrderId::random(),
            identifiers,
            csr,
            now(),
            Duration::from_secs(60),
        );
        Self {
            root,
            intermediate,
            key,
            order: order.validated(now()).unwrap(),
        }
    }

    fn leaf(&self, params: &CertificateParams) -> String {
        params.signed_by(&self.key, &self.intermediate).unwrap().pem()
    }

    fn refusal(&self, pem: &str) -> &'static str {
        IssuedChain::verify(pem, self.order.ordered(), now())
            .expect_err("it was accepted")
            .0
    }
}

#[test]
fn the_ordered_certificate_is_accepted_with_its_chain_leaf_first() {
    let scene = Scene::new();
    let leaf = scene.leaf(&params(&["A.example.com", "*.example.com"]));
    let sent = pem(&[&leaf, &scene.intermediate.pem(), &scene.root.pem()]);
    let chain = IssuedChain::verify(&sent, scene.order.ordered(), now()).unwrap();
    assert_eq!(chain.certificate.order(), scene.order.id());
    assert_eq!(chain.issuers.len(), 2);
    assert_eq!(chain.issuers[0].as_bytes(), &scene.intermediate.der()[..]);
    let whole = to_pem(std::iter::once(chain.certificate.leaf()).chain(&chain.issuers));
    assert_eq!(whole.matches("BEGIN CERTIFICATE").count(), 3);
    assert!(IssuedChain::verify(&whole, scene.order.ordered(), now()).is_ok());
}

#[test]
fn l2_other_chains_of_the_same_leaf_are_kept_up_to_eight_and_36_kib() {
    let scene = Scene::new();
    let leaf = scene.leaf(&params(&NAMES));
    let sent = pem(&[&leaf, &scene.intermediate.pem()]);
    let ordered = scene.order.ordered();
    let verified = || IssuedChain::verify(&sent, ordered, now()).unwrap();
    let crossed = |size: usize| {
        let mut params = ca_params("intermediate");
        let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![4; size]);
        params.custom_extensions.push(padding);
        let signed = params.signed_by(scene.intermediate.key(), &scene.root).unwrap();
        pem(&[&leaf, &signed.pem(), &scene.root.pem()])
    };
    let mut chain = verified();
    assert_eq!(chain.add_alternate(&sent, ordered, now()), Ok(()));
    assert!(
        chain.certificate.alternates().is_empty(),
        "it is the first one again"
    );
    let others: Vec<String> = (0..9).map(|_| crossed(10)).collect();
    for other in &others[..8] {
        assert_eq!(chain.add_alternate(other, ordered, now()), Ok(()));
    }
    assert_eq!(chain.add_alternate(&others[0], ordered, now()), Ok(()), "known");
    assert!(chain.add_alternate(&others[8], ordered, now()).is_err());
    assert_eq!(chain.certificate.alternates().len(), 8);
    assert_eq!(chain.issuers.len(), 1 + 8 + 1, "the root once");
    assert_eq!(chain.certificate.issuers().len(), 1);

    let mut chain = verified();
    let kept = (0..8).filter(|_| chain.add_alternate(&crossed(8000), ordered, now()).is_ok());
    assert_eq!(kept.count(), 4);
    let another = scene.leaf(&params(&NAMES));
    let another = pem(&[&another, &scene.intermediate.pem()]);
    let before = chain.issuers.clone();
    for refused in [another.as_str(), "", &leaf] {
        assert!(chain.add_alternate(refused, ordered, now()).is_err());
    }
    assert_eq!(chain.issuers, before);
}

#[test]
fn f7_issuers_in_another_order_are_put_right() {
    let scene = Scene::new();
    let leaf = scene.leaf(&params(&NAMES));
    let (above, root) = (scene.intermediate.pem(), scene.root.pem());
    for sent in [
        [&leaf, &root, &above],
        [&root, &above, &leaf],
        [&above, &leaf, &root],
    ] {
        let chain = IssuedChain::verify(&pem(&sent.map(String::as_str)), scene.order.ordered(), now());
        let chain = chain.unwrap();
        assert_eq!(chain.issuers[0].as_bytes(), &scene.intermediate.der()[..]);
        assert_eq!(to_pem([chain.certificate.leaf()]), leaf.replace("\r\n", "\n"));
    }
}

#[test]
fn c1103_text_before_the_certificates_and_windows_line_ends_are_taken() {
    let scene = Scene::new();
    let sent = pem(&[&scene.leaf(&params(&NAMES)), &scene.intermediate.pem()]);
    for odd in [
        format!("Subject: CN=x\n{sent}"),
        sent.replace('\n', "\r\n"),
        sent.trim_end().to_owned(),
    ] {
        assert!(
            IssuedChain::verify(&odd, scene.order.ordered(), now()).is_ok(),
            "{odd}"
        );
    }
}

#[test]
fn k13_c1102_a_certificate_that_was_not_ordered_is_withheld() {
    let scene = Scene::new();
    let above = scene.intermediate.pem();
    let other_key = KeyPair::generate().unwrap();
    let foreign = params(&NAMES)
        .signed_by(&other_key, &scene.intermediate)
        .unwrap()
        .pem();
    let mut ca = params(&NAMES);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut expired = params(&NAMES);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let mut early = params(&NAMES);
    early.not_before = rcgen::date_time_ymd(2039, 1, 1);
    let mut with_address = params(&NAMES);
    with_address
        .subject_alt_names
        .push(rcgen::SanType::IpAddress("192.0.2.1".parse().unwrap()));
    let mut with_mail = params(&NAMES);
    with_mail
        .subject_alt_names
        .push(rcgen::SanType::Rfc822Name("a@example.com".try_into().unwrap()));
    let named = |name: &str| {
        let mut named = params(&NAMES);
        named.distinguished_name.push(DnType::CommonName, name);
        named
    };
    let mut signs = params(&NAMES);
    signs.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    assert!(
        IssuedChain::verify(
            &pem(&[&scene.leaf(&named("A.example.com")), &above]),
            scene.order.ordered(),
            now()
        )
        .is_ok()
    );
    let cases = [
        ("another common name", scene.leaf(&named("evil.example.com"))),
        ("a common name of words", scene.leaf(&named("Example Ltd"))),
        ("keyCertSign", scene.leaf(&signs)),
        ("another key", foreign),
        ("a name less", scene.leaf(&params(&["a.example.com"]))),
        (
            "a name more",
            scene.leaf(&params(&["a.example.com", "*.example.com", "b.example.com"])),
        ),
        (
            "other names",
            scene.leaf(&params(&["a.example.com", "b.example.com"])),
        ),
        ("no names", scene.leaf(&params(&[]))),
        ("an address", scene.leaf(&with_address)),
        ("a mail address", scene.leaf(&with_mail)),
        ("a CA's", scene.leaf(&ca)),
        ("expired", scene.leaf(&expired)),
        ("not valid yet", scene.leaf(&early)),
    ];
    let mut refusals = BTreeSet::new();
    for (what, leaf) in cases {
        let refusal = scene.refusal(&pem(&[&leaf, &above]));
        refusals.insert(refusal);
        assert!(!refusal.contains("certify each other"), "{what}: {refusal}");
    }
    assert!(refusals.len() >= 7, "{refusals:?}");
}

#[test]
fn c1102_c1103_a_chain_that_is_none_is_withheld() {
    let scene = Scene::new();
    let leaf = scene.leaf(&params(&NAMES));
    let (above, root) = (scene.intermediate.pem(), scene.root.pem());
    let stranger = Issuer::self_signed(ca_params("intermediate"), KeyPair::generate().unwrap()).unwrap();
    let cases = [
        String::new(),
        "no PEM at all".to_owned(),
        leaf.clone(),
        pem(&[&leaf, &root]),
        pem(&[&leaf, &stranger.pem()]),
        pem(&[&above, &stranger.pem()]),
        pem(&[&leaf, &above, &scene.key.serialize_pem()]),
        pem(&[&leaf, &above, &above]),
        pem(&[&leaf, &above, &root, &root, &root, &root, &root]),
        format!("{}{}", pem(&[&leaf, &above]), " ".repeat(MAX_CHAIN_BYTES)),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
    ];
    for sent in cases {
        scene.refusal(&sent);
    }
}
