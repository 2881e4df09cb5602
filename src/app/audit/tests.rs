//! The audit log's file: what is found in it when it is opened, and what of it can be shown later.

use super::*;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::app::audit::chain::verify;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file("audit.log")).unwrap()
    }

    fn aside(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.to_str().unwrap().contains(".damaged-"))
            .collect()
    }

    fn opened(&self) -> Audit {
        let audit = Audit::default();
        audit.open(&self.file("audit.log")).unwrap();
        audit
    }

    fn filled(&self) {
        let audit = self.opened();
        for number in 1..=5 {
            let hostile = "\",\"hash\":\"\n\u{1b}\u{202e}";
            let fields = [("n", number.into()), ("text", hostile.into())];
            audit.write(
                "order created",
                fields.map(|(name, value)| (name.to_owned(), value)).into(),
            );
        }
    }

    fn verified(&self) -> String {
        match verify(&[self.file("audit.log")]) {
            Ok(text) => text,
            Err(error) => format!("{error:#}").replace(self.0.path().to_str().unwrap(), ""),
        }
    }
}

#[test]
fn i10_the_chain_goes_on_over_restarts_and_verifies() {
    let place = Place::new();
    place.filled();
    place.filled();
    assert!(
        place.verified().starts_with("ok: 14 events, number 1 to 14\n"),
        "{}",
        place.verified()
    );
    assert!(
        place
            .text()
            .chars()
            .all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}'))
    );
    let mode = std::fs::metadata(place.file("audit.log")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn i10_whatever_is_changed_taken_out_put_in_or_moved_is_named_by_its_line() {
    let place = Place::new();
    place.filled();
    let lines: Vec<String> = place.text().lines().map(str::to_owned).collect();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        std::fs::write(place.file("audit.log"), lines.join("\n") + "\n").unwrap();
        place.verified()
    };
    let changed = with(&|lines| lines[2] = lines[2].replace("\"n\":2", "\"n\":3"));
    assert_eq!(
        changed,
        "/audit.log:3: the line was changed: its hash is not that of what it says"
    );
    let gone = with(&|lines| drop(lines.remove(3)));
    assert!(
        gone.starts_with("/audit.log:4: the line does not follow the one before: number 5 comes where 4"),
        "{gone}"
    );
    let moved = with(&|lines| lines.swap(1, 2));
    assert!(
        moved.starts_with("/audit.log:2: the line does not follow"),
        "{moved}"
    );
    let doubled = with(&|lines| lines.insert(2, lines[1].clone()));
    assert!(
        doubled.starts_with("/audit.log:3: the line does not follow"),
        "{doubled}"
    );
    let foreign = with(&|lines| lines.push("{\"seq\":7}".to_owned()));
    assert_eq!(
        foreign,
        "/audit.log:8: the line is no line of an audit log: it has no hash"
    );
    // A new chain in the old one's place, all hashes right.
    let other = Place::new();
    other.filled();
    let restarted = with(&|lines| lines.extend(other.text().lines().map(str::to_owned)));
    assert!(
        restarted.starts_with("/audit.log:8: another log begins here"),
        "{restarted}"
    );
    let younger = with(&|lines| drop(lines.drain(..2)));
    assert!(
        younger.contains("Not looked at: the events before number 3"),
        "{younger}"
    );
}

/// A file that can be written to, at its end alone: not even root cuts it.
struct AppendOnly(PathBuf);

impl AppendOnly {
    fn new(path: PathBuf) -> Self {
        let only = Self(path);
        only.chattr("+a");
        only
    }

    fn chattr(&self, change: &str) {
        let mut command = std::process::Command::new("chattr");
        let status = command.arg(change).arg(&self.0).status();
        assert!(status.expect("chattr, of the package e2fsprogs").success());
    }
}

impl Drop for AppendOnly {
    fn drop(&mut self) {
        self.chattr("-a");
    }
}

#[test]
fn f39_a_line_that_was_cut_off_stays_and_the_next_one_names_it_also_in_an_append_only_file() {
    for is_append_only in [false, true] {
        let place = Place::new();
        place.filled();
        let whole = place.text();
        let torn = whole.clone() + "{\"seq\":8,\"ti";
        std::fs::write(place.file("audit.log"), &torn).unwrap();
        assert_eq!(
            place.verified(),
            "/audit.log:8: the line is cut off; the daemon says so in the next one when it goes on"
        );
        let _locked = is_append_only.then(|| AppendOnly::new(place.file("audit.log")));
        place.filled();
        let verified = place.verified();
        assert!(
            verified.starts_with("ok: 15 events, number 1 to 15\n"),
            "{verified}"
        );
        assert!(
            verified.contains("/audit.log:8: a line was cut off here"),
            "{verified}"
        );
        assert!(place.text().starts_with(&torn), "nothing was taken away");
        assert!(place.aside().is_empty());
        let ninth: serde_json::Value = serde_json::from_str(place.text().lines().nth(8).unwrap()).unwrap();
        assert_eq!(
            (&ninth["event"], &ninth["seq"]),
            (&"line cut off".into(), &8.into())
        );
    }
}

