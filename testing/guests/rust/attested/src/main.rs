//! Uses everything that trusted surroundings offer: `attested [ROUNDS] [MEGABYTES]`. What it prints depends on what was
//! asked and answered only, so it is the same wherever and however often it moves. A secret named `canary`, if there is
//! one, stays in its memory and its sealed store, and is never printed.

use std::process::ExitCode;

#[link(wasm_import_module = "dunlin_trust")]
unsafe extern "C" {
    fn attest(challenge: *const u8, handle: *mut u32, length: *mut u64) -> i32;
    fn authenticate(name: *const u8, name_len: usize, handle: *mut u32, length: *mut u64) -> i32;
    fn get(key: *const u8, key_len: usize, handle: *mut u32, length: *mut u64) -> i32;
    fn put(key: *const u8, key_len: usize, slice: *const u8, slice_len: usize, more: i32) -> i32;
    fn getkeys(handle: *mut u32, length: *mut u64) -> i32;
    fn run(
        module: *const u8,
        module_len: usize,
        configuration: *const u8,
        configuration_len: usize,
        handle: *mut u32,
        length: *mut u64,
    ) -> i32;
    fn read(handle: u32, offset: u64, buffer: *mut u8, len: usize, read: *mut u32) -> i32;
    fn dispose(handle: u32) -> i32;
}

const SLICE: usize = 5 << 20;

/// Error numbers of preview 1.
const NOENT: i32 = 44;

/// What a call left under a handle, in slices.
fn result(call: impl FnOnce(*mut u32, *mut u64) -> i32) -> Result<Vec<u8>, i32> {
    let (mut handle, mut length) = (0, 0);
    match call(&mut handle, &mut length) {
        0 => {}
        errno => return Err(errno),
    }
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        let (mut count, wanted) = (0, rest.len().min(SLICE));
        // SAFETY: `rest` has `wanted` bytes to write to, and `count` is one number.
        match unsafe { read(handle, filled as u64, rest.as_mut_ptr(), wanted, &mut count) } {
            0 if count > 0 => filled += count as usize,
            errno => return Err(errno),
        }
    }
    // SAFETY: takes a number.
    match unsafe { dispose(handle) } {
        0 => Ok(bytes),
        errno => Err(errno),
    }
}

fn evidence(challenge: &[u8; 32]) -> Result<Vec<u8>, i32> {
    // SAFETY: the challenge has 32 bytes, and the places are one number each.
    result(|handle, length| unsafe { attest(challenge.as_ptr(), handle, length) })
}

fn secret(name: &str) -> Result<Vec<u8>, i32> {
    // SAFETY: the name has its length, and the places are one number each.
    result(|handle, length| unsafe { authenticate(name.as_ptr(), name.len(), handle, length) })
}

fn value(key: &str) -> Result<Vec<u8>, i32> {
    // SAFETY: the key has its length, and the places are one number each.
    result(|handle, length| unsafe { get(key.as_ptr(), key.len(), handle, length) })
}

fn keep(key: &str, value: &[u8]) -> Result<(), i32> {
    let mut slices = value.chunks(SLICE).peekable();
    loop {
        let slice = slices.next().unwrap_or_default();
        let more = i32::from(slices.peek().is_some());
        // SAFETY: key and slice have their lengths.
        match unsafe { put(key.as_ptr(), key.len(), slice.as_ptr(), slice.len(), more) } {
            0 if more == 0 => return Ok(()),
            0 => {}
            errno => return Err(errno),
        }
    }
}

fn keys() -> Result<Vec<String>, i32> {
    // SAFETY: the places are one number each.
    let list = result(|handle, length| unsafe { getkeys(handle, length) })?;
    let (mut rest, mut keys) = (&list[..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (key, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        keys.push(String::from_utf8_lossy(key).into_owned());
        rest = behind;
    }
    Ok(keys)
}

fn trusted(module: &str, configuration: &[u8]) -> Result<Vec<u8>, i32> {
    // SAFETY: name and configuration have their lengths, and the places are one number each.
    result(|handle, length| unsafe {
        run(module.as_ptr(), module.len(), configuration.as_ptr(), configuration.len(), handle, length)
    })
}

/// FNV-1a: enough to see that bytes are the same.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn round(number: usize, megabytes: usize) -> Result<(), i32> {
    let challenge = [number as u8 + 1; 32];
    let evidence = evidence(&challenge)?;
    let carries = evidence.windows(32).filter(|window| *window == challenge).count();
    println!("round {number}: evidence, challenge in it {carries} time(s)");
    for name in ["tls-key", "canary"] {
        match secret(name) {
            Ok(secret) => {
                println!("round {number}: secret {name} of {} bytes", secret.len());
                keep(&format!("secret {name}"), &secret)?;
            }
            Err(NOENT) => println!("round {number}: no secret {name}"),
            Err(errno) => return Err(errno),
        }
    }
    let large: Vec<u8> = (0..megabytes << 20).map(|index| (index >> 9) as u8 ^ number as u8).collect();
    keep("large", &large)?;
    keep(&format!("small {number}"), &number.to_le_bytes())?;
    let back = value("large")?;
    println!("round {number}: large {} bytes {:016x} {}", back.len(), sum(&back), back == large);
    println!("round {number}: {} values, absent: {:?}", keys()?.len(), value("absent").err());
    match trusted("upper", format!("configuration {number}").as_bytes()) {
        Ok(output) => println!("round {number}: run: {}", String::from_utf8_lossy(&output).trim_end()),
        Err(NOENT) => println!("round {number}: no module upper"),
        Err(errno) => return Err(errno),
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap_or(0));
    let (rounds, megabytes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    for number in 0..rounds {
        if let Err(errno) = round(number, megabytes) {
            println!("round {number}: error {errno}");
            return ExitCode::FAILURE;
        }
    }
    // Kept to the end: what is in memory can be looked for.
    let canary = value("secret canary").unwrap_or_default();
    println!("done, canary of {} bytes", canary.len());
    ExitCode::SUCCESS
}
