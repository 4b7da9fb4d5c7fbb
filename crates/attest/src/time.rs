//! Dates of a policy as seconds since 1970, without a clock.

use toml::value::Datetime;

/// Seconds since 1970-01-01T00:00:00Z of a TOML date-time that names its offset.
pub(crate) fn unix_seconds(at: &Datetime) -> Option<u64> {
    let (date, time) = (at.date?, at.time?);
    let offset = match at.offset? {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes) * 60,
    };
    let (hour, minute, second) =
        (i64::from(time.hour), i64::from(time.minute), i64::from(time.second.unwrap_or_default()));
    let seconds = days_from_civil(date.year.into(), date.month.into(), date.day.into()) * 86_400
        + hour * 3600
        + minute * 60
        + second
        - offset;
    u64::try_from(seconds).ok()
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let seconds = |text: &str| unix_seconds(&text.parse().unwrap());
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2026-11-20T16:50:05Z"), Some(1_795_193_405));
        assert_eq!(seconds("2024-02-29T01:30:00+01:30"), Some(1_709_164_800));
        assert_eq!(seconds("1969-12-31T23:59:59Z"), None);
        assert_eq!(seconds("2026-11-20T16:50:05"), None, "no offset");
    }
}
