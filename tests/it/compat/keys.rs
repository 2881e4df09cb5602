//! Each key of `ca.json` that the Go program knows: what a good value does, and the whole line that a bad one gets.

use serde_json::Value;

use crate::compat::assert_covers;
use crate::config::{lines, load, load_text, minimal};

/// A row of docs/COMPATIBILITY.md, a place in the smallest file, a value for it, and what comes of it: `does` with a part
/// of the settings or of the report, `warns` and `fails` with the whole of the one line that is about it.
const CASES: &str = r#"
J1 | /address | ":9000" | does | https://acmeproxy.example.com:9000/acme/acme/directory
J1 | /address | "localhost:9000" | does | listens on 127.0.0.1:9000
J1 | /address | ":https" | does | listens on [::]:443
J1 | /address | null | fails | address: is missing; write e.g. ":443"
J1 | /address | "127.0.0.1" | fails | address: "127.0.0.1" has no port; write e.g. ":443" or "192.0.2.1:443"
J1 | /address | ":acme" | fails | address: ":acme" has no port between 1 and 65535; write e.g. ":443"
J1 | /address | "ca.example.com:443" | fails | address: "ca.example.com:443" names neither an IP address nor localhost, and names are not looked up; write e.g. ":443", "192.0.2.1:443" or "[2001:db8::1]:443"
J2 | /dnsNames | ["a.example.com", "b.example.com"] | does | https://b.example.com/acme/acme/directory
J2 | /dnsNames | ["a.example.com", "localhost"] | warns | dnsNames[1]: "localhost" is skipped: no public CA certifies it; clients must use another of these names
J2 | /dnsNames | ["a.example.com", "::1"] | warns | dnsNames[1]: "::1" is skipped: it would not be in the certificate; clients must use a name
J2 | /dnsNames | null | fails | dnsNames: has no name; write the names that clients use, e.g. ["acmeproxy.example.com"]
J2 | /dnsNames | [] | fails | dnsNames: has no name; write the names that clients use, e.g. ["acmeproxy.example.com"]
J2 | /dnsNames | ["localhost"] | fails | dnsNames[0]: "localhost" can not be certified: it has a single label; write the names that clients use, e.g. ["acmeproxy.example.com"]
J3 | /commonName | "c.example.com" | does | Its own certificate, for acmeproxy.example.com, c.example.com,
J3 | /commonName | "Step Online CA" | warns | commonName: "Step Online CA" has no effect here: it is step-ca's default, and no name; the first of dnsNames is used
J3 | /commonName | "My CA" | fails | commonName: "My CA" can not be certified: the name has a character other than a-z, 0-9, '-' and '.'; write an internationalised name as A-labels (xn--); write the first of dnsNames, or remove it
J4 | /insecureAddress | "" | does | Metrics are not served
J4 | /insecureAddress | ":8080" | warns | insecureAddress: has no effect here: it is for SCEP and CRLs, which are not served
J5 | /metricsAddress | ":9123" | does | Metrics are served on http://[::]:9123/metrics
J5 | /metricsAddress | "9123" | fails | metricsAddress: "9123" has no port; write e.g. ":443" or "192.0.2.1:443"
J6 | /logger | null | does | Requests are not logged
J6 | /logger | {} | does | Requests are logged as text
J6 | /logger/format | "JSON" | does | Requests are logged as JSON
J6 | /logger/format | "common" | does | Requests are logged in the common format
J6 | /logger/traceHeader | "X-Trace" | does | trace_header: "X-Trace"
J6 | /logger/format | "xml" | fails | logger.format: "xml" is no format of the request log; write "json", "text" or "common"
J7 | /db | {"type": "sled", "dataSource": "/srv/store"} | does | kept in /srv/store.
J7 | /db | {"type": "BBolt", "dataSource": "/srv/db/bbolt"} | does | kept in /srv/db/bbolt.sled.
J7 | /db | {"type": "badger", "dataSource": "/srv/db"} | does | kept in /srv/db/sled.
J7 | /db | {"type": "bbolt", "dataSource": "/srv/db/bbolt"} | warns | db.type: "bbolt" is a database of the Go program. It is left alone; records are kept in a sled store, /srv/db/bbolt.sled. To take the clients' accounts over, stop the Go program and run: acme-proxy import step-ca /srv/db/bbolt ca.json
J7 | /db | {"type": "badgerv2", "dataSource": "/srv/db"} | warns | db.type: "badgerv2" is a database of the Go program. It is left alone; records are kept in a sled store, /srv/db/sled. To take the clients' accounts over, stop the Go program and run: acme-proxy import step-ca /srv/db ca.json
J7 | /db/valueDir | "/srv/db" | warns | db.valueDir: has no effect here: it is for badger, and the store here is another one
J7 | /db/badgerFileLoadingMode | "FileIO" | warns | db.badgerFileLoadingMode: has no effect here: it is for badger, and the store here is another one
J7 | /db/database | "step" | warns | db.database: has no effect here: it is for PostgreSQL; the store here is sled
J7 | /db | null | fails | db: is missing, and there is no ACME without a store; write "db": { "type": "sled", "dataSource": "/opt/acme-proxy/db/sled" }
J7 | /db/type | "leveldb" | fails | db.type: "leveldb" is not supported; write "db": { "type": "sled", "dataSource": "/opt/acme-proxy/db/sled" }, or "postgresql"
J7 | /db/type | "mysql" | fails | db.type: "mysql" is not supported, and its records can not be taken over: clients register again by themselves; write "db": { "type": "sled", "dataSource": "/opt/acme-proxy/db/sled" }
J8 | /tls | {"minVersion": 1.2, "maxVersion": 1.3, "renegotiation": false} | does | (HTTPS, TLS 1.2 and 1.3)
J8 | /tls | {"minVersion": 0, "maxVersion": 1.2} | does | (HTTPS, TLS 1.2)
J8 | /tls/minVersion | 1.1 | warns | tls.minVersion: TLS 1.1 is not served: it is broken; 1.2 is used instead; write 1.2
J8 | /tls/renegotiation | true | warns | tls.renegotiation: has no effect here: renegotiation is always off
J8 | /tls/cipherSuites | ["TLS_RSA_WITH_RC4_128_SHA"] | warns | tls.cipherSuites: has no effect here: the TLS library's own suites are used, all of them strong
J8 | /tls | {"minVersion": 1.3, "maxVersion": 1.2} | fails | tls.minVersion: 1.3 is above maxVersion, 1.2; write 1.2 and 1.3
J8 | /tls/minVersion | 1.4 | fails | tls.minVersion: 1.4 is no TLS version; write 1.2 or 1.3, as a number without quotes
J8 | /tls/minVersion | "1.2" | fails | tls.minVersion: is a string; write 1.2 or 1.3, as a number without quotes
J9 | /crl/enabled | false | does | https://acmeproxy.example.com/acme/acme/directory
J9 | /crl/cacheDuration | "24h" | warns | crl.cacheDuration: has no effect here: the CA publishes its CRL itself
J9 | /crl/enabled | true | fails | crl.enabled: true: the CA publishes its CRL itself; write false
J9 | /crl/renewPeriod | "-1h" | fails | crl.renewPeriod: "-1h" is negative; write e.g. "24h"
J10 | /monitoring | {"type": "newrelic", "name": "ca", "key": "k"} | warns | monitoring: has no effect here: metrics are served to Prometheus, see authority.config.metrics
J10 | /monitoring | {"type": "datadog"} | fails | monitoring.type: "datadog" is no monitoring that is served; remove it: metrics are served to Prometheus, see authority.config.metrics
J11 | /root | [] | does | own: []
J11 | /root | "" | does | own: []
J11 | /root | "/nowhere.crt" | fails | root: "/nowhere.crt" can not be read: No such file or directory (os error 2); write the path of a PEM file that this user may read
J11 | /root | ["/dev/null"] | fails | root[0]: "/dev/null" holds no certificate, or one that can not be read; write the path of a PEM file
J12 | /federatedRoots | [] | does | federated: []
J12 | /federatedRoots | ["/nowhere.crt"] | fails | federatedRoots[0]: "/nowhere.crt" can not be read: No such file or directory (os error 2); write the path of a PEM file that this user may read
J12 | /federatedRoots | "/nowhere.crt" | fails | federatedRoots: is a string; write a list in [ ]
J13 | /crt | "/srv/ca.crt" | warns | crt: has no effect here: nothing is signed here; for the daemon's own certificate write tls.certificate
J13 | /key | "/srv/ca.key" | warns | key: has no effect here: nothing is signed here; for the daemon's own key write tls.key
J13 | /password | "secret" | warns | password: has no effect here: no key here has a password; remove it from this file
J13 | /kms | {"type": "softkms"} | warns | kms: has no effect here: nothing is signed here
J13 | /ssh | {"hostKey": "x"} | warns | ssh: has no effect here: no SSH certificates are issued
J13 | /templates | {} | warns | templates: has no effect here: no SSH certificates are issued
J14 | /authority/type | "ExternalCAS" | does | issued by https://ca.example.com/dir
J14 | /authority/type | null | warns | authority.type: is missing, and taken as "externalcas": nothing is signed here; write that
J14 | /authority/certificateIssuer | {"type": "jwk"} | warns | authority.certificateIssuer: has no effect here: it is for other types of authority; the CA is authority.config.ca_url
J14 | /authority/type | "softcas" | fails | authority.type: "softcas" would sign certificates itself, which never happens here; write "externalcas", and the CA's ACME directory as authority.config.ca_url
J14 | /authority/type | "StepCAS" | fails | authority.type: "StepCAS" has a step-ca sign, which is asked by ACME here, as any CA is; write "externalcas", and the CA's ACME directory as authority.config.ca_url
J14 | /authority/type | "cloudCAS" | fails | authority.type: "cloudCAS" has Google's CA Service sign, which knows no ACME; Google's public CA does; write "externalcas", and the CA's ACME directory as authority.config.ca_url
J14 | /authority/type | "vaultcas" | fails | authority.type: "vaultcas" has Vault sign, which is asked by ACME here, as any CA is; write "externalcas", and the CA's ACME directory as authority.config.ca_url
J14 | /authority/type | "ejbca" | fails | authority.type: "ejbca" is no type of authority; write "externalcas", and the CA's ACME directory as authority.config.ca_url
J15 | /authority/backdate | "1m0s" | warns | authority.backdate: has no effect here: the CA sets the dates of certificates
J15 | /authority/backdate | "-1m" | fails | authority.backdate: "-1m" is negative; write e.g. "24h"
J15 | /authority/backdate | 60 | fails | authority.backdate: is a number; write a string in quotes
J16 | /authority/claims | {"maxTLSCertDuration": "720h", "disableRenewal": true} | warns | authority.claims: has no effect here: the CA decides how long certificates are valid
J16 | /authority/provisioners/0/claims | {"enableSSHCA": false} | warns | authority.provisioners[0].claims: has no effect here: the CA decides how long certificates are valid
J17 | /authority/policy/x509 | {"allow": {"dns": ["*.example.com"]}, "deny": {"dns": ["www.example.com"]}} | does | only *.example.com, but not www.example.com, and no wildcards
J17 | /authority/policy/x509 | {"deny": {"cn": ["www.example.com"]}} | does | every name, but not www.example.com, and no wildcards; every address
J17 | /authority/policy/x509 | {"allow": {"ip": ["10.0.0.0/8", "192.0.2.1"]}} | does | no name, and no wildcards; only 10.0.0.0/8, 192.0.2.1/32
J17 | /authority/policy/x509 | {"deny": {"ip": ["10.0.0.0/8"]}} | does | every name, and no wildcards; every address, but not 10.0.0.0/8
J17 | /authority/policy/x509 | {"allow": {"dns": ["*.example.com"]}, "allowWildcardNames": true} | does | only *.example.com; no address
J17 | /authority/policy/x509/deny | {"email": ["@example.com"]} | warns | authority.policy.x509.deny.email: has no effect here: only DNS names and addresses can be ordered
J17 | /authority/policy/x509/deny/ip | ["10.0.0.1/8"] | fails | authority.policy.x509.deny.ip[0]: "10.0.0.1/8" has bits set beyond its prefix length; write the network (e.g. "10.0.0.0/8") or one address
J17 | /authority/policy/x509/allowWildcardNames | "true" | fails | authority.policy.x509.allowWildcardNames: is a string; write true or false
J17 | /authority/policy/x509 | {"allow": {"email": ["@example.com"]}} | warns | authority.policy.x509.allow.email: has no effect here: it makes no identifier admissible; write names under dns, addresses under ip
J17 | /authority/policy/x509/allow/dns | ["a.*.example.com"] | fails | authority.policy.x509.allow.dns[0]: "a.*.example.com" is no pattern for DNS names; write one name (host.example.com), or *.example.com for all names one label below, internationalised names as A-labels (xn--)
J18 | /authority/template | {} | warns | authority.template: has no effect here: the CA gets the client's CSR as it is
J18 | /authority/disableIssuedAtCheck | true | warns | authority.disableIssuedAtCheck: has no effect here: it is about tokens, which are not used
J18 | /authority/disableGetSSHHosts | true | warns | authority.disableGetSSHHosts: has no effect here: no SSH certificates are issued
J18 | /authority/authorityId | "x" | warns | authority.authorityId: has no effect here: nothing is reported to Smallstep
J18 | /authority/deploymentType | "standalone" | warns | authority.deploymentType: has no effect here: there is no linked CA
J18 | /authority/deploymentType | "linked" | fails | authority.deploymentType: "linked" has Smallstep keep the provisioners, which is never asked; write them into this file, and remove it
J19 | /authority/enableAdmin | false | does | https://acmeproxy.example.com/acme/acme/directory
J19 | /authority/enableAdmin | true | fails | authority.enableAdmin: true: provisioners and policy are not kept in the database here; copy them into this file and write false
J20 | /authority/provisioners/0/type | "acme" | does | https://acmeproxy.example.com/acme/acme/directory
J20 | /authority/provisioners/1 | {"type": "jwk", "name": "a", "key": {}, "encryptedKey": "x"} | warns | authority.provisioners[1]: a JWK provisioner has no effect here: nothing is signed for it; certificates are ordered by ACME
J20 | /authority/provisioners/1 | {"type": "SCEP", "name": "a", "challenge": "x"} | warns | authority.provisioners[1]: a SCEP provisioner has no effect here: nothing is signed for it; certificates are ordered by ACME
J20 | /authority/provisioners | [{"type": "OIDC", "name": "a"}] | fails | authority.provisioners: has no ACME provisioner; write [{ "type": "ACME", "name": "acme" }]
J20 | /authority/provisioners/0/type | "EST" | fails | authority.provisioners[0].type: "EST" is no type of provisioner; write "ACME", or remove it
J20 | /authority/provisioners/0/name | null | fails | authority.provisioners[0].name: is missing; write e.g. "acme"
J20 | /authority/provisioners/1 | {"type": "ACME", "name": "acme"} | fails | authority.provisioners[1].name: "acme" is taken already; write another name
J21 | /authority/provisioners/0/termsOfService | "https://example.com/tos" | does | terms_of_service: Some("https://example.com/tos")
J21 | /authority/provisioners/0/website | "https://example.com/" | does | website: Some("https://example.com/")
J21 | /authority/provisioners/0/caaIdentities | ["example.com"] | does | caa_identities: ["example.com"]
J21 | /authority/provisioners/0/website | "example" | fails | authority.provisioners[0].website: "example" is no URL; write e.g. "https://www.example.com/terms"
J22 | /authority/provisioners/0/challenges | ["DNS-01"] | does | challenges: dns-01
J22 | /authority/provisioners/0/challenges | [] | does | challenges: http-01, dns-01, tls-alpn-01
J22 | /authority/provisioners/0/challenges | ["device-attest-01"] | fails | authority.provisioners[0].challenges[0]: "device-attest-01" can not be offered: unknown challenge type; the known ones are http-01, dns-01 and tls-alpn-01
J23 | /authority/provisioners/0/attestationFormats | ["tpm"] | warns | authority.provisioners[0].attestationFormats: has no effect here: device attestation is not served
J23 | /authority/provisioners/0/attestationRoots | "LS0t" | warns | authority.provisioners[0].attestationRoots: has no effect here: device attestation is not served
J24 | /authority/provisioners/0/forceCN | true | warns | authority.provisioners[0].forceCN: has no effect here: the CA gets the client's CSR as it is
J24 | /authority/provisioners/0/options | {"x509": {"template": "{}"}} | warns | authority.provisioners[0].options.x509.template: has no effect here: the CA gets the client's CSR as it is
J24 | /authority/provisioners/0/options | {"ssh": {}} | warns | authority.provisioners[0].options.ssh: has no effect here: no SSH certificates are issued
J24 | /authority/provisioners/0/options | {"wire": {}} | warns | authority.provisioners[0].options.wire: has no effect here: Wire's challenges are not served
J25 | /authority/provisioners/0/options | {"webhooks": []} | does | https://acmeproxy.example.com/acme/acme/directory
J25 | /authority/provisioners/0/options | {"webhooks": [{"name": "a", "url": "https://x.example", "kind": "AUTHORIZING"}]} | fails | authority.provisioners[0].options.webhooks: are not called by this version, and one that denies is not left unenforced; remove them, and restrict the names with policy
J26 | /authority/claims | {"minTLSCertDuration": "48h"} | fails | authority.claims.minTLSCertDuration: is above maxTLSCertDuration (step-ca's own values are 5m, 24h and 24h), so that step-ca serves nothing under these claims; remove claims, which has no effect here
J26 | /authority/provisioners/0/claims | {"minTLSCertDuration": "2h", "maxTLSCertDuration": "1h", "defaultTLSCertDuration": "1h"} | fails | authority.provisioners[0].claims.minTLSCertDuration: is above maxTLSCertDuration (step-ca's own values are 5m, 24h and 24h), so that step-ca serves nothing under these claims; remove claims, which has no effect here
J26 | /authority/provisioners/0/claims | {"maxTLSCertDuration": "1h"} | fails | authority.provisioners[0].claims.defaultTLSCertDuration: is above maxTLSCertDuration (step-ca's own values are 5m, 24h and 24h), so that step-ca serves nothing under these claims; remove claims, which has no effect here
J26 | /authority/provisioners/0/claims | {"minTLSCertDuration": "0s"} | fails | authority.provisioners[0].claims.minTLSCertDuration: is zero; write e.g. "24h", or remove it
J26 | /authority/provisioners/0/claims | {"defaultTLSCertDuration": 24} | fails | authority.provisioners[0].claims.defaultTLSCertDuration: is a number; write a string in quotes
J27 | /authority/provisioners/0/policy | {"x509": {"allow": {"dns": ["*.web.example.com"]}}} | does | and of those: only *.web.example.com
J28 | /authority/provisioners/0/requireEAB | true | does | registration: only with an external account key
J28 | /authority/provisioners/0/requireEAB | "true" | fails | authority.provisioners[0].requireEAB: is a string; write true or false
J29 | /authority/config/ca_url | "https://acme.example.com/v2?a=b" | does | issued by https://acme.example.com/v2?a=b.
J29 | /authority/config/ca_url | null | fails | authority.config.ca_url: is missing; write the CA's directory URL, e.g. "https://acme.example.com/v2/directory"
J30 | /authority/config/account_email | "certadmin@example.com" | does | Account: certadmin@example.com.
J30 | /authority/config/account_email | "certadmin" | fails | authority.config.account_email: "certadmin" is no e-mail address; write e.g. "certadmin@example.com"
J31 | /authority/config/eab_kid | "kid-2" | does | External Account Binding: key id [redacted], key [redacted].
J31 | /authority/config/eab_hmac_key | null | fails | authority.config.eab_hmac_key: is missing; write both parts of the binding
J31 | /authority/config/eab_hmac_key | "no base64!" | fails | authority.config.eab_hmac_key: [redacted] is not base64url; write it exactly as the CA shows it
J32 | /authority/config/certlifetime | 30 | does | lifetime: Some(2592000s)
J32 | /authority/config/certlifetime | 0 | does | lifetime: None
J32 | /authority/config/certlifetime | -1 | fails | authority.config.certlifetime: -1 is out of range; write a number of days, e.g. 90
J33 | /authority/config/dns01_txt | {"provider": "desec", "env_vars": {"DESEC_TOKEN": "t"}} | does | solved by the DNS provider desec.
J33 | /authority/config/dns01 | {"provider": "desec", "env_vars": {"DESEC_TOKEN": "t"}} | does | solved by the DNS provider desec.
J33 | /authority/config/dns01_txt | {"provider": "desec", "dns_servers": ["10.0.0.53"], "env_vars": {"DESEC_TOKEN": "t"}} | does | servers: [10.0.0.53:53]
J33 | /authority/config/dns01_txt | {"provider": "desec", "dns_servers": ["ns.example.com"], "env_vars": {"DESEC_TOKEN": "t"}} | fails | authority.config.dns01_txt.dns_servers[0]: "ns.example.com" is no address of a DNS server; write e.g. "10.0.0.53:53" or "[2001:db8::53]:53"
J33 | /authority/config/dns01_txt | {"provider": "", "dns_servers": [], "env_vars": {}} | does | https://acmeproxy.example.com/acme/acme/directory
J33 | /authority/config/dns01_txt | {"env_vars": {"DESEC_TOKEN": "t"}} | warns | authority.config.dns01_txt: has no effect here: provider is missing; write the name of one, or remove the rest
J33 | /authority/config/dns01_txt | {"provider": "desec"} | fails | authority.config.dns01_txt.env_vars: DESEC_TOKEN is missing; write an API token that may write the zone
J34 | /authority/config/metrics | {"enabled": true, "port": 9123} | does | Metrics are served on http://127.0.0.1:9123/metrics
J34 | /authority/config/metrics | {"enabled": false, "port": 9234} | does | Metrics are not served
J34 | /authority/config/metrics | {"enabled": false, "dataSource": "/srv/metrics"} | warns | authority.config.metrics.dataSource: has no effect here: the inventory of certificates is in the store
J34 | /authority/config/metrics/port | 70000 | fails | authority.config.metrics.port: 70000 is out of range; write a port between 1 and 65535
J35 | /comment | "x" | warns | comment: unknown key, ignored
J35 | /COMMONNAME | "c.example.com" | does | acmeproxy.example.com, c.example.com,
J35 | /commonName | null | does | Its own certificate, for acmeproxy.example.com, is issued
J35 | /commonName | ["a"] | fails | commonName: is a list; write a string in quotes
"#;

#[test]
fn each_key_does_what_its_row_says_and_a_bad_value_is_named_with_its_fix() {
    let mut rows = Vec::new();
    let mut faults = Vec::new();
    for case in CASES.lines().skip(1) {
        let parts: Vec<&str> = case.splitn(5, " | ").collect();
        let [row, pointer, value, verb, text] = parts[..] else {
            panic!("{case}")
        };
        rows.push(row);
        let value: Value = serde_json::from_str(value).unwrap();
        let result = load(&[(pointer, value)]);
        // What is said of a line, without the file and its number.
        let said = |lines: &[String]| -> Vec<String> {
            let said = lines.iter().map(|line| line.split_once("ca.json").unwrap().1);
            said.map(|line| line.split_once(": ").unwrap().1.to_owned())
                .collect()
        };
        match (verb, result) {
            ("does", Ok(config)) => {
                let shown = format!("{}{config:?}", config.report());
                if !shown.contains(text) {
                    faults.push(format!("{case}\n    not in: {shown}"));
                }
            }
            ("warns", Ok(config)) if said(&config.warnings) == [text] => {}
            ("warns", Ok(config)) => faults.push(format!("{case}\n    warns: {:#?}", config.warnings)),
            ("fails", Err(error)) => {
                assert_eq!(error.exit_code(), 2, "{case}");
                let lines = lines(Err(error));
                if said(&lines) != [text] {
                    faults.push(format!("{case}\n    fails: {lines:#?}"));
                }
            }
            (_, Ok(config)) => faults.push(format!("{case}\n    is accepted: {:#?}", config.warnings)),
            (_, Err(error)) => faults.push(format!("{case}\n    fails: {error}")),
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert_covers('J', rows.into_iter());
}

#[test]
fn the_file_is_read_as_go_reads_it_and_nothing_is_ignored_in_silence() {
    let text = serde_json::to_string_pretty(&minimal()).unwrap();
    let text = text.replacen('{', "{\n  \"ADDRESS\": \":1\", \"Crt\": null, \"key\": \"\",", 1);
    let text = text.replacen("\"db\"", "\"Comment\": 1, \"db\"", 1);
    let warnings = load_text(format!("{text}\ntrailing")).unwrap().warnings;
    for said in [
        "written 2 times; this one, the last, counts",
        "Comment: unknown key, ignored",
        "everything from here on is ignored",
    ] {
        let named = warnings.iter().filter(|line| line.contains(said)).count();
        assert_eq!(named, 1, "{said}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
}

/// All that a file can say without effect.
const WITHOUT_EFFECT: &str = r#"{
    "address": ":443", "insecureAddress": ":80", "dnsNames": ["a.example.com"], "crt": "x", "key": "x", "password": "x",
    "kms": {}, "ssh": {}, "templates": {}, "monitoring": { "type": "newrelic" },
    "crl": { "generateOnRevoke": true, "cacheDuration": "1h", "renewPeriod": "1h", "idpURL": "x" },
    "db": { "type": "sled", "dataSource": "/srv/sled", "valueDir": "x", "badgerFileLoadingMode": "x", "database": "x" },
    "tls": { "cipherSuites": ["x"], "renegotiation": true },
    "authority": {
        "type": "externalcas", "claims": { "minTLSCertDuration": "5m" }, "template": {}, "backdate": "1m",
        "disableIssuedAtCheck": true, "disableGetSSHHosts": true, "authorityId": "x", "deploymentType": "standalone",
        "certificateAuthority": "x", "certificateAuthorityFingerprint": "x", "certificateIssuer": {},
        "credentialsFile": "x", "policy": { "ssh": {}, "x509": { "allow": { "dns": ["*.example.com"], "email": ["x"] } } },
        "config": {
            "ca_url": "https://ca.example.com/dir", "eab_kid": "kid-1",
            "eab_hmac_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "metrics": { "enabled": false, "dataSource": "x" }
        },
        "provisioners": [
            { "type": "ACME", "name": "acme", "claims": {}, "forceCN": true, "attestationFormats": [],
              "attestationRoots": "x", "options": { "ssh": {}, "wire": {}, "x509": {
                "template": "x", "templateFile": "x", "templateData": {} } } },
            { "type": "JWK", "name": "jwk", "key": { "kty": "EC" }, "encryptedKey": "x", "claims": {} }
        ]
    }
}"#;

#[test]
fn each_key_without_effect_is_named_once_with_the_reason_however_many_there_are() {
    let expected = [
        "insecureAddress",
        "crt",
        "key",
        "password",
        "kms",
        "ssh",
        "templates",
        "monitoring",
        "crl.generateOnRevoke",
        "crl.cacheDuration",
        "crl.renewPeriod",
        "crl.idpURL",
        "db.valueDir",
        "db.badgerFileLoadingMode",
        "db.database",
        "tls.cipherSuites",
        "tls.renegotiation",
        "authority.claims",
        "authority.template",
        "authority.backdate",
        "authority.disableIssuedAtCheck",
        "authority.disableGetSSHHosts",
        "authority.authorityId",
        "authority.deploymentType",
        "authority.certificateAuthority",
        "authority.certificateAuthorityFingerprint",
        "authority.certificateIssuer",
        "authority.credentialsFile",
        "authority.policy.ssh",
        "authority.policy.x509.allow.email",
        "authority.config.metrics.dataSource",
        "authority.provisioners[0].claims",
        "authority.provisioners[0].forceCN",
        "authority.provisioners[0].attestationFormats",
        "authority.provisioners[0].attestationRoots",
        "authority.provisioners[0].options.ssh",
        "authority.provisioners[0].options.wire",
        "authority.provisioners[0].options.x509.template",
        "authority.provisioners[0].options.x509.templateFile",
        "authority.provisioners[0].options.x509.templateData",
        "authority.provisioners[1]",
    ];
    let report = load_text(WITHOUT_EFFECT).unwrap().report();
    let named: Vec<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("warning: "))
        .map(|line| line.split(": ").nth(1).unwrap())
        .collect();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    let mut keys = expected;
    keys.sort_unstable();
    assert_eq!(sorted, keys, "{report}");
    let reasons = report.matches(" has no effect here: ").count();
    assert_eq!(reasons, expected.len(), "{report}");
}
