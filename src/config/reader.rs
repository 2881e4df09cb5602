//! Hands out the values of `ca.json` by key, typed, and keeps account: what is wrong, what has no effect, and which
//! keys nobody asked for. Reading goes on after an error, so that one run shows them all.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::tree::Node;
use crate::config::tree::Value;

/// Proof that an error has been recorded in the [`Findings`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reported;

/// What there is to say about one file.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    errors: RefCell<Vec<(usize, String)>>,
    warnings: RefCell<Vec<(usize, String)>>,
    /// Every key that was asked for, to hold them against the documentation.
    #[cfg(test)]
    pub(crate) asked: RefCell<std::collections::BTreeSet<String>>,
    /// Where secrets are kept: files; `None` is the one that is read.
    secrets: RefCell<Vec<Option<PathBuf>>>,
}

impl Findings {
    /// The files that secrets are kept in; `None` is the one that is read.
    pub(crate) fn take_secrets(&self) -> Vec<Option<PathBuf>> {
        self.secrets.take()
    }

    /// All errors and all warnings, one line each, in the order of the file.
    pub(crate) fn into_lines(self, file: &str) -> (Vec<String>, Vec<String>) {
        let lines = |findings: RefCell<Vec<(usize, String)>>| {
            let mut findings = findings.into_inner();
            findings.sort_by_key(|(line, _)| *line);
            let line = |(line, text)| match line {
                0 => format!("{file}: {text}"),
                line => format!("{file}:{line}: {text}"),
            };
            findings.into_iter().map(line).collect()
        };
        (lines(self.errors), lines(self.warnings))
    }

    /// A warning about the file as a whole, or about one line of it.
    pub(crate) fn warn_line(&self, line: Option<usize>, text: String) {
        self.warnings.borrow_mut().push((line.unwrap_or(0), text));
    }
}

/// A value's place, to say something about it.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    findings: &'a Findings,
    line: usize,
    path: String,
}

impl Place<'_> {
    /// Records an error: what is wrong, and what to write instead.
    pub(crate) fn error(&self, text: impl fmt::Display) -> Reported {
        let text = format!("{}: {text}", self.path);
        self.findings.errors.borrow_mut().push((self.line, text));
        Reported
    }

    /// Records a warning.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        let text = format!("{}: {text}", self.path);
        self.findings.warnings.borrow_mut().push((self.line, text));
    }

    /// Records that a secret is kept here, or in another file.
    pub(crate) fn keeps_secret(&self, file: Option<&Path>) {
        self.findings.secrets.borrow_mut().push(file.map(Path::to_owned));
    }
}

/// A string that is not empty, and its place.
#[derive(Clone)]
pub(crate) struct Text<'a> {
    /// The string.
    pub(crate) value: &'a str,
    /// Its place.
    pub(crate) place: Place<'a>,
}

impl Text<'_> {
    /// The string as something else. The error shows the string, so this is not for secrets.
    pub(crate) fn parsed<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, Reported> {
        self.value.parse().map_err(|error| self.wrong(error))
    }

    /// Records an error that shows the string.
    pub(crate) fn wrong(&self, text: impl fmt::Display) -> Reported {
        self.place.error(format_args!("{} {text}", shown(self.value)))
    }
}

/// A value of the file for a message: escaped and cut.
pub(crate) fn shown(value: &str) -> String {
    let cut: String = value.chars().take(100).collect();
    let dots = if cut.len() < value.len() { "..." } else { "" };
    format!("{cut:?}{dots}")
}

/// An object of the file, or the lack of one.
pub(crate) struct Section<'a> {
    place: Place<'a>,
    members: &'a [(String, Node)],
    asked: RefCell<Vec<&'static str>>,
    is_known: Cell<bool>,
    is_there: bool,
}

impl<'a> Section<'a> {
    /// Reads the whole document, then warns of the keys that were not asked for.
    pub(crate) fn read_root<T>(
        node: Option<&'a Node>,
        findings: &'a Findings,
        read: impl FnOnce(&Self) -> Result<T, Reported>,
    ) -> Result<T, Reported> {
        let place = Place {
            findings,
            line: node.map_or(0, |node| node.line),
            path: String::new(),
        };
        match node.map(|node| &node.value) {
            Some(Value::Table(members)) => Self::new(place, members).finish(read),
            Some(_) | None => {
                let text = "the file holds no JSON object; write { \"address\": ... }".to_owned();
                findings.errors.borrow_mut().push((place.line, text));
                Err(Reported)
            }
        }
    }

    fn new(place: Place<'a>, members: &'a [(String, Node)]) -> Self {
        Self {
            place,
            members,
            asked: RefCell::default(),
            is_known: Cell::default(),
            is_there: true,
        }
    }

