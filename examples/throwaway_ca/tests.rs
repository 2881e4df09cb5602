//! The double must be right before it may judge: it is tried with instant-acme, over TLS.

use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy, RevocationReason, RevocationRequest,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::ca::{self, Options, Running};
use crate::check;
use crate::instant::InstantHttp;

const PATIENCE: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(10));
const NAMES: [&str; 2] = ["one.example.com", "localhost"];

fn http(ca: &Running) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(ca.root_pem.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    builder.build().unwrap()
}

async fn register(ca: &Running, mac_key: Option<&[u8]>) -> Result<(Account, AccountCredentials), Error> {
    let newcomer = NewAccount {
        contact: &["mailto:test@example.com"],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let eab = mac_key.map(|key| ExternalAccountKey::new(ca.eab.kid.clone(), key));
    Account::builder_with_http(Box::new(InstantHttp(http(ca))))
        .create(&newcomer, ca.directory_url.clone(), eab.as_ref())
        .await
}

fn mac_key(ca: &Running) -> Vec<u8> {
    use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
    BASE64_URL_SAFE_NO_PAD.decode(&ca.eab.hmac_key).unwrap()
}

async fn account(ca: &Running) -> Account {
    register(ca, Some(&mac_key(ca))).await.unwrap().0
}

async fn order(account: &Account, names: &[&str]) -> Order {
    let identifiers: Vec<Identifier> = names
        .iter()
        .map(|name| match name.parse() {
            Ok(address) => Identifier::Ip(address),
            Err(_) => Identifier::Dns((*name).to_owned()),
        })
        .collect();
    account.new_order(&NewOrder::new(&identifiers)).await.unwrap()
}

fn csr(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

#[track_caller]
fn problem<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Api(problem)) => problem.r#type.unwrap().rsplit(':').next().unwrap().to_owned(),
        Err(other) => panic!("not a problem document: {other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

async fn start(options: Options) -> Running {
    ca::start(options).await.unwrap()
}

#[tokio::test]
async fn a_client_with_the_eab_gets_a_certificate_that_leads_to_the_root() {
    let ca = start(Options::default()).await;
    let account = account(&ca).await;
    let mut order = order(&account, &NAMES).await;
    assert_eq!(order.state().status, OrderStatus::Ready);
    let key = KeyPair::generate().unwrap();
    order.finalize_csr(&csr(&key, &NAMES)).await.unwrap();
    let chain = order.poll_certificate(&PATIENCE).await.unwrap();
    check::check(&chain, &key.subject_public_key_info(), &NAMES, &ca.root_pem).unwrap();

    let other = KeyPair::generate().unwrap().subject_public_key_info();
    check::check(&chain, &other, &NAMES, &ca.root_pem).unwrap_err();
    check::check(
        &chain,
        &key.subject_public_key_info(),
        &["one.example.com"],
        &ca.root_pem,
    )
    .unwrap_err();
    let stranger = start(Options::default()).await;
    check::check(&chain, &key.subject_public_key_info(), &NAMES, &stranger.root_pem).unwrap_err();
}

#[tokio::test]
async fn an_rsa_key_is_certified_as_well() {
    let ca = start(Options::default()).await;
    let mut order = order(&account(&ca).await, &NAMES).await;
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    order.finalize_csr(&csr(&key, &NAMES)).await.unwrap();
    let chain = order.poll_certificate(&PATIENCE).await.unwrap();
    check::check(&chain, &key.subject_public_key_info(), &NAMES, &ca.root_pem).unwrap();
}

#[tokio::test]
async fn addresses_are_certified_alone_and_among_names_but_never_as_a_common_name() {
    let ca = start(Options::default()).await;
    let account = account(&ca).await;
    for (names, subject) in [
        (["192.0.2.1", "2001:db8::1"].as_slice(), ""),
        (&["192.0.2.1", "one.example.com"], "CN=one.example.com"),
    ] {
        let mut order = order(&account, names).await;
        let key = KeyPair::generate().unwrap();
        order.finalize_csr(&csr(&key, names)).await.unwrap();
        let chain = order.poll_certificate(&PATIENCE).await.unwrap();
        let shown = check::check(&chain, &key.subject_public_key_info(), names, &ca.root_pem).unwrap();
        assert_eq!(
            shown.lines().next().unwrap().trim_start_matches("   Subject  "),
            subject
        );
    }
}

#[tokio::test]
async fn an_address_is_not_proved_by_dns_01() {
    let ca = start(Options {
        prevalidated: false,
        ..Options::default()
    })
    .await;
    let mut order = order(&account(&ca).await, &["192.0.2.1"]).await;
    let mut authorizations = order.authorizations();
    let authorization = authorizations.next().await.unwrap().unwrap();
    let types: Vec<_> = authorization
        .challenges
        .iter()
        .map(|challenge| &challenge.r#type)
        .collect();
    assert_eq!(types, [&ChallengeType::Http01]);
}

#[tokio::test]
async fn an_account_needs_the_right_eab() {
    let ca = start(Options::default()).await;
    assert_eq!(problem(register(&ca, None).await), "externalAccountRequired");
    assert_eq!(problem(register(&ca, Some(b"wrong")).await), "unauthorized");
    let stats = ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (0, 0));
}

#[tokio::test]
async fn an_eab_for_one_account_makes_one_account() {
    let ca = start(Options {
        eab_once: true,
        ..Options::default()
    })
    .await;
    let (_, credentials) = register(&ca, Some(&mac_key(&ca))).await.unwrap();
    assert_eq!(problem(register(&ca, Some(&mac_key(&ca))).await), "unauthorized");
    // The key that has an account is told so, without a second use of the EAB.
    let key = instant_acme::Key::from_pkcs8_der(credentials.private_key().clone_key()).unwrap();
    let _found = Account::builder_with_http(Box::new(InstantHttp(http(&ca))))
        .from_key(
            (key, credentials.private_key().clone_key().into()),
            ca.directory_url.clone(),
        )
        .await
        .unwrap();
    let stats = ca.stats();
    assert_eq!((stats.accounts, stats.eab_uses), (1, 1));
}

#[tokio::test]
async fn challenges_are_posed_and_taken_as_met_or_failed() {
    for succeed in [true, false] {
        let ca = start(Options {
            prevalidated: false,
            challenges_succeed: succeed,
            ..Options::default()
        })
        .await;
        let account = account(&ca).await;
        let mut order = order(&account, &["*.example.com"]).await;
        assert_eq!(order.state().status, OrderStatus::Pending);
        assert_eq!(problem(order.finalize_csr(b"").await), "orderNotReady");
        let mut authorizations = order.authorizations();
        let mut authorization = authorizations.next().await.unwrap().unwrap();
        assert!(authorization.wildcard);
        assert!(
            authorization
                .challenges
                .iter()
                .all(|challenge| challenge.r#type != ChallengeType::Http01)
        );
        let answered = authorization
            .challenge(ChallengeType::Dns01)
            .unwrap()
            .set_ready()
            .await;
        assert_eq!(answered.is_ok(), succeed);
        let status = order.refresh().await.unwrap().status;
        assert_eq!(
            status,
            if succeed {
                OrderStatus::Ready
            } else {
                OrderStatus::Invalid
            }
        );
    }
}

#[tokio::test]
async fn a_csr_for_other_names_leaves_the_order_ready_and_a_second_finalize_is_refused() {
    let ca = start(Options::default()).await;
    let account = account(&ca).await;
    let mut order = order(&account, &NAMES).await;
    let key = KeyPair::generate().unwrap();
    assert_eq!(
        problem(order.finalize_csr(&csr(&key, &["evil.example.com"])).await),
        "badCSR"
    );
    assert_eq!(order.refresh().await.unwrap().status, OrderStatus::Ready);
    let mut forged = csr(&key, &NAMES);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(problem(order.finalize_csr(&forged).await), "badCSR");
    order.finalize_csr(&csr(&key, &NAMES)).await.unwrap();
    assert_eq!(
        problem(order.finalize_csr(&csr(&key, &NAMES)).await),
        "orderNotReady"
    );

    let body = http(&ca)
        .get(ca.directory_url.replace("/directory", "/stats"))
        .send()
        .await
        .unwrap();
    let stats: serde_json::Value = serde_json::from_str(&body.text().await.unwrap()).unwrap();
    assert_eq!(stats["orders"][0]["finalizes"], 1);
    assert_eq!(stats["orders"][0]["refused"], 3);
    assert_eq!(stats["orders"][0]["issued"], 1);
    assert_eq!(stats["issued"]["localhost,one.example.com"], 1);
}

#[tokio::test]
async fn a_slow_order_is_processing_until_its_time() {
    let ca = start(Options {
        processing: Duration::from_millis(300),
        ..Options::default()
    })
    .await;
    let mut order = order(&account(&ca).await, &NAMES).await;
    order
        .finalize_csr(&csr(&KeyPair::generate().unwrap(), &NAMES))
        .await
        .unwrap();
    assert_eq!(order.state().status, OrderStatus::Processing);
    assert!(order.certificate().await.unwrap().is_none());
    order.poll_certificate(&PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_revocation_is_recorded_once_with_its_reason() {
    let ca = start(Options::default()).await;
    let owner = account(&ca).await;
    let mut order = order(&owner, &NAMES).await;
    order
        .finalize_csr(&csr(&KeyPair::generate().unwrap(), &NAMES))
        .await
        .unwrap();
    let chain = order.poll_certificate(&PATIENCE).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let request = || RevocationRequest {
        certificate: &leaf,
        reason: Some(RevocationReason::Superseded),
    };
    assert_eq!(
        problem(account(&ca).await.revoke(&request()).await),
        "unauthorized"
    );
    owner.revoke(&request()).await.unwrap();
    assert_eq!(problem(owner.revoke(&request()).await), "alreadyRevoked");
    let stats = ca.stats();
    assert_eq!(stats.revocations.len(), 1);
    assert_eq!(stats.revocations[0].reason, Some(4));
    assert!(stats.certificates.contains(&stats.revocations[0].serial));
}

#[tokio::test]
async fn nonces_can_be_made_to_fail() {
    let ca = start(Options {
        bad_nonces: 100,
        ..Options::default()
    })
    .await;
    assert_eq!(problem(register(&ca, Some(&mac_key(&ca))).await), "badNonce");
}
