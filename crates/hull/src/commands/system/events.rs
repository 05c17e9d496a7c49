//! `events`.

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::Query;
use crate::commands::shared::timestamp;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::Template;
use crate::outln;

/// `events`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull events --since 10m --filter type=container
  hull events --filter event=die --format '{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}'")]
pub struct EventsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

/// `hull events`.
pub async fn events(args: EventsArgs, context: &Context) -> Result<ExitStatus, Error> {
    let spec = args.format.as_deref().filter(|spec| !spec.is_empty());
    let raw = matches!(spec.map(str::trim), Some("json" | "{{json .}}" | "{{ json . }}"));
    let template = spec.filter(|_| !raw).map(Template::parse).transpose().map_err(Error::new)?;
    let now = Timestamp::now();
    let time =
        |text: Option<String>| text.filter(|t| !t.is_empty()).map(|t| timestamp::parse(&t, now)).transpose();
    let path = Query::new("/events")
        .with_some("since", time(args.since)?)
        .with_some("until", time(args.until)?)
        .with_filters(&args.filter)?;
    let mut stream = context.client.stream(&path).await?.json_stream();
    while let Some(event) = stream.next().await? {
        match &template {
            _ if raw => outln!("{event}")?,
            Some(template) => outln!("{}", template.render(&go_names(&event)).map_err(Error::new)?)?,
            None => outln!("{}", line(&event))?,
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// An event with its fields named as a template of Docker's names them; in JSON some are in lower case.
fn go_names(event: &Value) -> Value {
    json!({
        "Status": event["status"].as_str().unwrap_or_default(),
        "ID": event["id"].as_str().unwrap_or_default(),
        "From": event["from"].as_str().unwrap_or_default(),
        "Type": event["Type"],
        "Action": event["Action"],
        "Actor": event["Actor"],
        "Scope": event["scope"].as_str().unwrap_or_default(),
        "Time": event["time"],
        "TimeNano": event["timeNano"],
    })
}

/// `2026-11-24T02:18:30.657915068Z volume create v1 (driver=local)`.
fn line(event: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanoseconds = event["timeNano"].as_i64().filter(|n| *n != 0);
    let nanoseconds = nanoseconds
        .unwrap_or_else(|| event["time"].as_i64().unwrap_or_default().saturating_mul(1_000_000_000));
    let mut line = local_time(nanoseconds);
    for part in [&event["Type"], &event["Action"], &event["Actor"]["ID"]] {
        line.push(' ');
        line.push_str(&word(part));
    }
    let attributes = event["Actor"]["Attributes"].as_object();
    let mut pairs: Vec<String> =
        attributes.into_iter().flatten().map(|(key, value)| format!("{key}={}", word(value))).collect();
    if !pairs.is_empty() {
        pairs.sort();
        line.push_str(&format!(" ({})", pairs.join(", ")));
    }
    line
}

/// RFC 3339 in the local zone with all nine digits.
fn local_time(nanoseconds: i64) -> String {
    let Ok(time) = Timestamp::from_nanosecond(i128::from(nanoseconds)) else { return String::new() };
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let zone = if zoned.offset().is_zero() { "Z" } else { "%:z" };
    zoned.strftime(&format!("%Y-%m-%dT%H:%M:%S.%9f{zone}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_event() {
        let event = json!({"Type": "image", "Action": "tag", "Actor": {"ID": "abc", "Attributes": {"name": "t:1", "a.b": "c"}},
                           "time": 1, "timeNano": 1_500_000_000});
        assert!(
            line(&event).ends_with(".500000000Z image tag abc (a.b=c, name=t:1)")
                || !line(&event).contains('Z')
        );
        let event = json!({"Type": "volume", "Action": "create", "Actor": {"ID": "v"}, "time": 1});
        assert!(line(&event).ends_with(" volume create v"));
    }

    #[test]
    fn templates_see_docker_names() {
        let event = json!({"status": "die", "id": "abc", "Type": "container", "Action": "die", "time": 5, "timeNano": 6,
                           "Actor": {"ID": "abc", "Attributes": {"name": "n"}}});
        let template = Template::parse(
            "{{.Status}} {{.ID}} {{.Actor.Attributes.name}} {{.Actor.Attributes.x}} {{.Time}}",
        )
        .unwrap();
        assert_eq!(template.render(&go_names(&event)).unwrap(), "die abc n <no value> 5");
    }
}
