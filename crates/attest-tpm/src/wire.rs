//! Commands and responses as bytes. Everything is big-endian; a TPM2B is a 16-bit size and that many bytes.

use crate::codes::{Code, TpmError};

/// Tag, size, code.
pub(crate) const HEADER: usize = 10;
/// TPMs have buffers of 4096 bytes, some of 2048.
pub(crate) const MAX_RESPONSE: usize = 4096;

const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
/// The pseudo session that carries a password.
const RS_PW: u32 = 0x4000_0009;

/// What authorises the use of a handle.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Auth {
    /// The empty password. Everything of ours is guarded by policies or is open to the host anyway.
    Empty,
    /// A policy session. It ends with the command.
    Policy(u32),
}

/// A command under construction.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    code: u32,
    handles: Vec<u8>,
    auths: Vec<u8>,
    parameters: Writer,
    /// Whether the response begins with a handle.
    pub(crate) gives_handle: bool,
}

impl Command {
    pub(crate) fn new(name: &'static str, code: u32) -> Self {
        Self { name, code, handles: Vec::new(), auths: Vec::new(), parameters: Writer::default(), gives_handle: false }
    }

    pub(crate) fn handle(mut self, handle: u32) -> Self {
        self.handles.extend(handle.to_be_bytes());
        self
    }

    pub(crate) fn auth(mut self, auth: Auth) -> Self {
        let session = match auth {
            Auth::Empty => RS_PW,
            Auth::Policy(session) => session,
        };
        self.auths.extend(session.to_be_bytes());
        // No nonce, not continued, no HMAC.
        self.auths.extend([0, 0, 0, 0, 0]);
        self
    }

    pub(crate) fn gives_handle(mut self) -> Self {
        self.gives_handle = true;
        self
    }

    pub(crate) fn with(mut self, write: impl for<'w> FnOnce(&'w mut Writer) -> &'w mut Writer) -> Self {
        write(&mut self.parameters);
        self
    }

    /// The handles that it needs, those of sessions included.
    pub(crate) fn uses(&self) -> Vec<u32> {
        let handles = self.handles.as_chunks::<4>().0.iter().map(|handle| u32::from_be_bytes(*handle));
        // Each authorisation is a handle and five bytes.
        let auths = self.auths.as_chunks::<9>().0.iter().map(|[a, b, c, d, ..]| u32::from_be_bytes([*a, *b, *c, *d]));
        handles.chain(auths).collect()
    }

    pub(crate) fn bytes(&self) -> Result<Vec<u8>, TpmError> {
        let Self { name: _, code, handles, auths, parameters, gives_handle: _ } = self;
        let parameters = parameters.finish()?;
        let auth_size = if auths.is_empty() { 0 } else { 4 };
        let length = HEADER + handles.len() + auth_size + auths.len() + parameters.len();
        if length > MAX_RESPONSE {
            return Err(TpmError::TooLong { what: "the command", length, limit: MAX_RESPONSE });
        }
        let mut out = Vec::with_capacity(length);
        out.extend(if auths.is_empty() { ST_NO_SESSIONS } else { ST_SESSIONS }.to_be_bytes());
        out.extend((length as u32).to_be_bytes());
        out.extend(code.to_be_bytes());
        out.extend(handles);
        if !auths.is_empty() {
            out.extend((auths.len() as u32).to_be_bytes());
            out.extend(auths);
        }
        out.extend(parameters);
        Ok(out)
    }
}

/// Writes parameters.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
    too_long: Option<(&'static str, usize)>,
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend(bytes);
        self
    }

    /// A TPM2B.
    pub(crate) fn sized(&mut self, what: &'static str, bytes: &[u8]) -> &mut Self {
        match u16::try_from(bytes.len()) {
            Ok(length) => self.u16(length).raw(bytes),
            Err(_) => {
                self.too_long.get_or_insert((what, bytes.len()));
                self
            }
        }
    }

    /// A TPML_PCR_SELECTION of registers of the SHA-256 bank.
    pub(crate) fn selection(&mut self, pcrs: &[u8]) -> &mut Self {
        self.raw(&selection(pcrs))
    }

    pub(crate) fn finish(&self) -> Result<&[u8], TpmError> {
        match self.too_long {
            None => Ok(&self.out),
            Some((what, length)) => Err(TpmError::TooLong { what, length, limit: usize::from(u16::MAX) }),
        }
    }
}

/// A TPML_PCR_SELECTION of registers of the SHA-256 bank. Registers from 24 on are left out: there are none.
pub(crate) fn selection(pcrs: &[u8]) -> Vec<u8> {
    let bits = pcrs.iter().filter(|pcr| **pcr < 24).fold(0u32, |bits, pcr| bits | 1 << pcr);
    let [low, middle, high, _] = bits.to_le_bytes();
    [&1u32.to_be_bytes()[..], &ALG_SHA256.to_be_bytes(), &[3, low, middle, high]].concat()
}

pub(crate) const ALG_SHA256: u16 = 0x000b;

/// A successful response, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The handle, if the command gives one.
    pub handle: Option<u32>,
    /// The parameters.
    pub parameters: Vec<u8>,
}

/// Reads the response to a command.
///
/// # Errors
///
/// [`TpmError::Refused`] with the TPM's code, or [`TpmError::Malformed`] for everything that is no response.
pub fn parse_response(command: &'static str, gives_handle: bool, response: &[u8]) -> Result<Response, TpmError> {
    let mut rest = Reader::new(response);
    let tag = rest.u16("tag of the response")?;
    let size = rest.u32("size of the response")?;
    let code = rest.u32("code of the response")?;
    if usize::try_from(size).ok() != Some(response.len()) {
        return Err(TpmError::Malformed { field: "size of the response" });
    }
    if code != 0 {
        return Err(TpmError::Refused { command, code: Code(code) });
    }
    let handle = if gives_handle { Some(rest.u32("handle of the response")?) } else { None };
    let parameters = match tag {
        ST_NO_SESSIONS => rest.rest(),
        ST_SESSIONS => {
            let length = rest.u32("length of the parameters")?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            // What follows belongs to the sessions; ours carry no HMAC.
            rest.take(length, "parameters of the response")?
        }
        _ => return Err(TpmError::Malformed { field: "tag of the response" }),
    };
    Ok(Response { handle, parameters: parameters.to_vec() })
}

/// Reads parameters, never past their end.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], TpmError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(TpmError::Malformed { field })?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], TpmError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TpmError::Malformed { field })?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, TpmError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, TpmError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, TpmError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn sized(&mut self, field: &'static str) -> Result<&'a [u8], TpmError> {
        let length = self.u16(field)?;
        self.take(length.into(), field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_bitmaps_lowest_register_first() {
        assert_eq!(selection(&[0, 1, 2, 3, 4, 5, 6, 7, 15]), [0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0x80, 0]);
        assert_eq!(selection(&[23, 24, 255]), [0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0x80]);
    }

    #[test]
    fn responses_of_every_length_and_with_every_byte_changed_end_in_a_response_or_an_error() {
        let good = [0x80, 0x02, 0, 0, 0, 23, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 2, 7, 7, 0, 0, 1];
        let read = parse_response("X", true, &good).expect("a response");
        assert_eq!(read, Response { handle: Some(0x8000_0001), parameters: vec![7, 7] });
        for end in 0..good.len() {
            assert!(parse_response("X", true, &good[..end]).is_err(), "{end}");
        }
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut changed = good;
                changed[at] = value;
                let _ = parse_response("X", true, &changed);
            }
        }
        assert!(matches!(parse_response("X", false, &good[..4]), Err(TpmError::Malformed { .. })));
    }
}
