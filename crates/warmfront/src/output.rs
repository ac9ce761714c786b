//! Output formats: a table for people, JSON for scripts. Data goes to standard output, messages to standard error.

use std::io::Write;

use clap::ValueEnum;
use serde_json::Value;

/// The form of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For scripts: one JSON value
    Json,
}

impl Output {
    /// Shows one object with named properties.
    pub(crate) fn object(self, value: &Value) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match (self, value) {
            (Output::Table, Value::Object(fields)) => {
                let width = fields.keys().map(String::len).max().unwrap_or(0);
                for (name, value) in fields {
                    writeln!(out, "{name:width$}  {}", text(value))?;
                }
            }
            _ => writeln!(out, "{value}")?,
        }
        Ok(())
    }

    /// Shows objects that all have the properties `columns`.
    pub(crate) fn rows(self, columns: &[&str], rows: &[Value]) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self {
            Output::Json => writeln!(out, "{}", Value::Array(rows.to_vec()))?,
            Output::Table => {
                let mut table = table(columns);
                for row in rows {
                    table.add_row(columns.iter().map(|column| text(&row[*column])));
                }
                writeln!(out, "{table}")?;
            }
        }
        Ok(())
    }
}

/// A table without borders, as people pipe it into other programs.
pub(crate) fn table(columns: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(columns.iter().map(|column| column.to_uppercase()));
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_read_lists_without_brackets() {
        let cases = [
            (json!("a"), "a"),
            (json!(null), ""),
            (json!(7), "7"),
            (json!(["alice", "bob"]), "alice, bob"),
            (json!([]), ""),
            (json!({ "url": 5, "preload": 7 }), "preload=7, url=5"),
            (json!({}), ""),
        ];
        for (value, shown) in cases {
            assert_eq!(text(&value), shown);
        }
    }
}
