//! The daemon's messages, on its standard error.

use std::fmt;
use std::io::IsTerminal;

use hull_engine::container::rfc3339;
use hull_engine::system::now_ns;
use hull_engine::{Error, Result};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Sets how much is logged from now on.
pub(super) type SetLevel = Box<dyn Fn(Level) -> Result<()> + Send + Sync>;

/// Messages go to standard error, as text or as an object a line; how many of them, the answer sets anew.
pub(super) fn log_to_standard_error(level: Level, json: bool) -> SetLevel {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let set_up = match json {
        true => registry.with(lines.event_format(Objects)).try_init(),
        false => registry.with(lines).try_init(),
    };
    if set_up.is_err() {
        eprintln!("hull daemon: messages were set up before");
    }
    Box::new(move |level| {
        let changed = handle.reload(LevelFilter::from_level(level));
        changed.map_err(|error| Error::system("change the log's level", error))
    })
}

/// A message is a JSON object with Docker's keys `level`, `msg` and `time`, and the message's own.
struct Objects;

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = Object(Map::new());
        event.record(&mut object);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        object.0.insert("level".to_owned(), level.into());
        object.0.insert("time".to_owned(), rfc3339(now_ns()).into());
        writeln!(writer, "{}", Value::Object(object.0))
    }
}

/// What a message says, by its fields' names.
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Object {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_message_is_an_object_of_a_line() {
        let kept = Kept::default();
        let to = kept.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || to.clone()).event_format(Objects);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::warn!(container = "a\"b", number = 7, error = %"x\ny", "it\nfailed");
        });
        let line = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let mut object: Value = serde_json::from_str(&line).unwrap();
        assert!(object["time"].take().as_str().is_some_and(|time| time.ends_with('Z')));
        let expected = serde_json::json!({
            "level": "warning", "msg": "it\nfailed", "container": "a\"b", "number": 7, "error": "x\ny", "time": null,
        });
        assert_eq!(object, expected);
    }
}
