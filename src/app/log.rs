//! The log on standard error: `text`, `json` or `common`, with the Go program's names of a request's fields (logrus'
//! forms), and what the audit log gets. Whatever clients and CAs write is escaped: a line is one event, always.

mod stderr;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use anyhow::{Context as _, anyhow};
use prometheus::IntCounter;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::app::audit::Audit;
use crate::app::log::stderr::Stderr;
use crate::clock::Clock;
use crate::config::{LogFormat, Logger};
use crate::store::audited::TARGET as AUDIT_ONLY;

/// The variable that says what is logged.
const FILTER: &str = "ACME_PROXY_LOG";

/// Where requests are logged.
const REQUESTS: &str = "acme_proxy::server::access_log";

/// The longest value that is logged, in bytes: a chain that the CA must not have issued is evidence.
const MAX_VALUE: usize = 32 * 1024;

/// What the Common Log Format shows of a request, in its order.
const COMMON: [&str; 11] = [
    "request-id",
    "remote-address",
    "name",
    "user-id",
    "fields.time",
    "duration-ns",
    "method",
    "path",
    "protocol",
    "status",
    "size",
];

/// Where changes of records are made. The audit log hears of them from the store, once they are on the disk.
const REPORTED: [&str; 3] = ["acme_proxy::ra", "acme_proxy::server", "acme_proxy::worker"];

/// Where a certificate is withheld that was not ordered, which changes no record.
const MISMATCHES: &str = "acme_proxy::worker::collection";

static LOGS: OnceLock<Arc<Logs>> = OnceLock::new();

/// The logs of the process.
pub(crate) struct Logs {
    format: RwLock<LogFormat>,
    /// Requests for `/health` that are answered well are left out.
    hides_health: bool,
    stderr: Stderr,
    pub(crate) audit: Audit,
}

/// What an event, or the work that it belongs to, says of itself.
pub(crate) type Fields = BTreeMap<String, Value>;

/// Starts to log. What is logged before is lost.
///
/// # Errors
///
/// The system's.
pub fn start(logger: &Logger, quiet: bool) -> anyhow::Result<()> {
    let level = if quiet { "warn" } else { "info" };
    let filter = match std::env::var_os(FILTER) {
        Some(wanted) if !wanted.is_empty() => {
            let unreadable =
                |why: &str| anyhow!("{FILTER} says no level of the log ({why}); write e.g. {FILTER}=debug");
            let wanted = wanted.to_str().ok_or_else(|| unreadable("it is no text"))?;
            EnvFilter::try_new(wanted).map_err(|error| unreadable(&error.to_string()))?
        }
        Some(_) | None => EnvFilter::new(level),
    };
    let hides_health = std::env::var("STEP_LOGGER_ONLY_TRACE_HEALTH_ENDPOINT");
    let dropped = |lines: u64| {
        let message = "lines of the log were dropped, because nobody took them in time";
        let fields = Fields::from([("lines".to_owned(), lines.into())]);
        logs().map_or_else(String::new, |logs| logs.line(&Level::WARN, message, fields))
    };
    let stderr = Stderr::start(std::io::stderr(), dropped).context("starting the log's thread")?;
    let logs = Arc::new(Logs {
        format: RwLock::new(logger.format),
        hides_health: hides_health
            .is_ok_and(|value| ["1", "t", "T", "true", "TRUE", "True"].contains(&value.as_str())),
        stderr,
        audit: Audit::default(),
    });
    if LOGS.set(Arc::clone(&logs)).is_err() {
        return Ok(());
    }
    // Otherwise it would wait for whoever reads the standard error.
    std::panic::set_hook(Box::new(log_panic));
    let is_ours = |target: &str| target.starts_with("acme_proxy");
    let contexts = Contexts.with_filter(filter_fn(move |data| data.is_span() && is_ours(data.target())));
    let lines = Lines(Arc::clone(&logs)).with_filter(filter);
    // Whatever level is logged.
    let audited = Audited(logs).with_filter(filter_fn(move |data| {
        let target = data.target();
        let is_reported = target != MISMATCHES && REPORTED.iter().any(|module| target.starts_with(module));
        is_ours(target) && (data.is_span() || (data.fields().field("audit").is_some() && !is_reported))
    }));
    tracing_subscriber::registry()
        .with(contexts)
        .with(lines)
        .with(audited)
        .init();
    Ok(())
}

