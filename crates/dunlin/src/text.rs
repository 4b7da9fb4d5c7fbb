//! Text for people: errors, tables, quantities.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Prints an error and its causes to standard error, each once.
pub(crate) fn error(error: &dyn Error) {
    let (bold, plain) = style();
    let mut text = format!("{bold}error:{plain} {error}\n");
    let mut last = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if message != last {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  because: {message}");
        }
        last = message;
        cause = error.source();
    }
    say(&text);
}

/// Prints what was asked for to standard output. Whoever reads it may stop doing so.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints to standard error, if anybody listens.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Prints one line of progress or news to standard error.
pub(crate) fn note(text: impl AsRef<str>) {
    say(&format!("dunlin: {}\n", text.as_ref()));
}

/// The escape sequences around the word that catches the eye, if standard error is a terminal that shows colour.
fn style() -> (&'static str, &'static str) {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && std::io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") }
}

/// A table: its columns are as wide as their widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Which columns are numbers, and stand to the right.
    numbers: Vec<bool>,
}

impl Table {
    /// A table with these headings; one that begins with `>` is of a column of numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let numbers = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let first = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![first], numbers }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table, each line after `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let mut widths = vec![0; self.numbers.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((cell, width), number) in row.iter().zip(&widths).zip(&self.numbers) {
                let space = " ".repeat(width - cell.chars().count());
                let (before, after) = if *number { (space.as_str(), "") } else { ("", space.as_str()) };
                let _ = write!(line, "{before}{cell}{after}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Milliseconds, for reports.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    // Whole nanoseconds: more digits would not mean anything.
    (time.as_secs_f64() * 1e9).round() / 1e6
}

/// A duration with three significant digits.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 0.9995 => (s, "s"),
        s if s >= 0.999_5e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value >= 99.95 { 0 } else { usize::from(value < 99.95) + usize::from(value < 9.995) };
    format!("{value:.digits$} {unit}")
}

/// A duration given in milliseconds.
pub(crate) fn time_of(milliseconds: f64) -> String {
    time(Duration::from_secs_f64(milliseconds.max(0.0) / 1e3))
}

/// The time of day, UTC, of a moment in seconds since the Unix epoch.
pub(crate) fn clock(seconds: f64) -> String {
    let milliseconds = (seconds.max(0.0) * 1e3) as u64;
    let (days, rest) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// The date of a day since the Unix epoch, in the Gregorian calendar: 400 years have 146,097 days, and a year that
/// begins in March has its leap day at its end.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Asks a person; without a terminal nobody can answer, and that is an error.
pub(crate) fn confirm(question: &str) -> crate::failure::Result<bool> {
    use crate::failure::{Exit, Failure};
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "nobody is there to confirm it: use --yes"));
    }
    say(&format!("{question} [y/N] "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::because(Exit::Software, "the answer cannot be read"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A number of bytes with three significant digits.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95) + usize::from(value < 9.995);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Text from a module or snapshot: nothing in it may move a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A number with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits() {
        let times = [0.0, 2.5e-6, 1e-3, 0.012_345, 0.25, 0.9999, 12.0, 123.4].map(Duration::from_secs_f64).map(time);
        assert_eq!(times, ["0.00 µs", "2.50 µs", "1.00 ms", "12.3 ms", "250 ms", "1.00 s", "12.0 s", "123 s"]);
        assert_eq!([0, 1023, 1024, 5 << 20, 1 << 30].map(bytes), ["0 B", "1023 B", "1.00 KiB", "5.00 MiB", "1.00 GiB"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(["a".to_owned(), "10".to_owned()]);
        table.row(["longer".to_owned(), "9".to_owned()]);
        assert_eq!(table.render(" "), " name    size\n a         10\n longer     9\n");
    }

    #[test]
    fn clocks() {
        assert_eq!(clock(0.0), "1970-01-01T00:00:00.000Z");
        assert_eq!(clock(951_782_400.5), "2000-02-29T00:00:00.500Z");
        assert_eq!(clock(1_735_689_599.999), "2024-12-31T23:59:59.999Z");
        assert_eq!(clock(4_107_542_400.0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("a\x1b[2Jé"), "a\\u{1b}[2Jé");
    }
}
