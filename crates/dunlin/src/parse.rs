//! How sizes, durations, directories and variables are written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use dunlin_host::Mount;

/// `250ms`, `1.5s`, `90us`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write a number and us, ms, s or m, as in 250ms");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// `65536`, `64KiB`, `1.5GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write a number of bytes, or with KiB, MiB or GiB, as in 512MiB");
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    let bytes = number * f64::from(1_u32 << shift);
    if bytes < 2_f64.powi(63) { Ok(bytes as u64) } else { Err(wrong()) }
}

fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number = text[..end].parse().ok()?;
    Some((number, &text[end..]))
}

/// `HOST::GUEST`, `HOST::GUEST::ro`, or `HOST` alone, which the program sees under the same path.
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split("::").collect();
    let (host, guest, writable) = match parts[..] {
        [host] => (host, host, true),
        [host, guest] => (host, guest, true),
        [host, guest, "ro"] => (host, guest, false),
        _ => ("", "", false),
    };
    if host.is_empty() || guest.is_empty() {
        return Err(format!(
            "{text:?} names no directory: write HOST::GUEST, as in ./data::/data, or HOST::GUEST::ro to forbid changes"
        ));
    }
    Ok(Mount { host: PathBuf::from(host), guest: guest.to_owned(), writable })
}

/// The store of a private volume, and where the program sees the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) store: PathBuf,
    pub(crate) guest: Option<String>,
}

/// `DIR`, or `DIR:/GUEST`.
pub(crate) fn volume(text: &str) -> Result<Volume, String> {
    let (store, guest) = match text.rsplit_once(":/") {
        Some((store, guest)) => (store, Some(format!("/{guest}"))),
        None => (text, None),
    };
    if store.is_empty() {
        return Err(format!(
            "{text:?} names no directory: write DIR, as in ./store, or DIR:/GUEST, as in ./store:/data"
        ));
    }
    Ok(Volume { store: PathBuf::from(store), guest })
}

/// `NAME=VALUE`, or `NAME` to hand on this process's own value.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("{text:?} has no name: write NAME=VALUE")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => std::env::var(text)
            .map(|value| (text.to_owned(), value))
            .map_err(|error| format!("the value of {text:?} cannot be handed on: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let of = |store: &str, guest: Option<&str>| {
            Ok(Volume { store: PathBuf::from(store), guest: guest.map(str::to_owned) })
        };
        assert_eq!(volume("./store"), of("./store", None));
        assert_eq!(volume("/var/lib/store:/data"), of("/var/lib/store", Some("/data")));
        assert_eq!(volume("a:b:/c:d"), of("a:b", Some("/c:d")));
        assert!(volume("").is_err() && volume(":/data").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "250", "ms", "1h", "-1s", "1e999s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("70000"), Ok(70000));
        assert_eq!(size("1.5KiB"), Ok(1536));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        for wrong in ["", "KiB", "1MB", "-1", "99999999999999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mounts() {
        let parsed = mount("./data::/data::ro").unwrap();
        assert_eq!((parsed.host, parsed.guest.as_str(), parsed.writable), ("./data".into(), "/data", false));
        assert_eq!(mount("/tmp").unwrap().guest, "/tmp");
        for wrong in ["", "::", "a::", "::b", "a::b::rw", "a::b::ro::c"] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }
}