/// Ends the logs: what waits is written, if it can be. Nothing that is logged later counts.
pub fn finish() {
    if let Some(logs) = logs() {
        logs.audit.finish();
        logs.stderr.flush();
    }
}

/// Counts the lines that are dropped.
pub(crate) fn count_dropped(counter: &IntCounter) {
    if let Some(logs) = logs() {
        logs.stderr.count_by(counter);
    }
}

/// Logs a panic. Of the work in which it happens nothing is asked: that may be in any state.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let Some(logs) = logs() else {
        return;
    };
    let place = panic.location().map(ToString::to_string);
    let fields = Fields::from([
        ("error".to_owned(), said_by(panic.payload()).into()),
        ("place".to_owned(), place.into()),
    ]);
    let line = logs.line(&Level::ERROR, "a part of the program has panicked", fields);
    logs.stderr.write(&line);
}

fn said_by(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or(panic.downcast_ref::<&str>().copied())
        .unwrap_or_default()
}

impl Logs {
    fn format(&self) -> LogFormat {
        *self.format.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line that is no request's.
    fn line(&self, level: &Level, message: &str, fields: Fields) -> String {
        let line = match self.format() {
            LogFormat::Json => json(level, message, fields),
            LogFormat::Text | LogFormat::Common | LogFormat::Off => text(level, message, &fields),
        };
        line + "\n"
    }
}

/// The logs, if logging has started.
pub(crate) fn logs() -> Option<&'static Arc<Logs>> {
    LOGS.get()
}

/// From now on requests are logged in this format.
pub(crate) fn change_format(format: LogFormat) {
    if let Some(logs) = logs() {
        *logs.format.write().unwrap_or_else(PoisonError::into_inner) = format;
    }
}

#[derive(Default)]
struct Collected(Fields);

impl Collected {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Collected {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// Keeps what the requests and jobs under way say of themselves.
struct Contexts;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Contexts {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut collected = Collected::default();
        attributes.record(&mut collected);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(collected);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(collected) = span.extensions_mut().get_mut::<Collected>()
        {
            values.record(collected);
        }
    }
}

/// What the event says, and what the work says that it belongs to.
fn fields_of<S: Subscriber + for<'a> LookupSpan<'a>>(event: &Event<'_>, context: &Context<'_, S>) -> Fields {
    let mut collected = Collected::default();
    event.record(&mut collected);
    let mut fields = collected.0;
    for span in context.event_scope(event).into_iter().flatten() {
        if let Some(Collected(known)) = span.extensions().get() {
            for (name, value) in known {
                fields.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    // A request's own line has it under the Go program's name.
    if fields.contains_key("request-id") {
        fields.remove("request.id");
    }
    fields
}

/// Writes the lines.
struct Lines(Arc<Logs>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (data, logs) = (event.metadata(), &self.0);
        let is_request = data.target() == REQUESTS;
        let format = logs.format();
        // That a request has failed by our fault is logged in any case: its cause is told nowhere else.
        if data.target() == AUDIT_ONLY
            || (is_request && format == LogFormat::Off && *data.level() != Level::ERROR)
        {
            return;
        }
        let mut fields = fields_of(event, &context);
        let said = |name: &str| fields.get(name).and_then(Value::as_str);
        if is_request && logs.hides_health && *data.level() == Level::INFO && said("path") == Some("/health")
        {
            return;
        }
        let message = fields.remove("message");
        let message = message.as_ref().and_then(Value::as_str).unwrap_or_default();
        if *data.level() >= Level::DEBUG {
            fields.insert("target".to_owned(), data.target().into());
        }
        let line = match format {
            LogFormat::Common if is_request => common(&fields) + "\n",
            _ => logs.line(data.level(), message, fields),
        };
        logs.stderr.write(&line);
    }
}

/// Hands events to the audit log.
struct Audited(Arc<Logs>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Audited {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = fields_of(event, &context);
        fields.remove("audit");
        let message = fields.remove("message");
        let message = message.as_ref().and_then(Value::as_str).unwrap_or_default();
        self.0.audit.write(message, fields);
    }
}

/// logrus' names.
fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn now() -> String {
    Clock::system().now().to_string()
}

/// logrus' text: `key=value`, quoted where that is needed.
fn text(level: &Level, message: &str, fields: &Fields) -> String {
    let mut line = format!("time={} level={}", quoted(&now()), level_name(level));
    if !message.is_empty() {
        line.push_str(" msg=");
        line.push_str(&quoted(message));
    }
    for (name, value) in fields {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        line.push_str(&match value {
            Value::String(names) if name == "sans" => quoted(&format!("[{names}]")),
            Value::String(text) => quoted(text),
            other => quoted(&other.to_string()),
        });
    }
    line
}

/// logrus' JSON.
fn json(level: &Level, message: &str, mut fields: Fields) -> String {
    for (name, value) in &mut fields {
        if let Value::String(text) = value {
            *value = match name == "sans" {
                true => text.split(' ').map(str::to_owned).collect(),
                false => shortened(text).into(),
            };
        }
    }
    fields.insert("time".to_owned(), now().into());
    fields.insert("level".to_owned(), level_name(level).into());
    fields.insert("msg".to_owned(), shortened(message).into());
    printable(&Value::Object(fields.into_iter().collect()).to_string())
}

/// `id address name user time milliseconds "method path protocol" status size`.
fn common(fields: &Fields) -> String {
    let shown = COMMON.map(|name| match fields.get(name) {
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text).replace('"', "%22").replace(' ', "%20"),
        Some(Value::Number(number)) if name == "duration-ns" => {
            (number.as_u64().unwrap_or_default() / 1_000_000).to_string()
        }
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    });
    let [
        id,
        address,
        name,
        user,
        time,
        duration,
        method,
        path,
        protocol,
        status,
        size,
    ] = shown;
    format!("{id} {address} {name} {user} {time} {duration} \"{method} {path} {protocol}\" {status} {size}")
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_VALUE))
        .unwrap_or_default()
}

