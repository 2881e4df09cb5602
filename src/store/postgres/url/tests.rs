use super::*;

fn read(url: &str) -> ConnectionUrl {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn hosts(url: &str) -> Vec<String> {
    read(url).hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_left_out_has_safe_defaults() {
    let url = read("postgresql://acmeproxy@db1.example.com");
    assert_eq!(
        url,
        ConnectionUrl {
            hosts: vec![Host {
                place: HostPlace::Network("db1.example.com".to_owned()),
                port: 5432
            }],
            user: "acmeproxy".to_owned(),
            password: None,
            database: None,
            protection: Protection::Name(None),
            needs_channel_binding: false,
            connect_timeout: Duration::from_secs(5),
            application_name: "acme-proxy".to_owned(),
        }
    );
    assert!(url.warnings().is_empty());
}

#[test]
fn hosts_are_names_addresses_and_directories_each_with_its_port() {
    for (url, expected) in [
        ("postgres://u@a,b:6432,c/d", &["a:5432", "b:6432", "c:5432"][..]),
        ("postgresql://u@192.0.2.1:5433", &["192.0.2.1:5433"]),
        (
            "postgresql://u@[2001:db8::1]:5433,[::1]",
            &["[2001:db8::1]:5433", "[::1]:5432"],
        ),
        (
            "postgresql://u@%2Fvar%2Frun%2Fpostgresql",
            &["/var/run/postgresql/.s.PGSQL.5432"],
        ),
        (
            "postgresql:///d?user=u&host=/run/a,b&port=1",
            &["/run/a/.s.PGSQL.1", "b:1"],
        ),
        (
            "postgresql:///d?user=u&host=a,2001:db8::1&port=1,2",
            &["a:1", "[2001:db8::1]:2"],
        ),
    ] {
        assert_eq!(hosts(url), expected, "{url}");
    }
}

#[test]
fn percent_encoding_is_undone_everywhere_and_a_plus_is_a_plus() {
    let url = read("postgresql://us%65r:p%40ss%2Fw+rd%C3%BC@h/d%20b?application_name=a%26b");
    assert_eq!(url.user, "user");
    assert_eq!(url.password.unwrap().reveal(), "p@ss/w+rdü");
    assert_eq!(url.database.as_deref(), Some("d b"));
    assert_eq!(url.application_name, "a&b");
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    let root = || PathBuf::from("/r.pem");
    for (query, expected) in [
        ("", Protection::Name(None)),
        ("sslmode=verify-full", Protection::Name(None)),
        ("sslrootcert=/r.pem", Protection::Name(Some(root()))),
        (
            "sslmode=verify-full&sslrootcert=/r.pem",
            Protection::Name(Some(root())),
        ),
        ("sslmode=verify-full&sslrootcert=system", Protection::Name(None)),
        ("sslmode=verify-ca&sslrootcert=%2Fr.pem", Protection::Root(root())),
        ("sslmode=require&sslrootcert=/r.pem", Protection::Root(root())),
        ("sslmode=require", Protection::Encrypted),
        ("sslmode=disable", Protection::None),
    ] {
        assert_eq!(
            read(&format!("postgresql://u@h/d?{query}")).protection,
            expected,
            "{query}"
        );
    }
}

#[test]
fn what_is_accepted_at_a_risk_is_a_warning_that_says_what_to_write() {
    for (url, expected) in [
        ("postgresql://u:p@h", "\"password\": \"file:PATH\""),
        ("postgresql://u@h?password=p", "\"password\": \"file:PATH\""),
        ("postgresql://u@h?sslmode=disable", "sslmode=verify-full"),
        (
            "postgresql://u@127.0.0.1,h?sslmode=require",
            "believes whoever answers",
        ),
    ] {
        let warnings = read(url).warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains(expected),
            "{url}: {warnings:?}"
        );
    }
    for harmless in ["localhost", "127.0.0.1", "[::1]", "%2Frun"] {
        let url = format!("postgresql://u@{harmless}?sslmode=disable");
        assert!(read(&url).warnings().is_empty(), "{url}");
    }
}

/// A password that must not be seen.
const CANARY: &str = "kanarienvogel";

#[test]
fn each_wrong_part_has_a_sentence_of_its_own_that_says_what_to_write_and_shows_no_secret() {
    let mut sentences = std::collections::BTreeSet::new();
    for (url, expected) in [
        (
            "host=db1 user=u password=kanarienvogel",
            "does not begin with postgresql://",
        ),
        ("mysql://u:kanarienvogel@h/d", "does not begin with postgresql://"),
        ("postgresql://u:kanarienvogel@/d", "names no host"),
        ("postgresql://h/d", "names no user"),
        ("postgresql://u:kanarien@vogel@h/d", "write @ as %40"),
        (
            "postgresql://u:kanarien/vogel@h/d",
            "more than one / or an @ behind the hosts",
        ),
        ("postgresql://u:kanarienvogel%4@h/d", "write % as %25"),
        ("postgresql://u:kanarienvogel%00@h/d", "write % as %25"),
        ("postgresql://u:%FFkanarienvogel@h/d", "not UTF-8"),
        ("postgresql://u:kanarienvogel@h,/d", "a comma too many"),
        ("postgresql://u:kanarienvogel@h:0/d", "no number from 1 to 65535"),
        (
            "postgresql://u:kanarienvogel@h:65536/d",
            "no number from 1 to 65535",
        ),
        ("postgresql://u:kanarienvogel@h:x/d", "no number from 1 to 65535"),
        (
            "postgresql://u:kanarienvogel@2001:db8::1/d",
            "IPv6 address without brackets",
        ),
        ("postgresql://u:kanarienvogel@[2001:db8::1/d", "[ without ]"),
        ("postgresql://u:kanarienvogel@[db1]/d", "no IPv6 address"),
        (
            "postgresql://u:kanarienvogel@[::1]5432/d",
            "between ] and the port",
        ),
        (
            "postgresql://u:kanarienvogel@h!/d",
            "no name, address or full path",
        ),
        ("postgresql://u:kanarienvogel@h/d?host=i", "says the hosts twice"),
        (
            "postgresql://u:kanarienvogel@h/d?port=1",
            "says port behind the ?",
        ),
        (
            "postgresql://u:kanarienvogel@/d?host=h,i,j&port=1,2",
            "other numbers of hosts and of ports",
        ),
        ("postgresql://u:kanarienvogel@h/d?user=v", "says user twice"),
        (
            "postgresql://u@h/d?password=kanarienvogel&password=x",
            "says password twice",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode",
            "a parameter without a value",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?kanarienvogel=1",
            "that is not known; write none but these: host, port",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?ssl_min_protocol_version=TLSv1.3",
            "says ssl_min_protocol_version, which acme-proxy does not know; take it out",
        ),
        (
            "postgresql://u:kanarien?vogel@h/d",
            "a ? in a password is written as %3F",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslcert=/c",
            "certificates of clients are not supported",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?keepalives_idle=1",
            "acme-proxy sets by itself",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?target_session_attrs=any",
            "where it can write",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?target_session_attrs=standby",
            "where it can write",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?target_session_attrs=x",
            "target_session_attrs that is not known",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode=prefer",
            "turn the encryption off",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode=allow",
            "turn the encryption off",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode=on",
            "an sslmode that is not known",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode=verify-ca",
            "roots of your own",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode=require&sslrootcert=system",
            "everybody can have a certificate",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslmode=disable&sslrootcert=/r",
            "sslmode=disable and an sslrootcert",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?sslrootcert=r.pem",
            "no full path",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?channel_binding=disable",
            "channel_binding that is not served",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?connect_timeout=0",
            "no number of seconds from 1 to 60",
        ),
        (
            "postgresql://u:kanarienvogel@h/d?connect_timeout=5s",
            "no number of seconds from 1 to 60",
        ),
    ] {
        let sentence = url.parse::<ConnectionUrl>().unwrap_err().to_string();
        assert!(sentence.contains(expected), "{url}: {sentence}");
        assert!(!sentence.contains(CANARY), "{sentence}");
        assert!(
            ["write", "take it out", "use a password"]
                .iter()
                .any(|fix| sentence.contains(fix))
                || sentence.contains("look for"),
            "{sentence}"
        );
        sentences.insert(sentence);
    }
    assert!(sentences.len() >= 33, "{}", sentences.len());
}

#[test]
fn a_password_in_the_url_is_not_printed() {
    let url = read(&format!("postgresql://u:{CANARY}@h/d"));
    assert!(!format!("{url:?} {url:#?}").contains(CANARY));
}
