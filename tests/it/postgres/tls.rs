//! `sslmode` against a real server: who is believed, and who is not.

use acme_proxy::store::StoreError;

use crate::postgres::server::{Network, PASSWORD, complaint, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_only_used_if_the_url_says_so() {
    let network = Network::start(&[]).await;
    for parameters in ["", "sslmode=verify-full", "sslmode=require"] {
        let error = complaint(&network.url(parameters), Some(PASSWORD)).await;
        assert!(
            error.to_string().contains("server does not support TLS"),
            "{error}"
        );
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
    }
    drop(
        open(&network.url("sslmode=disable"), Some(PASSWORD))
            .await
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sslmode_decides_who_is_believed_as_it_does_for_libpq() {
    let network = Network::start(&[]).await;
    let others = network.certify("other.example.com").await;
    let wrong_name = network.certify("db.example.com").await;
    let [others, wrong_name] = [others, wrong_name].map(|path| path.display().to_string());
    // The root is right, the name is not.
    for (parameters, expected) in [
        (
            format!("sslmode=verify-full&sslrootcert={wrong_name}"),
            Some("not valid for name"),
        ),
        (
            format!("sslmode=verify-full&sslrootcert={others}"),
            Some("invalid peer certificate"),
        ),
        ("sslmode=verify-full".to_owned(), Some("invalid peer certificate")),
        (format!("sslmode=verify-ca&sslrootcert={wrong_name}"), None),
        (
            format!("sslmode=verify-ca&sslrootcert={others}"),
            Some("invalid peer certificate"),
        ),
        (
            format!("sslmode=require&sslrootcert={others}"),
            Some("invalid peer certificate"),
        ),
        ("sslmode=require".to_owned(), None),
    ] {
        let url = network.url(&parameters);
        match expected {
            None => drop(open(&url, Some(PASSWORD)).await.unwrap()),
            Some(words) => {
                let error = complaint(&url, Some(PASSWORD)).await;
                let text = error.to_string();
                assert!(text.contains("look at sslmode and sslrootcert"), "{text}");
                assert!(text.contains(words), "{parameters}: {text}");
            }
        }
    }
    let right = network.certify(&network.address.to_string()).await;
    let url = network.url(&format!("sslrootcert={}", right.display()));
    drop(open(&url, Some(PASSWORD)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_can_be_bound_to_the_tls_connection_and_then_is_shown_in_no_other() {
    let network = Network::start(&[]).await;
    let plain = network.url("sslmode=disable&channel_binding=require");
    let error = complaint(&plain, Some(PASSWORD)).await;
    assert!(error.to_string().contains("channel binding"), "{error}");
    let root = network.certify(&network.address.to_string()).await;
    let bound = network.url(&format!("channel_binding=require&sslrootcert={}", root.display()));
    drop(open(&bound, Some(PASSWORD)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_can_not_be_used_are_named_before_anybody_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    let missing = directory.path().join("missing.pem");
    for (path, words) in [
        (empty, "there is no certificate in it"),
        (missing, "can not be used"),
    ] {
        let path = path.display().to_string();
        let url = format!("postgresql://u@database.invalid/d?sslrootcert={path}");
        let error = complaint(&url, None).await;
        assert!(
            error.to_string().contains(words) && error.to_string().contains(&path),
            "{error}"
        );
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
    }
}
