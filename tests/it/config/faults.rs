//! C1201: what is wrong with a file is said with file, line, key, value and fix, all of it at once, and the exit code
//! is the Go program's.

use std::path::PathBuf;

use acme_proxy::config::Config;
use acme_proxy::config::Overrides;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::config::KEY;
use crate::config::lines;
use crate::config::load;
use crate::config::load_text;

/// A key, a value that it may not have, and a part of the one line that says so.
const BAD_VALUES: &str = r#"
/address | null | address: is missing; write e.g. ":443"
/address | 443 | address: is a number; write a string in quotes
/address | "0.0.0.0" | address: "0.0.0.0" has no port; write
/address | ":0" | address: ":0" has no port between 1 and 65535; write
/address | ":70000" | address: ":70000" has no port between
/address | "ca.example.com:443" | address: "ca.example.com:443" names neither an IP address nor localhost, and names are not looked up; write
/dnsNames | null | dnsNames: has no name; write the names
/dnsNames | [] | dnsNames: has no name; write the names
/dnsNames | ["127.0.0.1"] | dnsNames: has no name; write the names
/dnsNames | "a.example.com" | dnsNames: is a string; write a list
/dnsNames | ["localhost"] | dnsNames[0]: "localhost" can not be certified
/dnsNames | ["acmeproxy.example.com", "acme_proxy"] | dnsNames[1]: "acme_proxy" can not be certified: the name has a character other than
/dnsNames | ["acmeproxy.example.com", "https://acme"] | dnsNames[1]: "https://acme" can not be certified: the name has
/commonName | "My CA" | commonName: "My CA" can not be certified
/metricsAddress | "9123" | metricsAddress: "9123" has no port
/metricsAddress | ":443" | address: has the port that metrics are served on
/logger | {"format": "xml"} | logger.format: "xml" is no format of the request log; write
/logger | {"traceHeader": "a b"} | logger.traceHeader: "a b" is no name of an HTTP header
/db | null | db: is missing, and there is no ACME without a store; write
/db/type | "mysql" | db.type: "mysql" is not supported, and its records can not be taken over: clients register again by themselves; write
/db/type | "leveldb" | db.type: "leveldb" is not supported; write
/db/dataSource | "" | db.dataSource: is missing; write
/tls/minVersion | "1.2" | tls.minVersion: is a string; write 1.2 or 1.3
/tls/minVersion | 1.4 | tls.minVersion: 1.4 is no TLS version; write 1.2
/tls | {"minVersion": 1.3, "maxVersion": 1.2} | tls.minVersion: 1.3 is above maxVersion, 1.2
/tls/certificate | "/nowhere.pem" | tls.key: is missing
/crl/enabled | true | crl.enabled: true: the CA publishes its CRL itself; write false
/authority/type | "softcas" | authority.type: "softcas" would sign certificates itself
/authority/enableAdmin | true | authority.enableAdmin: true: provisioners and policy are not kept
/authority/backdate | "-1m" | authority.backdate: "-1m" is negative
/authority/backdate | 60 | authority.backdate: is a number; write a string
/authority/provisioners | [] | authority.provisioners: has no ACME provisioner; write
/authority/provisioners | [{"type": "JWK", "name": "admin"}] | authority.provisioners: has no ACME provisioner; write
/authority/provisioners/0/type | "EST" | provisioners[0].type: "EST" is no type of provisioner; write "ACME"
/authority/provisioners/0/name | "" | provisioners[0].name: is missing; write
/authority/provisioners/0/name | "a/b" | provisioners[0].name: "a/b" can not stand in a URL
/authority/provisioners/0/challenges | ["http-02"] | challenges[0]: "http-02" can not be offered
/authority/policy | {"x509": {"allow": {"ip": ["10.0.0.1/8"]}}} | has bits set beyond its prefix length
/authority/provisioners/0/requireEAB | "yes" | requireEAB: is a string; write true or false
/authority/provisioners/0/eabKeys | {} | eabKeys: is an object; write a list
/authority/provisioners/0/eabKeys | [{"hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | eabKeys[0].kid: is missing; write
/authority/provisioners/0/eabKeys | [{"kid": "a/../b", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | eabKeys[0].kid: "a/../b" is no key id; write
/authority/provisioners/0/eabKeys | [{"kid": "a"}] | eabKeys[0].hmacKey: is missing; write
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0O"}] | eabKeys[0].hmacKey: [redacted] has less than 16 bytes; write
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "not base64!"}] | eabKeys[0].hmacKey: [redacted] is not base64url; write
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "file:/nowhere"}] | "file:/nowhere" can not be read
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "env:NO_SUCH_VARIABLE_9"}] | names a variable that is not set
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "reusable": 1}] | eabKeys[0].reusable: is a number; write true or false
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "policy": {"x509": {"allow": {"dns": ["*"]}}}}] | allow.dns[0]: "*" is no pattern
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}, {"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | eabKeys[1].kid: "a" is taken already; write another id
/authority/provisioners/0/termsOfService | "terms" | termsOfService: "terms" is no URL; write
/authority/provisioners/0/options | {"webhooks": [{"url": "https://x.example"}]} | options.webhooks: are not called by this version
/authority/provisioners | [{"type": "ACME", "name": "a"}, {"type": "acme", "name": "a"}] | provisioners[1].name: "a" is taken already; write another name
/authority/policy | {"x509": {"allow": {"dns": ["*"]}}} | allow.dns[0]: "*" is no pattern
/authority/provisioners/0/policy | {"x509": {"deny": {"dns": "example.com"}}} | provisioners[0].policy.x509.deny.dns: is a string; write a list
/authority/policy | {"clients": {"allow": ["10.0.0.1/8"]}} | authority.policy.clients.allow[0]: "10.0.0.1/8" has bits set beyond its prefix length
/authority/policy | {"clients": {"deny": ["::ffff:10.1.0.0/112"]}} | authority.policy.clients.deny[0]: "::ffff:10.1.0.0/112" is IPv4 inside IPv6; write it as IPv4
/authority/policy | {"x509": {"deny": {"ip": ["::ffff:10.1.2.3"]}}} | authority.policy.x509.deny.ip[0]: "::ffff:10.1.2.3" is IPv4 inside IPv6; write it as IPv4
/authority/policy | {"clients": {"deny": ["intranet"]}} | authority.policy.clients.deny[0]: "intranet" is no network; write
/authority/policy | {"clients": ["10.0.0.0/8"]} | authority.policy.clients: is a list; write an object
/authority/policy | {"per_name": {"days": 30}} | authority.policy.per_name: is an object; write a list
/authority/policy | {"per_name": [{}]} | authority.policy.per_name[0].days: is missing, and so is orders: the entry limits nothing; write
/authority/policy | {"per_name": [{"days": 0}]} | authority.policy.per_name[0].days: 0 would refuse every name; write a number of days
/authority/policy | {"per_name": [{"days": "30"}]} | authority.policy.per_name[0].days: is a string; write a number of days
/authority/policy | {"per_name": [{"days": -1}]} | authority.policy.per_name[0].days: -1 is out of range; write a number of days
/authority/policy | {"per_name": [{"orders": 0, "within": "24h"}]} | authority.policy.per_name[0].orders: 0 would refuse every name; write
/authority/policy | {"per_name": [{"orders": 5}]} | authority.policy.per_name[0].within: is missing; write e.g. "orders": 5, "within": "168h"
/authority/policy | {"per_name": [{"days": 9, "within": "24h"}]} | authority.policy.per_name[0].orders: is missing; write e.g. "orders": 5, "within": "168h"
/authority/policy | {"per_name": [{"orders": 5, "within": "721h"}]} | authority.policy.per_name[0].within: is longer than orders are counted; write "720h" at most
/authority/policy | {"per_name": [{"orders": 5, "within": "1s"}]} | authority.policy.per_name[0].within: is less than a minute; write
/authority/policy | {"per_name": [{"orders": 5, "within": "1d"}]} | authority.policy.per_name[0].within: "1d" is no duration; write
/authority/provisioners/0/policy | {"per_name": [{"days": 9, "dns": ["*"]}]} | provisioners[0].policy.per_name[0].dns[0]: "*" is no pattern
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "policy": {"per_name": [{"days": 9, "ip": ["x"]}]}}] | eabKeys[0].policy.per_name[0].ip[0]: "x" is no network; write
/authority/config/ca_url | "" | ca_url: is missing; write the CA's directory URL
/authority/config/ca_url | "http://ca.example.com" | "http://ca.example.com" is not an https URL
/authority/config/ca_url | "https://ca.example.com/ dir" | is not an https URL; write
/authority/config/ca_url | "ca.example.com" | ca_url: "ca.example.com" is not a URL; write
/authority/config/ca_root | "/nowhere.pem" | ca_root: "/nowhere.pem" can not be read
/authority/config/ca_root | "/dev/null" | ca_root: "/dev/null" holds no PEM block
/authority/config/account_email | "admin" | account_email: "admin" is no e-mail address; write
/authority/config/eab_kid | "" | eab_kid: is missing; write both parts
/authority/config/eab_hmac_key | "" | eab_hmac_key: is missing; write both parts
/authority/config/eab_hmac_key | "not base64!" | eab_hmac_key: [redacted] is not base64url; write
/authority/config/eab_hmac_key | "file:/nowhere" | "file:/nowhere" can not be read
/authority/config/eab_hmac_key | "file:/dev/null" | "file:/dev/null" names an empty file
/authority/config/eab_kid | "env:NO_SUCH_VARIABLE_9" | names a variable that is not set
/authority/config/certlifetime | -1 | certlifetime: -1 is out of range; write a number of days
/authority/config/dns01_txt/provider | "bind" | provider: "bind" is no provider of this version; the known ones: "acme-dns", "azuredns", "cloudflare"
/authority/config/dns01_txt | {"provider": "exec"} | dns01_txt.env_vars: EXEC_PATH is missing
/authority/config/dns01 | {"provider": "exec", "env_vars": {"EXEC_PATH": "dns.sh"}} | dns01.env_vars.EXEC_PATH: is not the full path of a file
/authority/config/metrics | {"port": 70000} | metrics.port: 70000 is out of range; write a port
/authority/config/metrics | {"enabled": "yes"} | metrics.enabled: is a string; write true or false
/authority/config/validation/resolvers | ["dns.example.com"] | is no address of a DNS server
/authority/config/validation/allow | ["0.0.0.0/0"] | "0.0.0.0/0" would open every address
/authority/config/validation/deny | ["10.0.0.1/8"] | "10.0.0.1/8" has bits set beyond
/authority/config/validation/http_port | 0 | http_port: 0 is no port; write
/authority/config/limits/orders_per_account_per_hour | -1 | orders_per_account_per_hour: -1 is out of range; write a whole number
/authority/config/limits/pending_orders_per_account | "300" | pending_orders_per_account: is a string; write a whole number
/authority/config/limits/names_per_order | 101 | names_per_order: 101 is more than the public CAs take
/authority/config/cors | "*" | cors: is a string; write true or false
/authority/config/proxy_protocol | {"from": ["lb.example.com"]} | proxy_protocol.from[0]: "lb.example.com" is no network; write
/authority/config/proxy_protocol | {"from": ["10.0.0.1/8"]} | proxy_protocol.from[0]: "10.0.0.1/8" has bits set beyond
/authority/config/proxy_protocol | {"from": ["::ffff:10.0.0.1"]} | "::ffff:10.0.0.1" is IPv4 inside IPv6; write it as IPv4
/authority/config/proxy_protocol | {"from": ["::/0"]} | "::/0" would let every client say what its address is; write the addresses of your load balancers
/authority/config/proxy_protocol | {"from": "10.0.0.1"} | proxy_protocol.from: is a string; write a list
/authority/config/proxy_protocol | true | proxy_protocol: is true; write an object
/authority/config/shutdown_delay | "61s" | shutdown_delay: is longer than the service's manager waits for its end; write "1m" at most
/authority/config/shutdown_delay | 10 | shutdown_delay: is a number; write a string
/authority/config/upstreams | {} | upstreams: is an object; write a list
/authority/config/upstreams | [{"ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | upstreams[0].name: is missing; write
/authority/config/upstreams | [{"name": "B", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | upstreams[0].name: "B" is no name of an upstream; write
/authority/config/upstreams | [{"name": "default", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | upstreams[0].name: "default" is the one that authority.config itself describes; write another
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}, {"name": "b", "ca_url": "https://c.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | upstreams[1].name: "b" is taken already; write another
/authority/config/upstreams | [{"name": "b", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | authority.config.upstreams[0].ca_url: is missing; write the CA's directory URL
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2"}] | authority.config.upstreams[0].eab_hmac_key: is missing; write both parts
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "not base64!"}] | upstreams[0].eab_hmac_key: [redacted] is not base64url; write
/authority/config/upstreams | [{"name": "b", "ca_url": "https://ca.example.com/dir", "eab_kid": "kid-1", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}] | upstreams[0].eab_kid: is the EAB of upstream "default" at the same CA; write
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "domains": "example.org"}] | upstreams[0].domains: is a string; write a list
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "domains": ["*.example.org"]}] | upstreams[0].domains[0]: "*.example.org" is no domain; write
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "domains": ["example.org"]}, {"name": "c", "ca_url": "https://c.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "domains": ["example.net", "Example.ORG"]}] | upstreams[1].domains[1]: "Example.ORG" is claimed by upstream "b" already; leave it
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "failover": "c"}] | upstreams[0].failover: "c" is no upstream of this file; there are: default, b
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "failover": "b"}] | upstreams[0].failover: "b" is this upstream itself; write
/authority/config/upstreams | [{"name": "b", "ca_url": "https://b.example/dir", "eab_kid": "kid-2", "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "failover": "default", "failover_after": "0s"}] | upstreams[0].failover_after: is less than a second; write
/authority/config/failover | "b" | authority.config.failover: "b" is no upstream of this file; there are: default
/authority/config/failover | "default" | authority.config.failover: "default" is this upstream itself
/authority/provisioners/0/upstream | "b" | authority.provisioners[0].upstream: "b" is no upstream of this file; there are: default
/authority/provisioners/0/eabKeys | [{"kid": "a", "hmacKey": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "upstream": "b"}] | eabKeys[0].upstream: "b" is no upstream of this file; there are: default
/authority/config/blocked_keys | true | blocked_keys: is true; write a string
/authority/config/blocked_keys | "/nowhere.dat" | blocked_keys: "/nowhere.dat" can not be read: No such file or directory (os error 2); write the full path of a blocklist.dat
/authority/config/blocked_keys | "/dev/null" | blocked_keys: "/dev/null" is no list of badkeys: it is empty; write
/authority/config/blocked_keys | "/proc/version" | blocked_keys: "/proc/version" is no list of badkeys: it is not
/authority/config/issuance/deadline | "-1h" | deadline: "-1h" is negative; write
/authority/config/issuance/deadline | "99999999h" | deadline: "99999999h" is longer than 292 years
/authority/config/issuance/deadline | "1d" | deadline: "1d" is no duration; write
/authority/config/issuance/deadline | 24 | deadline: is a number; write a string
/authority/config/issuance/deadline | "5s" | deadline: is less than a minute
"#;

#[test]
fn c1201_every_bad_value_is_an_error_with_key_and_value_and_fix() {
    for case in BAD_VALUES.lines().skip(1) {
        let parts: Vec<&str> = case.split(" | ").collect();
        let value: Value = serde_json::from_str(parts[1]).unwrap();
        let Err(error) = load(&[(parts[0], value)]) else {
            panic!("{case}: was accepted");
        };
        assert_eq!(error.exit_code(), 2, "{case}");
        let lines = lines(Err(error));
        assert!(
            lines.len() == 1 && lines[0].contains(parts[2]),
            "{case}: {lines:#?}"
        );
        assert!(lines[0].contains("ca.json:"), "{lines:?}");
    }
}

#[test]
fn the_daemons_own_names_must_lead_to_one_ca() {
    let there = json!([{
        "name": "there", "ca_url": "https://there.example/dir", "eab_kid": "kid-2", "eab_hmac_key": KEY,
        "domains": ["example.org"],
    }]);
    let upstreams = ("/authority/config/upstreams", there);
    let names = |names: Value| [("/dnsNames", names), upstreams.clone()];
    let config = load(&names(json!(["acme.example.org", "example.org"]))).unwrap();
    assert_eq!(config.worker.own_certificate_upstream.as_str(), "there");
    assert_eq!(config.warnings, [""; 0]);
    let lines = lines(load(&names(json!(["acme.example.org", "acme.example.com"]))));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("dnsNames: acme.example.org and acme.example.com are for different CAs")
            && lines[0].contains("write tls.certificate and tls.key, or names of one"),
        "{lines:?}"
    );
}

#[test]
fn c1201_all_faults_are_named_at_once_in_the_files_order() {
    let lines = lines(load_text(
        "{\n\"address\": \":0\",\n\"dnsNames\": [\"a_b\", \"localhost\"],\n\"db\": {\"type\": \"mysql\", \"dataSource\": \"/x\"},\n\
         \"authority\": {\"config\": {\"ca_url\": \"http://x.example\",\n\"issuance\": {\"deadline\": \"-1h\"}},\n\
         \"provisioners\": [{\"type\": \"EST\"}]}}",
    ));
    let places: Vec<&str> = lines
        .iter()
        .map(|line| line.split_once("ca.json:").unwrap().1.split(": ").next().unwrap())
        .collect();
    assert_eq!(places, ["2", "3", "3", "4", "5", "6", "7"], "{lines:#?}");
}

#[test]
fn c1201_a_file_that_is_not_there_or_can_not_be_read_is_exit_code_1() {
    let dir = TempDir::new().unwrap();
    let dangling = dir.path().join("link.json");
    std::os::unix::fs::symlink("/nowhere/ca.json", &dangling).unwrap();
    for (path, expected) in [
        (dir.path().join("ca.json"), "there is no such file"),
        (dangling, "there is no such file"),
        (dir.path().to_owned(), "is a directory"),
        (PathBuf::from("/dev/zero"), "larger than 10 MB"),
    ] {
        let error = Config::load(&path, &Overrides::default()).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
        let text = error.to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn c1201_a_file_that_is_no_json_is_one_line_and_exit_code_2() {
    for text in [
        "",
        " \n",
        "{",
        "{\"address\": \":443\",}",
        "[]",
        "null",
        "\"text\"",
        "{} {}",
        "{'a': 1}",
    ] {
        let error = load_text(text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("ca.json"), "{text}: {error}");
    }
    let lines = lines(load_text("{\n  \"address\": \":443\",\n}"));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("ca.json:3: not valid JSON"), "{lines:?}");
}
