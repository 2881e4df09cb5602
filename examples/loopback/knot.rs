//! Knot, a real authoritative DNS server (Debian's package `knot`), with a zone that may be updated with a TSIG key.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use hickory_proto::op::Message;
use hickory_proto::op::Query;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;

/// The keys' secret: their names are those of their algorithms.
pub(crate) const SECRET: &str = "c2l4dHktZm91ci1ieXRlcy1vZi1hLXNlY3JldC10aGF0LWlzLW5vbmUtYXQtYWxs";

/// The algorithms that there is a key for.
pub(crate) const ALGORITHMS: [&str; 5] = [
    "hmac-sha1",
    "hmac-sha224",
    "hmac-sha256",
    "hmac-sha384",
    "hmac-sha512",
];

/// The server. It is killed when this is dropped.
pub(crate) struct Knot {
    /// Where it answers, UDP and TCP.
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Knot {
    /// Starts it at a free address, with these zones: name, and the lines of its file behind the SOA record.
    pub(crate) fn start(
        directory: &Path,
        address: SocketAddr,
        zones: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let place = directory.display();
        // It takes no updates without its journal.
        std::fs::create_dir_all(directory.join("db"))?;
        let mut settings = format!(
            "server:\n    listen: {}@{}\n    rundir: {place}\n\
             control:\n    listen: {place}/knot.sock\n\
             log:\n  - target: {place}/knot.log\n    any: info\n\
             database:\n    storage: {place}/db\nkey:\n",
            address.ip(),
            address.port()
        );
        for algorithm in ALGORITHMS {
            writeln!(
                settings,
                "  - id: {algorithm}\n    algorithm: {algorithm}\n    secret: {SECRET}"
            )?;
        }
        let keys = ALGORITHMS.join(", ");
        writeln!(
            settings,
            "acl:\n  - id: update\n    key: [{keys}]\n    action: update\nzone:"
        )?;
        for (zone, lines) in zones {
            let file = directory.join(format!("{zone}.zone"));
            let start = "@ 1 IN SOA ns hostmaster 1 3600 600 86400 1";
            std::fs::write(&file, format!("$ORIGIN {zone}.\n$TTL 1\n{start}\n{lines}\n"))?;
            writeln!(
                settings,
                "  - domain: {zone}\n    storage: {place}\n    file: {zone}.zone\n    acl: update"
            )?;
        }
        let file = directory.join("knot.conf");
        std::fs::write(&file, settings)?;
        // Daemons are where a user's path may not lead.
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("knotd")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("knotd can not be run: install Debian's package knot")?;
        let knot = Self { address, child };
        for _ in 0..600 {
            if zones.iter().all(|(zone, _)| {
                knot.records(zone, RecordType::SOA)
                    .is_ok_and(|found| !found.is_empty())
            }) {
                return Ok(knot);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(directory.join("knot.log")).unwrap_or_default();
        anyhow::bail!("knotd does not answer: {log}")
    }

    /// The values of a name's TXT records, sorted.
    pub(crate) fn texts(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let records = self.records(name, RecordType::TXT)?.into_iter();
        let mut values: Vec<String> = records
            .filter_map(|data| match data {
                RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
                _ => None,
            })
            .collect();
        values.sort();
        Ok(values)
    }

    fn records(&self, name: &str, kind: RecordType) -> anyhow::Result<Vec<RData>> {
        let mut name: Name = name.parse()?;
        name.set_fqdn(true);
        let mut question = Message::query();
        question.add_query(Query::query(name, kind));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(self.address)?;
        socket.send(&question.to_vec()?)?;
        let mut answer = vec![0; 65_535];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(Message::from_vec(&answer)?
            .answers
            .into_iter()
            .map(|record| record.data)
            .collect())
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
