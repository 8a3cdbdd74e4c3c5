//! Answers of the server as people read them.

use std::io::{self, Write};

use serde_json::Value;

/// Entries as a table: a heading and the field for each column.
pub fn table(out: &mut impl Write, columns: &[(&str, &str)], entries: &[Value]) -> io::Result<()> {
    let heading = columns.iter().map(|(heading, _)| (*heading).to_owned());
    let mut rows: Vec<Vec<String>> = vec![heading.collect()];
    for entry in entries {
        let cells = columns.iter().map(|(_, field)| cell(entry.get(*field)));
        rows.push(cells.collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

/// An object as a line for each field.
pub fn fields(out: &mut impl Write, object: &Value) -> io::Result<()> {
    let Some(object) = object.as_object() else {
        return Ok(());
    };
    let width = object.keys().map(|key| key.chars().count()).max();
    let width = width.unwrap_or(0);
    for (key, value) in object {
        writeln!(out, "{key:width$}  {}", cell(Some(value)))?;
    }
    Ok(())
}

/// JSON as the server gave it, indented.
pub fn json(out: &mut impl Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A value in a cell. Control characters, which peers may have put there, do not reach the terminal.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.is_empty() => "-".to_owned(),
        Some(Value::Object(map)) if map.is_empty() => "-".to_owned(),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            let words = list.iter().filter_map(Value::as_str);
            words.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    };
    text.chars()
        .map(|letter| {
            if letter.is_control() {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_straight_columns_and_no_escapes() {
        let entries = [
            json!({"user": "alice@im.test", "contacts": 1}),
            json!({"user": "b\u{1b}[31m", "contacts": 12, "list": ["a", "b"]}),
        ];
        let columns = [("USER", "user"), ("CONTACTS", "contacts"), ("LIST", "list")];
        let mut out = Vec::new();
        table(&mut out, &columns, &entries).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "USER           CONTACTS  LIST\n\
                        alice@im.test  1         -\n\
                        b\u{fffd}[31m         12        a,b\n";
        assert_eq!(text, expected);
    }
}
