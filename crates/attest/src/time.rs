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

/// Seconds since 1970 as people read them. Numbers beyond the year 9999 are no dates.
pub(crate) struct Utc(pub(crate) u64);

impl core::fmt::Display for Utc {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self(seconds) = *self;
        if seconds >= 253_402_300_800 {
            return write!(f, "{seconds} seconds after 1970");
        }
        // Days of eras of 400 years that begin on the first of March, so that a leap day is a year's last one.
        let days = seconds / 86_400 + 719_468;
        let of_era = days % 146_097;
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
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
    #[test]
    fn instants_are_written_as_they_are_read() {
        // Every day of more than two eras, each at another second.
        for day in 0..300_000_u64 {
            let seconds = day * 86_400 + day * 7919 % 86_400;
            if let Ok(at) = Utc(seconds).to_string().parse() {
                assert_eq!(unix_seconds(&at), Some(seconds));
            } else {
                panic!("{} is no date", Utc(seconds));
            }
        }
        assert_eq!(Utc(1_795_193_405).to_string(), "2026-11-20T16:50:05Z");
        assert_eq!(Utc(253_402_300_799).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Utc(u64::MAX).to_string(), "18446744073709551615 seconds after 1970");
    }
}