#[test]
fn i10_a_line_that_was_cut_off_hides_no_change() {
    let place = Place::new();
    place.filled();
    std::fs::write(place.file("audit.log"), place.text() + "{\"seq\":8,\"ti").unwrap();
    place.filled();
    let lines: Vec<String> = place.text().lines().map(str::to_owned).collect();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        std::fs::write(place.file("audit.log"), lines.join("\n") + "\n").unwrap();
        place.verified()
    };
    assert!(with(&|_| ()).starts_with("ok: "));
    let no_hash = "the line is no line of an audit log: it has no hash";
    assert_eq!(
        with(&|lines| lines[7].push('!')),
        format!("/audit.log:8: {no_hash}")
    );
    assert!(with(&|lines| drop(lines.remove(7))).starts_with("ok: 15 events"));
    assert!(with(&|lines| drop(lines.remove(8))).contains("audit.log:8: "));
    // What stood elsewhere is no rest of a line.
    for (at, line) in [
        (3, "{\"seq\":4,\"ti"),
        (8, "{\"seq\":9"),
        (15, "{\"seq\":16"),
        (9, ""),
    ] {
        let put_in = with(&|lines| lines.insert(at, line.to_owned()));
        assert!(put_in.starts_with("/audit.log:"), "{put_in}");
    }
    // A line before is made to look as if it had been cut off, too.
    let cut = with(&|lines| drop(lines[6].split_off(30)));
    assert_eq!(cut, format!("/audit.log:7: {no_hash}"));
    // A whole one was never cut off, whatever a later line says of it.
    let changed = lines[6].replace("\"event\"", "\"Event\"");
    let mut latest = chain::Link::read(lines[5].as_bytes()).unwrap().link;
    let hash = crate::acme::certificate::Fingerprint::of(changed.as_bytes()).to_string();
    let fields = Fields::from([("rest.sha256".to_owned(), hash.into())]);
    let forged;
    (forged, latest) = latest.next(Clock::system().now(), "line cut off", &fields);
    assert_eq!(latest.seq, 7);
    let text = [&lines[..6], &[changed, forged]].concat().join("\n") + "\n";
    std::fs::write(place.file("audit.log"), text).unwrap();
    assert_eq!(
        place.verified(),
        "/audit.log:7: the line was changed: its hash is not that of what it says"
    );
}

#[test]
fn what_a_crash_leaves_at_the_end_is_gone_on_from_wherever_it_was_cut() {
    let place = Place::new();
    place.filled();
    let whole = place.text();
    let length = whole.trim_end().rfind('\n').unwrap() + 1;
    // From the line's begin to all of it but its end.
    for end in (length..whole.len())
        .step_by(7)
        .chain(whole.len() - 4..whole.len())
    {
        std::fs::write(place.file("audit.log"), &whole[..end]).unwrap();
        drop(place.opened());
        let verified = place.verified();
        assert!(verified.starts_with("ok: "), "{end}: {verified}");
        // And once more, in the midst of what was said about it.
        let said = place.text();
        for again in [end + 1, end + 20]
            .into_iter()
            .filter(|again| *again < said.len())
        {
            std::fs::write(place.file("audit.log"), &said[..again]).unwrap();
            drop(place.opened());
            let verified = place.verified();
            assert!(verified.starts_with("ok: "), "{end}, {again}: {verified}");
        }
    }
    for (garbage, is_kept) in [("\0\0\0\0", true), ("Nov 22 sshd: hello\n", false)] {
        std::fs::write(place.file("audit.log"), whole.clone() + garbage).unwrap();
        drop(place.opened());
        assert!(place.verified().starts_with("ok: "), "{}", place.verified());
        assert_eq!(place.text().starts_with(&whole), is_kept);
        assert_eq!(place.aside().is_empty(), is_kept);
    }
}

#[test]
fn a_log_that_ends_in_a_changed_line_is_put_aside_whole_and_another_one_says_so() {
    let place = Place::new();
    place.filled();
    let changed = place.text().replace("log closed", "log Closed");
    std::fs::write(place.file("audit.log"), &changed).unwrap();
    place.filled();
    assert!(
        place.verified().starts_with("ok: 7 events"),
        "{}",
        place.verified()
    );
    assert_eq!(std::fs::read_to_string(&place.aside()[0]).unwrap(), changed);
}

