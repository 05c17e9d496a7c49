//! What `--format` prints: Go templates as Docker's users write them, tables, and sizes and times for human eyes.
//!
//! - [`Template`] is an interpreter of Go's `text/template` over JSON values.
//! - [`list`] renders the rows of the commands that list something (`ps`, `images`, `volume ls`).
//! - [`table`] aligns columns as Go's tabwriter does, with Docker's settings.
//! - [`human`] writes sizes, ages and short ids as Docker writes them.
//!
//! Nothing here talks to a daemon or to the terminal.

pub(crate) mod human;
pub(crate) mod table;
mod template;

use serde_json::Value;

pub(crate) use template::Template;

/// The directive that asks for a table: `table`, or `table TEMPLATE`.
const TABLE: &str = "table";

/// The text of a listing command.
///
/// `spec` is the user's `--format`: none or `table` for `default_table` (a template without the directive, columns
/// separated by tabs), `table TEMPLATE` with a header, `json` for one object a line, or a plain template. `headers`
/// gives each field's column title. A row is a JSON object; what it holds under `Label`, an object, is reached as
/// `{{.Label "key"}}` and not shown by `json`.
///
/// # Errors
/// The text of what is wrong with the template.
pub(crate) fn list_text(
    spec: Option<&str>,
    default_table: &str,
    headers: &[(&str, &str)],
    rows: &[Value],
) -> Result<String, String> {
    let spec = spec.filter(|s| !s.is_empty()).unwrap_or(TABLE);
    let (source, is_table) = match spec.strip_prefix(TABLE) {
        Some("") => (default_table, true),
        Some(rest) => (rest, true),
        None if spec == "json" => ("{{json .}}", false),
        None => (spec, false),
    };
    // A shell passes \t and \n as two characters; Docker takes them for what they mean.
    let source = source.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
    let template = Template::parse(&source)?;
    let mut text = String::new();
    if is_table {
        text.push_str(&template.render_header(headers)?);
        text.push('\n');
    }
    for row in rows {
        text.push_str(&template.render_row(row)?);
        text.push('\n');
    }
    Ok(if is_table { table::align(&text) } else { text })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEADERS: &[(&str, &str)] = &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Status", "STATUS")];

    fn listed(spec: Option<&str>) -> Result<String, String> {
        let rows = [
            json!({"ID": "0123456789ab", "Names": "web", "Status": "Up 2 hours", "Label": {"com.example.tier-one": "front"}}),
            json!({"ID": "ba9876543210", "Names": "a-much-longer-name", "Status": "Created", "Label": {}}),
        ];
        list_text(spec, "{{.ID}}\t{{.Names}}\t{{.Status}}", HEADERS, &rows)
    }

    #[test]
    fn the_table_is_dockers() {
        let expected = "CONTAINER ID   NAMES                STATUS\n\
                        0123456789ab   web                  Up 2 hours\n\
                        ba9876543210   a-much-longer-name   Created\n";
        assert_eq!(listed(None).unwrap(), expected);
        assert_eq!(listed(Some("table")).unwrap(), expected);
        assert_eq!(listed(Some("")).unwrap(), expected);
    }

    #[test]
    fn a_table_of_ones_own_has_its_header() {
        assert_eq!(
            listed(Some(r#"table {{.Names}}\t{{upper .Status}}\t{{.Label "com.example.tier-one"}}"#))
                .unwrap(),
            "NAMES                STATUS       tier one\n\
             web                  UP 2 HOURS   front\n\
             a-much-longer-name   CREATED      \n"
        );
        assert_eq!(listed(Some("table {{truncate .ID 2}}")).unwrap(), "CONTAINER ID\n01\nba\n");
    }

    #[test]
    fn json_is_one_sorted_object_a_line() {
        assert_eq!(
            listed(Some("json")).unwrap(),
            "{\"ID\":\"0123456789ab\",\"Names\":\"web\",\"Status\":\"Up 2 hours\"}\n\
             {\"ID\":\"ba9876543210\",\"Names\":\"a-much-longer-name\",\"Status\":\"Created\"}\n"
        );
    }

    #[test]
    fn a_plain_template_has_no_header() {
        assert_eq!(
            listed(Some(r"{{.ID}}\t{{.Names}}")).unwrap(),
            "0123456789ab\tweb\nba9876543210\ta-much-longer-name\n"
        );
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error() {
        assert_eq!(
            listed(Some("{{.Nothing}}")).unwrap_err(),
            "template parsing error: template: :1:2: executing \"\" at <.Nothing>: can't evaluate field Nothing in this list"
        );
        assert!(listed(Some("table {{.Nothing}}")).is_err());
        assert!(
            listed(Some("{{.Label}}")).unwrap_err().ends_with("wrong number of args for Label: want 1 got 0")
        );
    }

    #[test]
    fn no_rows_leave_the_header_alone() {
        assert_eq!(list_text(None, "{{.ID}}\t{{.Names}}", HEADERS, &[]).unwrap(), "CONTAINER ID   NAMES\n");
        assert_eq!(list_text(Some("{{.ID}}"), "", HEADERS, &[]).unwrap(), "");
    }
}