/// As it is, if it is plain; otherwise as a JSON string.
fn quoted(text: &str) -> String {
    let text = shortened(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => printable(&Value::from(text).to_string()),
    }
}

/// JSON, with everything escaped that a terminal would obey or not show.
pub(crate) fn printable(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // What `Debug` escapes is what is not printed.
        if c.is_control() || (!c.is_ascii() && c.escape_debug().count() > 1) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Fields {
        let fields = [
            ("request-id", "r1".into()),
            ("remote-address", "192.0.2.1".into()),
            ("name", "ca".into()),
            ("user-id", "".into()),
            ("fields.time", "2026-11-22T13:00:00Z".into()),
            ("duration-ns", 12_345_678.into()),
            ("method", "GET".into()),
            ("path", "/acme/acme/directory".into()),
            ("protocol", "HTTP/1.1".into()),
            ("status", 200.into()),
            ("size", 1234.into()),
            ("user-agent", "lego \"x\"\n\u{1b}[31m\u{202e}".into()),
            ("sans", "a.example.com b.example.com".into()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn the_common_format_is_the_go_programs() {
        assert_eq!(
            common(&request()),
            "r1 192.0.2.1 ca - 2026-11-22T13:00:00Z 12 \"GET /acme/acme/directory HTTP/1.1\" 200 1234"
        );
        let hostile = Fields::from([("path".to_owned(), "/\" 200 1\nx".into())]);
        assert_eq!(common(&hostile), "- - - - - - \"- /%22%20200%201\\u000ax -\" - -");
    }

    #[test]
    fn c1201_nothing_that_a_client_sends_ends_a_line_or_reaches_a_terminal() {
        let text = text(&Level::INFO, "", &request());
        let json = json(&Level::WARN, "", request());
        for line in [&text, &json] {
            assert!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line}");
        }
        assert!(
            text.contains(r#"user-agent="lego \"x\"\n\u001b[31m\u202e""#),
            "{text}"
        );
        assert!(text.ends_with(" user-id="), "{text}");
        assert!(text.contains(r#"sans="[a.example.com b.example.com]""#), "{text}");
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["user-agent"], "lego \"x\"\n\u{1b}[31m\u{202e}");
        assert_eq!(
            read["sans"],
            serde_json::json!(["a.example.com", "b.example.com"])
        );
        assert_eq!((&read["level"], &read["msg"]), (&"warning".into(), &"".into()));
    }
}
