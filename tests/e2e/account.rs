//! acme-proxy's side towards the CA, over a restart: one account, challenges solved by dns-01 or not at all, metrics.

use crate::acme_proxy::Upstream;
use crate::environment::Environment;
use crate::lego::Lego;

const ISSUED: &str = "externalcas_certificates_issued_total{status=\"success\"}";
const REFUSED: &str = "externalcas_certificates_issued_total{status=\"failure\"}";

#[test]
fn f13_the_cas_own_challenges_are_solved_by_a_program_and_names_that_it_has_proved_already_need_none() {
    let name = "prevalidated.example.com";
    let environment = Environment::start(Upstream::Dns01, 100);
    Lego::on(&environment, &[name], "ec256").obtain();
    let calls = environment.dns01_calls(name);
    let [(present, value), (cleanup, of_cleanup)] = calls.as_slice() else {
        panic!("{calls:?}");
    };
    assert_eq!((present.as_str(), cleanup.as_str()), ("present", "cleanup"));
    assert_eq!(
        (value.len(), value),
        (43, of_cleanup),
        "a SHA-256 digest, base64url (RFC 8555 §8.4)"
    );
    assert_eq!(
        environment.acme_proxy.metric(ISSUED),
        2.0,
        "acme-proxy's own, and lego's"
    );
    assert_eq!(environment.pebble.orders(), 2);

    let environment = environment.restarted(Upstream::Prevalidated);
    assert_eq!(environment.pebble.accounts(), 1);
    Lego::on(&environment, &[name], "ec256").obtain();
    assert_eq!(environment.dns01_calls(name).len(), 2, "no further call");
    assert_eq!(environment.pebble.orders(), 3, "the restart has cost none");

    let said = Lego::on(&environment, &["unproved.example.com"], "ec256").fail_to_obtain();
    assert!(said.contains("authority.config.dns01_txt"), "{said}");
    assert_eq!(environment.acme_proxy.metric(ISSUED), 1.0);
    assert_eq!(environment.acme_proxy.metric(REFUSED), 1.0);
    assert_eq!(
        environment
            .acme_proxy
            .metric("acme_proxy_certificate_mismatch_total"),
        0.0
    );
}
