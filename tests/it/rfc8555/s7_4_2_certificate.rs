//! RFC 8555 §7.4.2: downloading the certificate (CONFORMANCE L, SECURITY C508).

use serde_json::json;
use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};

use crate::harness::client::GET;
use crate::harness::server::Daemon;

#[tokio::test]
async fn l1_the_chain_is_pem_with_the_leaf_first_and_each_certified_by_the_next() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client
        .issue(&daemon, &["www.example.com", "mail.example.com"])
        .await;
    let answer = client.post(&issued.url, GET).await.expect(200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/pem-certificate-chain")
    );
    assert_eq!(
        answer.header("content-length"),
        Some(answer.body.len().to_string().as_str())
    );
    let text = answer.text();
    assert!(
        !text.contains('\r') && text.ends_with("-----END CERTIFICATE-----\n"),
        "{text}"
    );
    let begins = text.lines().filter(|line| line.starts_with("-----BEGIN "));
    assert!(
        begins.clone().all(|line| line == "-----BEGIN CERTIFICATE-----"),
        "{text}"
    );
    let chain: Vec<Vec<u8>> = Pem::iter_from_buffer(text.as_bytes())
        .map(|pem| pem.unwrap().contents)
        .collect();
    assert_eq!((chain.len(), begins.count()), (2, 2));
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let (_, issuer) = X509Certificate::from_der(&chain[1]).unwrap();
    leaf.verify_signature(Some(issuer.public_key())).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&issued.key.pair);
    assert_eq!(leaf.public_key().raw, spki, "the leaf is for the CSR's key");
    let order = client.look(&issued.order.url).await;
    let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second();
    assert_eq!(
        time(order["notBefore"].as_str().unwrap()),
        leaf.validity().not_before.timestamp()
    );
    assert_eq!(
        time(order["notAfter"].as_str().unwrap()),
        leaf.validity().not_after.timestamp()
    );
}

#[tokio::test]
async fn l4_the_bytes_stay_the_same_over_restarts_and_revocation() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let certificate = crate::harness::key::b64(&issued.leaf);
    client
        .post(
            &daemon.site.url("revoke-cert"),
            json!({ "certificate": certificate }),
        )
        .await
        .expect(200);
    let daemon = daemon.restart().await;
    let client = client.clone();
    for _ in 0..2 {
        assert_eq!(client.post(&issued.url, GET).await.expect(200).text(), issued.pem);
    }
    drop(daemon);
}

#[tokio::test]
async fn l2_l3_c508_a_certificate_takes_only_its_owners_post_as_get() {
    let daemon = Daemon::start().await;
    let client = daemon.account().await;
    let issued = client.issue(&daemon, &["www.example.com"]).await;
    let path = daemon.site.path_of(&issued.url);
    daemon.site.get(path).await.problem(405, "malformed");
    client
        .post(&issued.url, json!({}))
        .await
        .problem(400, "malformed");
    for beside in ["/alternate/0", "/0", "/"] {
        client
            .post(&format!("{}{beside}", issued.url), GET)
            .await
            .problem(404, "malformed");
    }
    let other = daemon.account().await;
    other.post(&issued.url, GET).await.problem(404, "malformed");
    for accept in ["application/pkix-cert", "text/html", "*/*"] {
        let body = client.signed(&issued.url, &client.nonce().await, GET);
        let headers = [("Content-Type", "application/jose+json"), ("Accept", accept)];
        let answer = client.send("POST", path, &headers, &body).await.expect(200);
        assert_eq!(answer.text(), issued.pem, "{accept}");
    }
    let unfinished = client.ready(&daemon, &["later.example.com"]).await;
    let url = unfinished.url.replace("/order/", "/certificate/");
    client.post(&url, GET).await.problem(404, "malformed");
}