#[test]
fn a_file_that_is_no_audit_log_is_left_as_it_is() {
    let place = Place::new();
    for text in [
        "{ \"root\": \"\" }\n",
        "{\n  \"address\": \":443\"\n}\n",
        "time=now msg=x\n",
    ] {
        std::fs::write(place.file("audit.log"), text).unwrap();
        let error = LogFile::open(&place.file("audit.log")).unwrap_err().to_string();
        assert!(error.contains("is no audit log, and is left as it is"), "{error}");
        assert_eq!(place.text(), text);
        assert!(place.aside().is_empty());
    }
}

#[tokio::test]
async fn a_rotated_log_goes_on_in_the_new_file_and_both_verify_together() {
    let place = Place::new();
    let audit = place.opened();
    audit.write("order created", Fields::new());
    std::fs::rename(place.file("audit.log"), place.file("audit.log.1")).unwrap();
    audit.write("order finalized", Fields::new());
    kept(&audit).await;
    audit.reopen().await.unwrap();
    audit.reopen().await.unwrap();
    audit.write("certificate issued", Fields::new());
    kept(&audit).await;
    assert_eq!(place.text().lines().count(), 2);
    let both = [place.file("audit.log.1"), place.file("audit.log")];
    assert!(verify(&both).unwrap().starts_with("ok: 5 events"));
    let swapped = [place.file("audit.log"), place.file("audit.log.1")];
    assert!(verify(&swapped).is_err());
    let twice = Audit::default().open(&place.file("audit.log")).unwrap_err();
    assert!(
        format!("{twice:#}").ends_with("is written by another process"),
        "{twice:#}"
    );
    // What is missing at the end of a file is seen from the next one; at the end of the last one, from its hash alone.
    let hash = verify(&both).unwrap();
    drop(audit);
    let first = std::fs::read_to_string(&both[0]).unwrap();
    let without_last = &first[..first.trim_end().rfind('\n').unwrap() + 1];
    std::fs::write(&both[0], without_last).unwrap();
    let said = verify(&both).unwrap_err().to_string();
    assert!(
        said.contains("audit.log:1: the line does not follow the one before: number 4 comes where 3"),
        "{said}"
    );
    std::fs::write(&both[0], &first).unwrap();
    let last = place.text();
    std::fs::write(
        place.file("audit.log"),
        &last[..last.trim_end().rfind('\n').unwrap() + 1],
    )
    .unwrap();
    assert_eq!(verify(&both).unwrap(), hash);
    assert!(last.contains("audit log closed"));
}

async fn kept(audit: &Audit) {
    audit.writer.get().unwrap().kept().await;
}

#[tokio::test]
async fn many_who_wait_share_a_sync_and_each_finds_its_event_on_the_disk() {
    let place = Place::new();
    let audit = Arc::new(place.opened());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let (audit, file) = (Arc::clone(&audit), place.file("audit.log"));
        tasks.spawn(async move {
            audit.write("order created", Fields::from([("n".to_owned(), number.into())]));
            kept(&audit).await;
            let log = std::fs::read_to_string(file).unwrap();
            assert!(log.contains(&format!("\"n\":{number},")));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(place.verified().starts_with("ok: 1001 events"));
}

#[test]
fn the_list_for_certificate_transparency_has_each_certificate_once_and_none_of_a_changed_log() {
    let place = Place::new();
    let audit = place.opened();
    let certificate = |event: &str, hash: &str| {
        let fields = [
            ("certificate.serial", "04ab"),
            ("certificate.sha256", hash),
            ("certificate.not_after", "2027-01-01T00:00:00Z"),
            ("order.id", "o1"),
            ("account.id", "a1"),
            ("identifiers", "a.example.com *.b.example.com"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.into()));
        audit.write(event, fields.into());
    };
    for (event, hash) in [
        ("certificate issued", "11"),
        ("certificate fetched", "11"),
        ("late certificate", "22"),
        ("certificate of an earlier order taken", "22"),
        ("certificate issued", "22"),
    ] {
        certificate(event, hash);
    }
    audit.finish();
    let list = export_for_transparency(&[place.file("audit.log")]).unwrap();
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "serial,sha256,not_after,logged,order,account,names");
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines[1].starts_with("04ab,11,2027-01-01T00:00:00Z,20"), "{list}");
    assert!(
        lines[2].ends_with("Z,o1,a1,a.example.com *.b.example.com"),
        "{list}"
    );
    std::fs::write(place.file("audit.log"), place.text().replace("\"22\"", "\"33\"")).unwrap();
    let refused = export_for_transparency(&[place.file("audit.log")]).unwrap_err();
    assert!(refused.to_string().contains("was changed"), "{refused}");
}
