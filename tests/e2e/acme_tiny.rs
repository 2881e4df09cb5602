//! acme-tiny, which leaves its answers to a web server (http-01). Keys and CSR are openssl's.

use crate::certificate::check;
use crate::certificate::openssl;
use crate::environment::Environment;
use crate::webroot::Webroot;

#[test]
fn acme_tiny_gets_an_rsa_certificate_for_two_names_and_renews_it() {
    let environment = Environment::shared();
    let names = ["tiny.example.com", "www.tiny.example.com"];
    let host = environment.host(&names);
    let webroot = Webroot::on(&host);
    let file = |name| host.directory.join(name);
    let (account, key, csr, chain) = (
        file("account.key"),
        file("key.pem"),
        file("csr.pem"),
        file("chain.pem"),
    );
    openssl(&[&"genrsa", &"-out", &account, &"2048"]);
    let subject = "subjectAltName=DNS:tiny.example.com,DNS:www.tiny.example.com";
    openssl(&[
        &"req",
        &"-new",
        &"-newkey",
        &"rsa:2048",
        &"-nodes",
        &"-subj",
        &"/CN=tiny.example.com",
        &"-addext",
        &subject,
        &"-keyout",
        &key,
        &"-out",
        &csr,
    ]);
    let obtain = || {
        let mut acme_tiny = host.program("acme-tiny");
        acme_tiny.env("SSL_CERT_FILE", host.root());
        acme_tiny
            .arg("--account-key")
            .arg(&account)
            .arg("--csr")
            .arg(&csr);
        acme_tiny.arg("--acme-dir").arg(&webroot.challenges);
        acme_tiny.args([
            "--quiet",
            "--disable-check",
            "--directory-url",
            &host.directory_url(),
        ]);
        // With --quiet it says nothing but the chain.
        std::fs::write(&chain, host.run(&acme_tiny, "acme-tiny")).unwrap();
        check(&host, &chain, &key, &names)
    };
    let first = obtain();
    assert!(first.is_rsa_2048(), "{first:?}");
    assert_ne!(first.serial, obtain().serial);
}
