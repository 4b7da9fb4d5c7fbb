//! The commands that are needed, each as a function.
//!
//! A TPM has three slots for objects and three for sessions. Whatever a function here loads or opens it flushes again,
//! also on errors. What others left behind in a TPM without a resource manager is flushed when a slot is needed.

use std::time::Duration;

use dunlin_base::Digest;

use crate::codes::{Code, TpmError};
use crate::device::{Channel, Device};
use crate::wire::{ALG_SHA256, Auth, Command, Reader, Response, Writer, parse_response};

pub(crate) const RH_OWNER: u32 = 0x4000_0001;
pub(crate) const RH_NULL: u32 = 0x4000_0007;
pub(crate) const RH_ENDORSEMENT: u32 = 0x4000_000b;
pub(crate) const ALG_NULL: u16 = 0x0010;

/// First handles of loaded sessions (HMAC, then policy) and of loaded objects.
const SESSIONS: [u32; 2] = [0x0200_0000, 0x0300_0000];
const TRANSIENT: u32 = 0x8000_0000;
/// How often a busy TPM is asked again, and the pause before the first repetition; it doubles each time.
const RETRIES: u32 = 9;
const PAUSE: Duration = Duration::from_millis(1);
/// What every TPM reads from NV in one go.
const NV_CHUNK: u16 = 512;
/// More than any certificate of an endorsement key.
const MAX_NV: u16 = 16 * 1024;

/// An open TPM.
#[derive(Debug)]
pub struct Tpm {
    channel: Channel,
    /// How often a command was sent again because the TPM asked for it, or slots had to be cleared.
    pub(crate) repeated: u64,
}

/// A policy session that is flushed if no command used it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session(pub(crate) u32);

/// An object in one of the TPM's slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) handle: u32,
    /// TPMT_PUBLIC.
    pub(crate) public: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

impl Tpm {
    /// Opens the device and no other one.
    ///
    /// # Errors
    ///
    /// [`TpmError::NoDevice`] when it cannot be opened.
    pub fn open(device: &Device) -> Result<Self, TpmError> {
        Ok(Self { channel: device.open()?, repeated: 0 })
    }

    /// Random bytes, at most 32: from the TPM, not from the host.
    ///
    /// # Errors
    ///
    /// When the TPM refuses or gives fewer.
    pub fn random(&mut self, length: u16) -> Result<Vec<u8>, TpmError> {
        let response = self.run(Command::new("TPM2_GetRandom", 0x17b).with(|w| w.u16(length.min(32))))?;
        let bytes = Reader::new(&response.parameters).sized("random bytes")?.to_vec();
        if bytes.len() == usize::from(length) { Ok(bytes) } else { Err(TpmError::Malformed { field: "random bytes" }) }
    }

    /// The values of registers of the SHA-256 bank, in the order asked for.
    ///
    /// # Errors
    ///
    /// When the TPM refuses, or has no such register.
    pub fn pcr_read(&mut self, pcrs: &[u8]) -> Result<Vec<Digest>, TpmError> {
        let mut values = Vec::with_capacity(pcrs.len());
        for pcr in pcrs {
            let command = Command::new("TPM2_PCR_Read", 0x17e).with(|w| w.selection(&[*pcr]));
            let response = self.run(command)?;
            let mut rest = Reader::new(&response.parameters);
            rest.u32("update counter")?;
            rest.take(10, "selection that was read")?;
            let one = rest.u32("number of registers")? == 1;
            let value: Option<[u8; 32]> = if one { rest.sized("register")?.try_into().ok() } else { None };
            values.push(Digest(value.ok_or(TpmError::Malformed { field: "register" })?));
        }
        Ok(values)
    }

