//! JSON as Go's `encoding/json` reads it: `null` is absent, a key may stand twice, and bytes after the first value do
//! not count. Every value remembers its line. What the keys mean is none of this file's business.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;

/// No `ca.json` is nested deeper; step-ca's own keys reach eight levels.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    /// The line, from 1.
    pub(crate) line: usize,
    /// The value.
    pub(crate) value: Value,
}

/// A JSON value other than `null`.
#[derive(Debug)]
pub(crate) enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Node>),
    /// An object, in its order, keys that stand twice included.
    Table(Vec<(String, Node)>),
}

/// The first value of a text.
#[derive(Debug)]
pub(crate) struct Document {
    /// The value; `None` for `null`.
    pub(crate) root: Option<Node>,
    /// The line of the first other thing that follows the value.
    pub(crate) trailing_line: Option<usize>,
}

/// The text is no JSON.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct SyntaxError {
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong, without the text itself: it may hold secrets.
    reason: String,
}

/// Reads the first JSON value of the text.
pub(crate) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let lines = Lines::new(text);
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let raw = match values.next() {
        Some(Ok(raw)) => raw,
        Some(Err(error)) => return Err(syntax_error(&error, 1)),
        None => {
            return Err(SyntaxError {
                line: 1,
                reason: "the file is empty; it must hold one JSON object".to_owned(),
            });
        }
    };
    let end = values.byte_offset();
    let rest = text.get(end..).unwrap_or_default();
    let trailing = rest.find(|c: char| !c.is_ascii_whitespace());
    Ok(Document {
        root: lines.node(raw, 0)?,
        trailing_line: trailing.map(|at| lines.at(end + at)),
    })
}

fn syntax_error(error: &serde_json::Error, first_line: usize) -> SyntaxError {
    let text = error.to_string();
    // The position in the library's text would be relative to the value that was read on its own.
    let reason = text.split(" at line ").next().unwrap_or_default();
    SyntaxError {
        line: first_line + error.line().saturating_sub(1),
        reason: format!("not valid JSON: {reason} (column {})", error.column()),
    }
}

struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Self { text, starts }
    }

    fn at(&self, offset: usize) -> usize {
        1 + self.starts.partition_point(|start| *start <= offset)
    }

    /// A raw value borrows from the text, so its address tells where it stands.
    fn line_of(&self, raw: &RawValue) -> usize {
        let offset = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.at(offset)
    }

    fn node(&self, raw: &'a RawValue, depth: usize) -> Result<Option<Node>, SyntaxError> {
        let line = self.line_of(raw);
        if depth > MAX_DEPTH {
            return Err(SyntaxError {
                line,
                reason: format!("nested deeper than {MAX_DEPTH} levels"),
            });
        }
        let text = raw.get();
        let value = match text.as_bytes().first() {
            Some(b'n') => return Ok(None),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'"') => Value::Text(read(text, line)?),
            Some(b'[') => {
                let mut list = Vec::new();
                for element in read::<Vec<&RawValue>>(text, line)? {
                    list.extend(self.node(element, depth + 1)?);
                }
                Value::List(list)
            }
            Some(b'{') => {
                let mut table = Vec::new();
                for (key, member) in read::<Members<'_>>(text, line)?.0 {
                    table.extend(self.node(member, depth + 1)?.map(|node| (key, node)));
                }
                Value::Table(table)
            }
            Some(_) | None => Value::Number(text.to_owned()),
        };
        Ok(Some(Node { line, value }))
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, line: usize) -> Result<T, SyntaxError> {
    serde_json::from_str(text).map_err(|error| syntax_error(&error, line))
}

/// An object's members as they stand; a map would lose those whose key stands twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Collect).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Vec<(String, Node)> {
        match parse(text).unwrap().root.unwrap().value {
            Value::Table(table) => table,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_value_remembers_its_line() {
        let table = table("{\n  \"a\": 1,\r\n  \"b\": {\n    \"c\":\n      [true,\n\"x\"]}}");
        let (a, b) = (&table[0].1, &table[1].1);
        assert_eq!((a.line, b.line), (2, 3));
        let Value::Table(inner) = &b.value else { panic!() };
        let Value::List(list) = &inner[0].1.value else {
            panic!()
        };
        assert_eq!((inner[0].1.line, list[1].line), (5, 6));
    }

    #[test]
    fn null_is_absent_and_twice_written_keys_stay() {
        let table = table(r#"{"a": null, "b": 1, "b": [null, 2]}"#);
        assert_eq!(table.len(), 2);
        assert!(matches!(&table[1].1.value, Value::List(list) if list.len() == 1));
        assert!(parse("null").unwrap().root.is_none());
    }

    #[test]
    fn bytes_after_the_first_value_do_not_count() {
        let document = parse("{}\n\n}garbage").unwrap();
        assert_eq!(document.trailing_line, Some(3));
        assert_eq!(parse("{}\n ").unwrap().trailing_line, None);
    }

    #[test]
    fn a_syntax_error_has_a_line_and_never_the_text() {
        for (text, line) in [
            ("", 1),
            ("{\n\"secret\": \"canary\",\n}", 3),
            ("{\n\"secret\": canary}", 2),
            ("{\n\n\"secret\": \"can\nary\"}", 3),
            ("{\n\"a\":\n\"\\ud800canary\"}", 3),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(parse(&deep).unwrap_err().to_string().contains("64"));
    }
}
