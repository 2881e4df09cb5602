//! The audit log's file: what is found in it when it is opened, and what of it can be shown later.

use super::*;

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
            .filter(|path| path.to_str().unwrap().contains(".torn-"))
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
        audit.tend().unwrap();
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
        place.verified().starts_with("ok: 12 events, number 1 to 12\n"),
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
        "/audit.log:7: the line is no line of an audit log: it has no hash"
    );
    // A new chain in the old one's place, all hashes right.
    let other = Place::new();
    other.filled();
    let restarted = with(&|lines| lines.extend(other.text().lines().map(str::to_owned)));
    assert!(
        restarted.starts_with("/audit.log:7: another log begins here"),
        "{restarted}"
    );
    let younger = with(&|lines| drop(lines.drain(..2)));
    assert!(
        younger.contains("Not looked at: the events before number 3"),
        "{younger}"
    );
}

#[test]
fn a_torn_line_is_put_aside_and_the_chain_goes_on() {
    let place = Place::new();
    place.filled();
    let whole = place.text();
    std::fs::write(place.file("audit.log"), format!("{whole}{{\"seq\":7,\"ti")).unwrap();
    assert_eq!(
        place.verified(),
        "/audit.log:7: the line is cut off; the daemon puts it aside when it starts"
    );
    place.filled();
    assert!(
        place.verified().starts_with("ok: 12 events"),
        "{}",
        place.verified()
    );
    assert_eq!(place.aside().len(), 1);
    assert_eq!(
        std::fs::read_to_string(&place.aside()[0]).unwrap(),
        "{\"seq\":7,\"ti"
    );
    let seventh: serde_json::Value = serde_json::from_str(place.text().lines().nth(6).unwrap()).unwrap();
    assert_eq!(seventh["event"], "audit log opened");
    assert_eq!(seventh["torn"], place.aside()[0].to_str().unwrap());
}

#[test]
fn a_log_that_ends_in_a_changed_line_is_put_aside_whole_and_another_one_says_so() {
    let place = Place::new();
    place.filled();
    let changed = place.text().replace("\"n\":5", "\"n\":6");
    std::fs::write(place.file("audit.log"), &changed).unwrap();
    place.filled();
    assert!(
        place.verified().starts_with("ok: 6 events"),
        "{}",
        place.verified()
    );
    assert_eq!(std::fs::read_to_string(&place.aside()[0]).unwrap(), changed);
}

#[test]
fn a_rotated_log_goes_on_in_the_new_file_and_both_verify_together() {
    let place = Place::new();
    let audit = place.opened();
    audit.write("order created", Fields::new());
    std::fs::rename(place.file("audit.log"), place.file("audit.log.1")).unwrap();
    audit.write("order finalized", Fields::new());
    audit.reopen().unwrap();
    audit.reopen().unwrap();
    audit.write("certificate issued", Fields::new());
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
}

#[test]
fn f39_what_can_not_be_written_waits_and_is_written_later() {
    let place = Place::new();
    let audit = place.opened();
    // A file that takes nothing, as a full disk.
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let file = std::mem::replace(&mut audit.locked().as_mut().unwrap().file, full);
    audit.write("order created", Fields::new());
    let told = audit.tend().unwrap_err();
    assert!(
        told.contains("can not be written (1 events wait): No space left on device"),
        "{told}"
    );
    audit.locked().as_mut().unwrap().file = file;
    audit.write("order finalized", Fields::new());
    audit.tend().unwrap();
    let events: Vec<String> = place.text().lines().map(|line| line[..].to_owned()).collect();
    assert!(events[1].contains("order created") && events[2].contains("order finalized"));
    assert!(place.verified().starts_with("ok: 3 events"));
}