    /// Extends a register of the SHA-256 bank.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn pcr_extend(&mut self, pcr: u8, digest: Digest) -> Result<(), TpmError> {
        let command = Command::new("TPM2_PCR_Extend", 0x182)
            .handle(pcr.into())
            .auth(Auth::Empty)
            .with(|w| w.u32(1).u16(ALG_SHA256).raw(&digest.0));
        self.run(command).map(drop)
    }

    /// Resets a register. Registers that are worth anything cannot be reset.
    ///
    /// # Errors
    ///
    /// [`Code::LOCALITY`] for those.
    pub fn pcr_reset(&mut self, pcr: u8) -> Result<(), TpmError> {
        self.run(Command::new("TPM2_PCR_Reset", 0x13d).handle(pcr.into()).auth(Auth::Empty)).map(drop)
    }

    /// Handles of objects or sessions that are loaded, or that are persistent, from `first` on in its range.
    pub(crate) fn handles(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        let command = Command::new("TPM2_GetCapability", 0x17a).with(|w| w.u32(1).u32(first).u32(64));
        let response = self.run_once(&command)?;
        let mut rest = Reader::new(&response.parameters);
        rest.u8("more data")?;
        rest.u32("capability")?;
        let count = rest.u32("number of handles")?;
        // Each handle takes four bytes, so the response bounds the loop.
        let all = (0..count).map(|_| rest.u32("handle")).collect::<Result<Vec<_>, _>>()?;
        // Loaded sessions are listed in the range of HMAC sessions, whatever they are.
        let range = |handle: u32| if handle >> 24 == 3 { 2 } else { handle >> 24 };
        Ok(all.into_iter().filter(|handle| range(*handle) == range(first)).collect())
    }

    /// Removes an object or a session from its slot.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        let command = Command::new("TPM2_FlushContext", 0x165).with(|w| w.u32(handle));
        self.run_once(&command).map(drop)
    }

    /// Opens a policy session with SHA-256.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn start_policy(&mut self) -> Result<Session, TpmError> {
        let mut nonce = [0; 16];
        // The session has no HMAC, so the nonce guards nothing; it only must not be short.
        nonce.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
        let command = Command::new("TPM2_StartAuthSession", 0x176)
            .handle(RH_NULL)
            .handle(RH_NULL)
            .gives_handle()
            .with(|w| w.sized("nonce", &nonce).sized("salt", &[]).u8(1).u16(ALG_NULL).u16(ALG_SHA256));
        let handle = self.run(command)?.handle;
        handle.map(Session).ok_or(TpmError::Malformed { field: "session" })
    }

    /// Demands that registers have their present values.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn policy_pcr(&mut self, session: Session, pcrs: &[u8]) -> Result<(), TpmError> {
        let command =
            Command::new("TPM2_PolicyPCR", 0x17f).handle(session.0).with(|w| w.sized("digest", &[]).selection(pcrs));
        self.run(command).map(drop)
    }

    /// Shows that the endorsement hierarchy may be used, which is what keys of the usual templates ask for.
    pub(crate) fn policy_endorsement(&mut self, session: Session) -> Result<(), TpmError> {
        let command = Command::new("TPM2_PolicySecret", 0x151)
            .handle(RH_ENDORSEMENT)
            .handle(session.0)
            .auth(Auth::Empty)
            .with(|w| w.sized("nonce", &[]).sized("cpHash", &[]).sized("policyRef", &[]).u32(0));
        self.run(command).map(drop)
    }

    /// Makes the primary key that `public` (TPMT_PUBLIC) describes: the same one each time.
    pub(crate) fn create_primary(&mut self, hierarchy: u32, public: &[u8]) -> Result<Loaded, TpmError> {
        let command = Command::new("TPM2_CreatePrimary", 0x131)
            .handle(hierarchy)
            .auth(Auth::Empty)
            .gives_handle()
            .with(|w| w.sized("sensitive", &[0, 0, 0, 0]).sized("template", public).sized("outside", &[]).u32(0));
        let response = self.run(command)?;
        let handle = response.handle.ok_or(TpmError::Malformed { field: "object" })?;
        let read = |parameters: &[u8]| {
            let mut rest = Reader::new(parameters);
            let public = rest.sized("public area")?.to_vec();
            rest.sized("creation data")?;
            rest.sized("creation hash")?;
            rest.take(6, "creation ticket")?;
            rest.sized("creation ticket")?;
            Ok((public, rest.sized("name")?.to_vec()))
        };
        match read(&response.parameters) {
            Ok((public, name)) => Ok(Loaded { handle, public, name }),
            Err(error) => {
                self.flush(handle)?;
                Err(error)
            }
        }
    }

    /// Makes an object under `parent` that holds `data`: its private and public parts.
    pub(crate) fn create(&mut self, parent: u32, public: &[u8], data: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let mut sensitive = Writer::default();
        sensitive.sized("authorisation", &[]).sized("data", data);
        let sensitive = sensitive.finish()?;
        let command = Command::new("TPM2_Create", 0x153)
            .handle(parent)
            .auth(Auth::Empty)
            .with(|w| w.sized("sensitive", sensitive).sized("template", public).sized("outside", &[]).u32(0));
        let response = self.run(command)?;
        let mut rest = Reader::new(&response.parameters);
        Ok((rest.sized("private area")?.to_vec(), rest.sized("public area")?.to_vec()))
    }

    pub(crate) fn load(&mut self, parent: u32, private: &[u8], public: &[u8]) -> Result<u32, TpmError> {
        let command = Command::new("TPM2_Load", 0x157)
            .handle(parent)
            .auth(Auth::Empty)
            .gives_handle()
            .with(|w| w.sized("private area", private).sized("public area", public));
        self.run(command)?.handle.ok_or(TpmError::Malformed { field: "object" })
    }

    pub(crate) fn unseal(&mut self, object: u32, session: Session) -> Result<Vec<u8>, TpmError> {
        let command = Command::new("TPM2_Unseal", 0x15e).handle(object).auth(Auth::Policy(session.0));
        let response = self.run(command)?;
        Ok(Reader::new(&response.parameters).sized("secret")?.to_vec())
    }

    /// Public area and name of an object.
    pub(crate) fn read_public(&mut self, object: u32) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let response = self.run(Command::new("TPM2_ReadPublic", 0x173).handle(object))?;
        let mut rest = Reader::new(&response.parameters);
        Ok((rest.sized("public area")?.to_vec(), rest.sized("name")?.to_vec()))
    }

    /// Makes a loaded object persistent, or removes a persistent one.
    pub(crate) fn evict(&mut self, object: u32, persistent: u32) -> Result<(), TpmError> {
        let command = Command::new("TPM2_EvictControl", 0x120)
            .handle(RH_OWNER)
            .handle(object)
            .auth(Auth::Empty)
            .with(|w| w.u32(persistent));
        self.run(command).map(drop)
    }

    /// A quote: the attestation and its signature.
    pub(crate) fn quote(&mut self, key: u32, data: &[u8], pcrs: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let command = Command::new("TPM2_Quote", 0x158)
            .handle(key)
            .auth(Auth::Empty)
            .with(|w| w.sized("qualifying data", data).u16(ALG_NULL).selection(pcrs));
        signed(&self.run(command)?)
    }

    /// Opens a credential, if `object` and `ek` are in this TPM. `policy` is for keys that are guarded by one.
    pub(crate) fn activate_credential(
        &mut self,
        object: u32,
        ek: u32,
        policy: Option<Session>,
        credential: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let command = Command::new("TPM2_ActivateCredential", 0x147)
            .handle(object)
            .handle(ek)
            .auth(Auth::Empty)
            .auth(policy.map_or(Auth::Empty, |session| Auth::Policy(session.0)))
            .with(|w| w.sized("credential", credential).sized("secret", secret));
        let response = self.run(command)?;
        Ok(Reader::new(&response.parameters).sized("credential")?.to_vec())
    }

    /// TPMS_NV_PUBLIC and name of an NV index.
    pub(crate) fn nv_read_public(&mut self, index: u32) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let response = self.run(Command::new("TPM2_NV_ReadPublic", 0x169).handle(index))?;
        let mut rest = Reader::new(&response.parameters);
        Ok((rest.sized("public area")?.to_vec(), rest.sized("name")?.to_vec()))
    }

    /// The whole contents of an NV index that can be read with an empty password.
    pub(crate) fn nv_read(&mut self, index: u32) -> Result<Vec<u8>, TpmError> {
        let (public, _) = self.nv_read_public(index)?;
        let mut rest = Reader::new(&public);
        rest.take(10, "NV index")?;
        rest.sized("NV policy")?;
        let size = rest.u16("NV size")?;
        if size > MAX_NV {
            return Err(TpmError::TooLong { what: "the NV index", length: size.into(), limit: MAX_NV.into() });
        }
        let mut contents = Vec::with_capacity(size.into());
        let mut offset = 0;
        while offset < size {
            let length = (size - offset).min(NV_CHUNK);
            let command = Command::new("TPM2_NV_Read", 0x14e)
                .handle(index)
                .handle(index)
                .auth(Auth::Empty)
                .with(|w| w.u16(length).u16(offset));
            let response = self.run(command)?;
            let chunk = Reader::new(&response.parameters).sized("NV contents")?.to_vec();
            if chunk.len() != usize::from(length) {
                return Err(TpmError::Malformed { field: "NV contents" });
            }
            contents.extend(chunk);
            offset += length;
        }
        Ok(contents)
    }

    /// Defines an NV index of the owner, from its TPMS_NV_PUBLIC.
    pub(crate) fn nv_define(&mut self, public: &[u8]) -> Result<(), TpmError> {
        let command = Command::new("TPM2_NV_DefineSpace", 0x12a)
            .handle(RH_OWNER)
            .auth(Auth::Empty)
            .with(|w| w.sized("authorisation", &[]).sized("public area", public));
        self.run(command).map(drop)
    }

    pub(crate) fn nv_increment(&mut self, index: u32) -> Result<(), TpmError> {
        self.run(Command::new("TPM2_NV_Increment", 0x134).handle(index).handle(index).auth(Auth::Empty)).map(drop)
    }

    /// The signed contents of an NV index of `size` bytes.
    pub(crate) fn nv_certify(
        &mut self,
        key: u32,
        index: u32,
        size: u16,
        data: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let command = Command::new("TPM2_NV_Certify", 0x184)
            .handle(key)
            .handle(index)
            .handle(index)
            .auth(Auth::Empty)
            .auth(Auth::Empty)
            .with(|w| w.sized("qualifying data", data).u16(ALG_NULL).u16(size).u16(0));
        signed(&self.run(command)?)
    }

    /// Runs a command. Where slots are full of what nobody uses any more, they are cleared once.
    fn run(&mut self, command: Command) -> Result<Response, TpmError> {
        match self.run_once(&command) {
            Err(TpmError::Refused { code, .. }) if code.is_exhaustion() && self.channel.exclusive => {
                let first = if code == Code::OBJECT_MEMORY || code == Code::OBJECT_HANDLES {
                    &[TRANSIENT][..]
                } else {
                    &SESSIONS[..]
                };
                let own = command.uses();
                for range in first {
                    for handle in self.handles(*range)? {
                        // A policy session is listed in both ranges of some TPMs, and may be gone already.
                        if !own.contains(&handle) {
                            let _ = self.flush(handle);
                        }
                    }
                }
                self.repeated += 1;
                self.run_once(&command)
            }
            other => other,
        }
    }

    /// Runs a command, again if the TPM is busy.
    fn run_once(&mut self, command: &Command) -> Result<Response, TpmError> {
        let bytes = command.bytes()?;
        let mut pause = PAUSE;
        for _ in 0..RETRIES {
            let response = self.channel.exchange(&bytes)?;
            match parse_response(command.name, command.gives_handle, &response) {
                Err(TpmError::Refused { code, .. }) if code.asks_to_retry() => {
                    self.repeated += 1;
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                other => return other,
            }
        }
        Err(TpmError::Refused { command: command.name, code: Code::RETRY })
    }
}

/// What the owner of a slot must do with it in the end, also after an error: the error is what counts.
pub(crate) fn flushed<T>(tpm: &mut Tpm, handle: u32, outcome: Result<T, TpmError>) -> Result<T, TpmError> {
    let flushed = tpm.flush(handle);
    let value = outcome?;
    flushed?;
    Ok(value)
}

fn signed(response: &Response) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    let mut rest = Reader::new(&response.parameters);
    let attest = rest.sized("attestation")?.to_vec();
    Ok((attest, rest.rest().to_vec()))
}
