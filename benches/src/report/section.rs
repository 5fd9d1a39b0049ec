//! One part of the report: figures held against their targets, notes and tables.

use std::fmt::Write;

/// A figure and what it should be.
#[derive(Debug)]
struct Figure {
    name: String,
    measured: String,
    target: String,
    met: Option<bool>,
}

/// A part of the report.
#[derive(Debug)]
pub(super) struct Section {
    title: String,
    notes: Vec<String>,
    figures: Vec<Figure>,
    tables: Vec<String>,
}

impl Section {
    pub(super) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            notes: Vec::new(),
            figures: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// A part that could not be measured, and why.
    pub(super) fn broken(title: &str, error: &str) -> Self {
        let mut section = Self::new(title);
        section.note(format!("Not measured: {error}"));
        section.figures.push(Figure {
            name: "measured".to_owned(),
            measured: "no".to_owned(),
            target: "yes".to_owned(),
            met: Some(false),
        });
        section
    }

    /// Adds a paragraph: how it was measured.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a figure that should be at least `target`; the unit stands with its space.
    pub(super) fn at_least(
        &mut self,
        name: impl Into<String>,
        value: f64,
        target: f64,
        unit: &str,
    ) {
        self.figure(
            name,
            value,
            format!("≥ {}{unit}", number(target)),
            value >= target,
            unit,
        );
    }

    /// Adds a figure that should be at most `target`; the unit stands with its space.
    pub(super) fn at_most(&mut self, name: impl Into<String>, value: f64, target: f64, unit: &str) {
        self.figure(
            name,
            value,
            format!("≤ {}{unit}", number(target)),
            value <= target,
            unit,
        );
    }

    fn figure(
        &mut self,
        name: impl Into<String>,
        value: f64,
        target: String,
        met: bool,
        unit: &str,
    ) {
        let measured = format!("{}{unit}", number(value));
        self.figures.push(Figure {
            name: name.into(),
            measured,
            target,
            met: Some(met),
        });
    }

    /// Adds a figure without a target.
    pub(super) fn inform(&mut self, name: impl Into<String>, measured: impl Into<String>) {
        let (name, measured) = (name.into(), measured.into());
        self.figures.push(Figure {
            name,
            measured,
            target: String::new(),
            met: None,
        });
    }

    /// Adds a table: the heading, then the rows, each with as many cells.
    pub(super) fn table(&mut self, heading: &[&str], rows: &[Vec<String>]) {
        let mut table = format!(
            "| {} |\n|---{}|\n",
            heading.join(" | "),
            "|---:".repeat(heading.len() - 1)
        );
        for row in rows {
            table.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        self.tables.push(table);
    }

    pub(super) fn to_markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        for note in &self.notes {
            text.push_str(note);
            text.push_str("\n\n");
        }
        if !self.figures.is_empty() {
            text.push_str("| figure | measured | target | |\n|---|---:|---:|---|\n");
        }
        for Figure {
            name,
            measured,
            target,
            met,
        } in &self.figures
        {
            let mark = match met {
                Some(true) => "ok",
                Some(false) => "**MISSED**",
                None => "",
            };
            writeln!(text, "| {name} | {measured} | {target} | {mark} |")
                .expect("a String takes every write");
        }
        if !self.figures.is_empty() {
            text.push('\n');
        }
        for table in &self.tables {
            text.push_str(table);
            text.push('\n');
        }
        text
    }
}

/// With as many digits as are worth reading.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Section;

    #[test]
    fn a_missed_target_is_marked() {
        let mut section = Section::new("Speed");
        section.at_least("throughput", 0.7, 0.8, "");
        section.at_most("start", 120.4, 200.0, " ms");
        section.at_most("nothing measured", f64::NAN, 1.0, "");
        section.inform("memory", "12 MiB");
        let text = section.to_markdown();
        assert!(
            text.contains("| throughput | 0.70 | ≥ 0.80 | **MISSED** |"),
            "{text}"
        );
        assert!(
            text.contains("| start | 120 ms | ≤ 200 ms | ok |"),
            "{text}"
        );
        assert!(
            text.contains("| nothing measured | NaN | ≤ 1 | **MISSED** |"),
            "{text}"
        );
        assert!(text.contains("| memory | 12 MiB |  |  |"), "{text}");
    }
}
