//! Hexadecimal digits, as digests and names are written.

/// Exactly `N` bytes from twice as many hexadecimal digits; nothing else is read, no sign and no space.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    let mut digits = text.chars().map(|digit| digit.to_digit(16));
    for byte in &mut bytes {
        *byte = (digits.next()?? * 16 + digits.next()??) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_and_nothing_else() {
        assert_eq!(unhex("00a5fF"), Some([0, 0xa5, 0xff]));
        for wrong in ["", "00a5f", "00a5ff00", "00a5fg", "00a5+f", " 0a5ff", "äää"] {
            assert_eq!(unhex::<3>(wrong), None, "{wrong}");
        }
    }
}
