use std::io::Cursor;

use serde_json::{Value, json};

use super::*;
use crate::acme::account::AccountStatus;

const REAL: &[u8] = include_bytes!("../../../../tests/samples/step-ca/accounts.bbolt");

const ID: &str = "kVqDLBYZEMi1Sy0Lqi0bYGVxDsgJ3Vxo";

struct Any;

impl Provisioners for Any {
    fn of(&self, recorded: Option<&str>) -> Result<String, String> {
        match recorded {
            Some("acme") => Ok("acme".to_owned()),
            Some(other) => Err(format!("whose is {other}?")),
            None => Err("which one?".to_owned()),
        }
    }

    fn objection(&self, _: &Jwk) -> Option<String> {
        None
    }
}

/// As go-jose writes the key of RFC 7517 Appendix A.1.
fn record() -> Value {
    json!({
        "id": ID,
        "key": {
            "use": "sig", "kty": "EC", "kid": "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s", "crv": "P-256", "alg": "ES256",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        },
        "contact": ["mailto:ops@example.com", "tel:+1555", "mailto:a@example.com,b@example.com"],
        "status": "valid",
        "locationPrefix": "https://ca.example.com/acme/acme/account/",
        "provisionerName": "acme",
        "createdAt": "2023-01-02T03:04:05Z",
        "deactivatedAt": "0001-01-01T00:00:00Z",
    })
}

fn parsed(record: &Value) -> Result<(Taken, usize), String> {
    let mut left_out = 0;
    let taken = parse(ID.as_bytes(), record.to_string().as_bytes(), &Any, &mut left_out);
    taken.map(|taken| (taken, left_out))
}

#[test]
fn the_accounts_of_a_real_step_ca_are_read() {
    let accounts = read(Cursor::new(REAL), &Any).unwrap().unwrap();
    assert_eq!(
        (accounts.records, accounts.taken.len(), accounts.contacts_left_out),
        (11, 11, 0)
    );
    assert!(accounts.refused.is_empty(), "{:?}", accounts.refused);
    let status = |status| {
        accounts
            .taken
            .iter()
            .filter(move |taken| taken.account.status() == status)
    };
    assert_eq!(status(AccountStatus::Deactivated).count(), 1);
    let prefix = "https://acmeproxy.example.com:14443/acme/acme/account/";
    assert!(
        accounts
            .taken
            .iter()
            .all(|taken| taken.url_prefix.as_deref() == Some(prefix))
    );
    let contacts: Vec<&str> = accounts
        .taken
        .iter()
        .flat_map(|taken| taken.account.contact())
        .map(Contact::as_str)
        .collect();
    assert_eq!(contacts.len(), 10, "{contacts:?}");
}

#[test]
fn an_account_comes_with_its_key_its_time_and_the_contacts_that_are_addresses() {
    let (Taken { account, url_prefix }, left_out) = parsed(&record()).unwrap();
    assert_eq!(account.name().to_string(), ID);
    assert_eq!(
        account.key().thumbprint(),
        "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
    );
    assert_eq!(
        (account.provisioner(), account.status()),
        ("acme", AccountStatus::Valid)
    );
    assert_eq!(account.created().to_string(), "2023-01-02T03:04:05Z");
    assert_eq!(
        url_prefix.as_deref(),
        Some("https://ca.example.com/acme/acme/account/")
    );
    assert_eq!((account.contact().len(), left_out), (1, 2));
    let stored = serde_json::to_string(&account).unwrap();
    assert_eq!(serde_json::from_str::<Account>(&stored).unwrap(), account);
}

#[test]
fn a_deactivated_account_stays_so_and_the_old_form_is_read() {
    let mut old = record();
    let members = old.as_object_mut().unwrap();
    for name in ["locationPrefix", "createdAt", "deactivatedAt"] {
        members.remove(name);
    }
    members.insert("created".into(), "2019-01-02T03:04:05Z".into());
    members.insert("deactivated".into(), "2020-01-02T03:04:05Z".into());
    members.insert("status".into(), "deactivated".into());
    let (Taken { account, url_prefix }, _) = parsed(&old).unwrap();
    assert_eq!((account.status(), url_prefix), (AccountStatus::Deactivated, None));
    old["provisionerName"] = "".into();
    assert_eq!(parsed(&old).unwrap_err(), "which one?");
}

#[test]
fn what_can_not_go_on_here_is_refused_with_the_reason() {
    let short = "A".repeat(171);
    for (member, value, reason) in [
        ("id", json!("Xo"), "its record is another account's"),
        ("status", json!("revoked"), "its status is \"revoked\""),
        ("key", json!(null), "it is no JWK"),
        ("key", json!({ "kty": "oct" }), "kty must be EC, RSA or OKP"),
        (
            "key",
            json!({ "kty": "RSA", "e": "AQAB", "n": short }),
            "its key can not be used here",
        ),
        (
            "key",
            json!({ "kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43) }),
            "no valid public key",
        ),
        (
            "key",
            json!({ "kty": "OKP", "crv": "Ed448", "x": "AAAA" }),
            "crv must be Ed25519",
        ),
        ("createdAt", json!("yesterday"), "its record can not be read"),
        ("contact", json!("x".repeat(70_000)), "longer than 64 KiB"),
    ] {
        let mut wrong = record();
        wrong[member] = value;
        let why = parsed(&wrong).unwrap_err();
        assert!(why.contains(reason), "{why}");
    }
    let mut left_out = 0;
    let short = parse(
        b"Xo",
        br#"{"id":"Xo","key":{},"status":"valid","createdAt":"2023-01-02T03:04:05Z"}"#,
        &Any,
        &mut left_out,
    );
    assert!(short.unwrap_err().contains("32 letters and digits"));
}

#[test]
fn an_id_is_shown_so_that_no_terminal_obeys_it() {
    assert_eq!(shown(ID.as_bytes()), ID);
    assert_eq!(shown(b"\x1b[2J"), "\"\\u{1b}[2J\"");
    // One of a damaged database may be of any length.
    assert_eq!(shown(&[b'x'; 30_000]), "x".repeat(64));
}

/// What a crafted database says comes neither as long as it likes to a terminal, nor as it is.
#[test]
fn what_a_record_says_is_cut_and_cleaned_before_it_is_shown() {
    let long = format!("\u{1b}]0;{}", "x".repeat(60_000));
    for member in ["status", "provisionerName", "createdAt"] {
        let mut wrong = record();
        wrong[member] = long.clone().into();
        let why = parsed(&wrong).unwrap_err();
        assert!(why.chars().count() <= LONGEST_TEXT + 1, "{member}: {}", why.len());
        assert!(!why.contains('\u{1b}'), "{member}: {why}");
    }
    let mut wrong = record();
    wrong["locationPrefix"] = long.into();
    let prefix = parsed(&wrong).unwrap().0.url_prefix.unwrap();
    assert!(
        prefix.chars().count() <= LONGEST_TEXT + 1 && !prefix.contains('\u{1b}'),
        "{prefix}"
    );
}
