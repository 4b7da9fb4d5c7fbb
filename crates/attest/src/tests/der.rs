//! A small writer of DER, to make certificates that no honest tool would make.

pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => {
            out.push(0x82);
            out.extend(u16::try_from(length).expect("short").to_be_bytes());
        }
    }
    out.extend(content);
    out
}

pub(super) fn seq(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(super) fn oid(text: &str) -> Vec<u8> {
    let arcs: Vec<u64> = text.split('.').map(|arc| arc.parse().expect("a number")).collect();
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    tlv(0x06, &content)
}

pub(super) fn int(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let mut content = bytes[start..].to_vec();
    if content[0] & 0x80 != 0 {
        content.insert(0, 0);
    }
    tlv(0x02, &content)
}

pub(super) fn boolean(value: bool) -> Vec<u8> {
    tlv(0x01, &[if value { 0xff } else { 0 }])
}

pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes].concat())
}

pub(super) fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(0x04, bytes)
}

pub(super) fn name(common_name: &str) -> Vec<u8> {
    seq(&[tlv(0x31, &seq(&[oid("2.5.4.3"), tlv(0x0c, common_name.as_bytes())]))])
}

/// The subject of a genuine certificate, so that a forged one differs from it by its signature only.
pub(super) fn subject_of(certificate: &[u8]) -> Vec<u8> {
    use x509_cert::der::{Decode as _, Encode as _};
    let certificate = x509_cert::Certificate::from_der(certificate).expect("a certificate");
    certificate.tbs_certificate().subject().to_der().expect("DER")
}

/// `YYMMDDHHMMSSZ`.
pub(super) fn utc(time: &str) -> Vec<u8> {
    tlv(0x17, time.as_bytes())
}

pub(super) fn extension(id: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(id)];
    if critical {
        parts.push(boolean(true));
    }
    parts.push(octets(value));
    seq(&parts)
}

/// Basic constraints and key usage of a CA that may sign certificates and revocation lists.
pub(super) fn ca_extensions() -> Vec<Vec<u8>> {
    vec![
        extension("2.5.29.19", true, &seq(&[boolean(true)])),
        extension("2.5.29.15", true, &tlv(0x03, &[1, 0b0000_0110])),
    ]
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes.
pub(super) fn pss_algorithm() -> Vec<u8> {
    let sha384 = seq(&[oid("2.16.840.1.101.3.4.2.2"), tlv(0x05, &[])]);
    let mgf1 = seq(&[oid("1.2.840.113549.1.1.8"), sha384.clone()]);
    let parameters = seq(&[tlv(0xa0, &sha384), tlv(0xa1, &mgf1), tlv(0xa2, &int(48))]);
    seq(&[oid("1.2.840.113549.1.1.10"), parameters])
}

pub(super) fn ecdsa_algorithm() -> Vec<u8> {
    seq(&[oid("1.2.840.10045.4.3.2")])
}

/// A public key on a named curve.
pub(super) fn ec_key(curve: &str, point: &[u8]) -> Vec<u8> {
    seq(&[seq(&[oid("1.2.840.10045.2.1"), oid(curve)]), bits(point)])
}

/// The fields of a certificate, before it is signed.
#[derive(Clone)]
pub(super) struct Fields {
    pub(super) serial: u64,
    pub(super) issuer: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) not_before: &'static str,
    pub(super) not_after: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) extensions: Vec<Vec<u8>>,
}

impl Fields {
    pub(super) fn sign(&self, algorithm: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let tbs = seq(&[
            tlv(0xa0, &int(2)),
            int(self.serial),
            algorithm.to_vec(),
            self.issuer.clone(),
            seq(&[utc(self.not_before), utc(self.not_after)]),
            self.subject.clone(),
            self.key.clone(),
            tlv(0xa3, &seq(&self.extensions)),
        ]);
        let signature = sign(&tbs);
        seq(&[tbs, algorithm.to_vec(), bits(&signature)])
    }
}

/// A revocation list.
pub(super) fn crl(
    issuer: &[u8],
    (this_update, next_update): (&str, &str),
    revoked: &[u64],
    algorithm: &[u8],
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let mut parts = vec![int(1), algorithm.to_vec(), issuer.to_vec(), utc(this_update), utc(next_update)];
    if !revoked.is_empty() {
        let entries: Vec<_> = revoked.iter().map(|serial| seq(&[int(*serial), utc(this_update)])).collect();
        parts.push(seq(&entries));
    }
    parts.push(tlv(0xa0, &seq(&[extension("2.5.29.20", false, &int(1))])));
    let tbs = seq(&parts);
    let signature = sign(&tbs);
    seq(&[tbs, algorithm.to_vec(), bits(&signature)])
}

pub(super) fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let group = chunk.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let digit_value = ALPHABET[(group >> (18 - 6 * digit) & 0x3f) as usize] as char;
            text.push(if digit <= chunk.len() { digit_value } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
