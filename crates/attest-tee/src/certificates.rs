//! The table of certificates that a host hands to an SNP guest (AMD GHCB specification, "Certificate Table"): entries of
//! a GUID, an offset and a length, ended by an entry of zeros.

use dunlin_attest::AmdCollateral;

/// VCEK, VLEK, and the certificate between root and VCEK. A host's root is of no interest: the root is pinned.
const VCEK: [u8; 16] = [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
const VLEK: [u8; 16] = [0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1];
const ASK: [u8; 16] = [0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82];
/// More entries than any host has.
const MAX_ENTRIES: usize = 32;

/// The certificates in a table, if there is one of a signing key. A table that is malformed is no table: the verifier
/// then says which certificate it misses.
pub fn parse(table: &[u8]) -> Option<AmdCollateral> {
    let mut found = AmdCollateral::default();
    let (mut vcek, mut vlek) = (None, None);
    let mut rest = table;
    for _ in 0..MAX_ENTRIES {
        let (guid, more) = rest.split_first_chunk::<16>()?;
        let (offset, more) = more.split_first_chunk::<4>()?;
        let (length, more) = more.split_first_chunk::<4>()?;
        rest = more;
        if *guid == [0; 16] {
            break;
        }
        let offset = usize::try_from(u32::from_le_bytes(*offset)).ok()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let certificate = table.get(offset..offset.checked_add(length)?)?;
        // Some hosts write GUIDs with their first three fields in little-endian order.
        match [*guid, mixed(*guid)] {
            ids if ids.contains(&VCEK) => vcek = Some(certificate.to_vec()),
            ids if ids.contains(&VLEK) => vlek = Some(certificate.to_vec()),
            ids if ids.contains(&ASK) => found.intermediate = Some(certificate.to_vec()),
            _ => {}
        }
    }
    found.vek = vcek.or(vlek)?;
    Some(found)
}

fn mixed(guid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
        let mut head = Vec::new();
        let mut body = Vec::new();
        for (guid, bytes) in entries {
            head.extend(guid);
            head.extend(((entries.len() + 1) as u32 * 24 + body.len() as u32).to_le_bytes());
            head.extend((bytes.len() as u32).to_le_bytes());
            body.extend(*bytes);
        }
        head.extend([0; 24]);
        [head, body].concat()
    }

    #[test]
    fn tables_of_every_length_end_in_certificates_or_nothing() {
        let good = table(&[(ASK, b"intermediate"), (mixed(VCEK), b"key"), ([9; 16], b"other")]);
        let read = parse(&good).expect("a table");
        assert_eq!((read.vek.as_slice(), read.intermediate.as_deref()), (&b"key"[..], Some(&b"intermediate"[..])));
        assert_eq!(parse(&table(&[(VLEK, b"loaded")])).expect("a table").vek, b"loaded");
        assert_eq!(parse(&table(&[(ASK, b"alone")])), None);
        for end in 0..good.len() {
            let _ = parse(&good[..end]);
        }
        for at in 0..96 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = good.clone();
                changed[at] = value;
                let _ = parse(&changed);
            }
        }
    }
}