    fn finish<T>(self, read: impl FnOnce(&Self) -> T) -> T {
        let result = read(&self);
        if self.is_known.get() {
            return result;
        }
        let asked = self.asked.borrow();
        for (key, node) in self.members {
            if asked.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                continue;
            }
            let place = self.below(&shown_key(key), node.line);
            let folded = key.to_ascii_lowercase();
            match asked
                .iter()
                .find(|known| within_two_edits(&folded, &known.to_ascii_lowercase()))
            {
                Some(known) => place.warn(format_args!("unknown key, ignored; did you mean \"{known}\"?")),
                None => place.warn("unknown key, ignored"),
            }
        }
        result
    }

    fn below(&self, key: &str, line: usize) -> Place<'a> {
        Place {
            findings: self.place.findings,
            line,
            path: match self.place.path.is_empty() {
                true => key.to_owned(),
                false => format!("{}.{key}", self.place.path),
            },
        }
    }

    /// Records a warning about the object, if it is there.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        if self.is_there {
            self.place.warn(text);
        }
    }

    /// Where it stands in the file.
    pub(crate) fn path(&self) -> &str {
        &self.place.path
    }

    /// The place of a key, present or not.
    pub(crate) fn place(&self, key: &'static str) -> Place<'a> {
        let node = self.find(key);
        self.below(key, node.map_or(self.place.line, |node| node.line))
    }

    /// Go matches keys without regard to case, and the last one wins.
    fn find(&self, key: &'static str) -> Option<&'a Node> {
        let mut found = self
            .members
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(key));
        found.next_back().map(|(_, node)| node)
    }

    fn take(&self, key: &'static str) -> Option<(&'a Value, Place<'a>)> {
        let node = self.find(key)?;
        let place = self.below(key, node.line);
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            let times = self
                .members
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(key))
                .count();
            if times > 1 {
                place.warn(format_args!("written {times} times; this one, the last, counts"));
            }
            asked.push(key);
        }
        Some((&node.value, place))
    }

    /// Makes the key known without reading it, so that a misspelling of it is recognised.
    fn ask(&self, key: &'static str) -> Option<(&'a Value, Place<'a>)> {
        #[cfg(test)]
        {
            let path = self.below(key, 0).path;
            self.place.findings.asked.borrow_mut().insert(path);
        }
        let taken = self.take(key);
        if taken.is_none() {
            self.asked.borrow_mut().push(key);
        }
        taken
    }

    /// Whether the key is there.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    /// Warns that the key, if it is there, does nothing. An empty string counts as absent.
    pub(crate) fn ignore(&self, key: &'static str, reason: &str) {
        match self.ask(key) {
            Some((Value::Text(text), _)) if text.is_empty() => {}
            Some((_, place)) => place.warn(format_args!("has no effect here: {reason}")),
            None => {}
        }
    }

    /// No key of this object is unknown: what it is for is not served here, and the object itself has been named.
    pub(crate) fn ignore_all(&self) {
        self.is_known.set(true);
    }

    /// A string; an empty one counts as absent, as it does to the Go program.
    pub(crate) fn text(&self, key: &'static str) -> Result<Option<Text<'a>>, Reported> {
        match self.ask(key) {
            None => Ok(None),
            Some((Value::Text(value), place)) => Ok((!value.is_empty()).then_some(Text { value, place })),
            Some((other, place)) => Err(wrong_type(&place, "a string in quotes", other)),
        }
    }

    /// A string that must be there.
    pub(crate) fn required(&self, key: &'static str, fix: &str) -> Result<Text<'a>, Reported> {
        let text = self.text(key)?;
        text.ok_or_else(|| self.place(key).error(format_args!("is missing; {fix}")))
    }

    /// A string parsed into something else, if it is there.
    pub(crate) fn parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, Reported> {
        self.text(key)?.map(|text| text.parsed()).transpose()
    }

    /// A list of strings. Empty when absent.
    pub(crate) fn texts(&self, key: &'static str) -> Result<Vec<Text<'a>>, Reported> {
        let mut texts = Vec::new();
        let mut failed = None;
        for (node, place) in self.elements(key)? {
            match &node.value {
                Value::Text(value) => texts.push(Text { value, place }),
                other => failed = Some(wrong_type(&place, "a string in quotes", other)),
            }
        }
        failed.map_or(Ok(texts), Err)
    }

    /// A list of strings, or a single one.
    pub(crate) fn texts_or_one(&self, key: &'static str) -> Result<Vec<Text<'a>>, Reported> {
        match self.ask(key) {
            Some((Value::Text(value), place)) => Ok(vec![Text { value, place }]),
            Some(_) | None => self.texts(key),
        }
    }

    /// A list of strings parsed into something else. Shows all that are wrong, not only the first.
    pub(crate) fn all_parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &'static str,
    ) -> Result<Vec<T>, Reported> {
        all(self.texts(key)?.iter().map(Text::parsed))
    }

    /// A list of objects. Empty when absent.
    pub(crate) fn sections<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Self) -> Result<T, Reported>,
    ) -> Result<Vec<T>, Reported> {
        all(self
            .elements(key)?
            .into_iter()
            .map(|(node, place)| match &node.value {
                Value::Table(members) => Self::new(place, members).finish(&mut read),
                other => Err(wrong_type(&place, "an object", other)),
            }))
    }

    fn elements(&self, key: &'static str) -> Result<Vec<(&'a Node, Place<'a>)>, Reported> {
        let Some((value, place)) = self.ask(key) else {
            return Ok(Vec::new());
        };
        let Value::List(nodes) = value else {
            return Err(wrong_type(&place, "a list in [ ]", value));
        };
        let located = nodes.iter().enumerate().map(|(index, node)| {
            let path = format!("{}[{index}]", place.path);
            (
                node,
                Place {
                    line: node.line,
                    path,
                    ..place.clone()
                },
            )
        });
        Ok(located.collect())
    }

    /// An object; an absent one reads like an empty one.
    pub(crate) fn section<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Self) -> Result<T, Reported>,
    ) -> Result<T, Reported> {
        match self.ask(key) {
            None => {
                let absent = Self::new(self.place(key), &[]);
                let is_there = false;
                Self { is_there, ..absent }.finish(read)
            }
            Some((Value::Table(members), place)) => Self::new(place, members).finish(read),
            Some((other, place)) => Err(wrong_type(&place, "an object in { }", other)),
        }
    }

    /// The members of an object whose keys are the operator's own, case and all; the last of equal ones wins.
    pub(crate) fn map(&self, key: &'static str) -> Result<Vec<(&'a str, Text<'a>)>, Reported> {
        let members: &[(String, Node)] = match self.ask(key) {
            None => &[],
            Some((Value::Table(members), _)) => members,
            Some((other, place)) => return Err(wrong_type(&place, "an object in { }", other)),
        };
        let base = self.place(key);
        all(members.iter().map(|(name, node)| {
            let path = format!("{}.{}", base.path, shown_key(name));
            let place = Place {
                line: node.line,
                path,
                ..base.clone()
            };
            match &node.value {
                Value::Text(value) => Ok((name.as_str(), Text { value, place })),
                other => Err(wrong_type(&place, "a string in quotes", other)),
            }
        }))
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, key: &'static str) -> Result<Option<bool>, Reported> {
        match self.ask(key) {
            None => Ok(None),
            Some((Value::Bool(value), _)) => Ok(Some(*value)),
            Some((other, place)) => Err(wrong_type(&place, "true or false", other)),
        }
    }

    /// A number, as it is written, and its place.
    pub(crate) fn number<T: FromStr>(
        &self,
        key: &'static str,
        what: &str,
    ) -> Result<Option<(T, Place<'a>)>, Reported> {
        match self.ask(key) {
            None => Ok(None),
            Some((Value::Number(text), place)) => match text.parse() {
                Ok(number) => Ok(Some((number, place))),
                Err(_) => Err(place.error(format_args!("{text} is out of range; write {what}"))),
            },
            Some((other, place)) => Err(wrong_type(&place, what, other)),
        }
    }
}

