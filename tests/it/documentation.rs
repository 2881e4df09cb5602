//! What the documentation quotes is there: the messages of docs/TROUBLESHOOTING.md in the sources, the commands of all documents in
//! the program, the links to documents and their headings.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let mut found: Vec<_> = docs
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    found.push(root().join("README.md"));
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// All sources one after the other. A string over two lines is joined as the compiler does.
fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut lines = fs::read_to_string(&path).unwrap();
            while let Some(at) = lines.find("\\\n") {
                let rest = lines[at + 2..].trim_start().to_owned();
                lines.truncate(at);
                lines.push_str(&rest);
            }
            text.push_str(&lines);
        }
    }
}

#[test]
fn every_message_that_is_explained_is_one_that_the_program_or_its_installer_says() {
    let mut said = fs::read_to_string(root().join("install.sh")).unwrap();
    sources(&root().join("src"), &mut said);
    let document = fs::read_to_string(root().join("docs/TROUBLESHOOTING.md")).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let messages: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    assert!(messages.len() > 40, "only {} messages were found", messages.len());
    let stale: Vec<_> = messages
        .iter()
        .filter(|message| {
            let parts = message.split('…').map(str::trim).filter(|part| part.len() > 2);
            !parts.clone().all(|part| said.contains(part)) || parts.count() == 0
        })
        .collect();
    assert!(stale.is_empty(), "nobody says: {stale:#?}");
}

/// The lines of a document's fenced blocks and its code spans that begin with the program, with `\` at a line's end joined.
fn commands(document: &str) -> BTreeSet<String> {
    let joined = document.replace("\\\n", " ");
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            found.extend(command(line));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).filter_map(command));
        }
    }
    found
}

/// The command without `sudo`, its user, the path of the program and a comment.
fn command(line: &str) -> Option<String> {
    let mut words = line.split(" # ").next()?.split_whitespace().peekable();
    if words.peek() == Some(&"sudo") {
        words.next();
        if words.peek() == Some(&"-u") {
            words.nth(1);
        }
    }
    let program = words.next()?;
    let ours = program == "acme-proxy" || program.ends_with("/acme-proxy");
    let rest: Vec<_> = words.collect();
    (ours && !rest.is_empty()).then(|| rest.join(" "))
}

/// Words as a shell would split them; a word in brackets is optional, and taken.
fn words(command: &str) -> Vec<String> {
    let mut ours = String::new();
    for (place, part) in command.split('\'').enumerate() {
        let is_quoted = place % 2 == 1;
        let end = part.find(['|', '>', ';', '&']).filter(|_| !is_quoted);
        ours.push_str(&part[..end.unwrap_or(part.len())]);
        if end.is_some() {
            break;
        }
    }
    let plain = ours.replace(['[', ']'], "");
    plain.split_whitespace().map(ToOwned::to_owned).collect()
}

#[test]
fn every_command_that_is_shown_is_one_that_the_program_understands() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for document in documents() {
        for command in commands(&fs::read_to_string(&document).unwrap()) {
            // A sentence, or the beginning of a command: it has no file of its own.
            if command.contains('…') {
                continue;
            }
            seen += 1;
            // No file that a command names is there, so that nothing is done. A usage says that it was not understood.
            let output = Command::new(env!("CARGO_BIN_EXE_acme-proxy"))
                .args(words(&command).iter().map(|word| match word.strip_prefix('/') {
                    Some(path) => nowhere.path().join(path).display().to_string(),
                    None => word.clone(),
                }))
                .current_dir(&nowhere)
                .env_clear()
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // In a sentence, "acme-proxy eab" may stand for all of its commands.
            let only_begun =
                said.contains("required arguments were not provided") || said.contains("\nCommands:");
            if said.contains("Usage:") && !only_begun {
                wrong.push(format!("{}: acme-proxy {command}: {said}", name(&document)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 10, "only {seen} commands were found");
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_within_the_documentation_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link
                .split_once('#')
                .map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = match file {
                "" => document.clone(),
                _ => document.parent().unwrap().join(file),
            };
            let there = match (target.is_dir(), fs::read_to_string(&target), heading) {
                (true, _, None) | (_, Ok(_), None) => true,
                (_, Ok(text), Some(heading)) => {
                    let mut headings = text.lines().filter(|line| line.starts_with('#'));
                    headings.any(|line| anchor(line.trim_start_matches('#')) == heading)
                }
                (_, Err(_), _) => false,
            };
            if !there {
                broken.push(format!("{}: {link}", name(&document)));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