/// All results, or the news that at least one is an error; each has been recorded.
pub(crate) fn all<T>(results: impl Iterator<Item = Result<T, Reported>>) -> Result<Vec<T>, Reported> {
    let mut good = Vec::new();
    let mut failed = None;
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(reported) => failed = Some(reported),
        }
    }
    failed.map_or(Ok(good), Err)
}

/// Shows the type, never the value: it may be a secret in the wrong place.
fn wrong_type(place: &Place<'_>, wanted: &str, value: &Value) -> Reported {
    let found = match value {
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        Value::Number(_) => "a number",
        Value::Text(_) => "a string",
        Value::List(_) => "a list",
        Value::Table(_) => "an object",
    };
    place.error(format_args!("is {found}; write {wanted}"))
}

fn shown_key(key: &str) -> String {
    let cut: String = key.chars().take(60).collect();
    cut.escape_debug().to_string()
}

/// Whether two insertions, deletions or replacements at most lie between the words (Levenshtein).
fn within_two_edits(left: &str, right: &str) -> bool {
    let right: Vec<char> = right.chars().collect();
    // In a short word two edits can reach nearly anything.
    if right.len() < 5 || left.chars().count().abs_diff(right.len()) > 2 {
        return false;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut previous = line + 1;
        let mut next = vec![previous];
        for (to, above) in right.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(from != *to);
            previous = replaced.min(above + 1).min(previous + 1);
            diagonal = *above;
            next.push(previous);
        }
        row = next;
    }
    row.last().is_some_and(|edits| *edits <= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_are_recognised() {
        for (wrong, right, close) in [
            ("dnsname", "dnsnames", true),
            ("adress", "address", true),
            ("eab_hmac_keys", "eab_hmac_key", true),
            ("eab-kid", "eab_kid", true),
            ("provisoners", "provisioners", true),
            ("comment", "address", false),
            ("kid", "tls", false),
        ] {
            assert_eq!(within_two_edits(wrong, right), close, "{wrong}");
        }
    }
}
