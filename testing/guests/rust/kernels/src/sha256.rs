//! SHA-256 (FIPS 180-4), written out so that its loops are this program's own.

const ROUNDS: [u32; 64] = round_constants();
const START: [u32; 8] =
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

/// Hashes `blocks` times 64 bytes, byte `i` being `i * 7` modulo 256; gives the first eight bytes of the digest.
pub fn hash_blocks(blocks: usize) -> u64 {
    let message: Vec<u8> = (0..blocks * 64).map(|i| (i * 7) as u8).collect();
    let mut state = START;
    for block in message.chunks_exact(64) {
        compress(&mut state, block);
    }
    let mut padding = [0; 64];
    padding[0] = 0x80;
    padding[56..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    compress(&mut state, &padding);
    u64::from(state[0]) << 32 | u64::from(state[1])
}

fn compress(state: &mut [u32; 8], block: &[u8]) {
    let mut words = [0_u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for i in 16..64 {
        let (a, b) = (words[i - 15], words[i - 2]);
        let low = a.rotate_right(7) ^ a.rotate_right(18) ^ a >> 3;
        let high = b.rotate_right(17) ^ b.rotate_right(19) ^ b >> 10;
        words[i] = words[i - 16].wrapping_add(low).wrapping_add(words[i - 7]).wrapping_add(high);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (word, constant) in words.iter().zip(&ROUNDS) {
        let choice = e & f ^ !e & g;
        let first = h
            .wrapping_add(e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add(choice)
            .wrapping_add(*constant)
            .wrapping_add(*word);
        let majority = a & b ^ a & c ^ b & c;
        let second = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22)).wrapping_add(majority);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
    }
    for (state, value) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *state = state.wrapping_add(value);
    }
}

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
const fn round_constants() -> [u32; 64] {
    let mut constants = [0; 64];
    let (mut found, mut number) = (0, 2_u128);
    while found < 64 {
        let (mut divisor, mut prime) = (2, true);
        while divisor * divisor <= number {
            prime &= number % divisor != 0;
            divisor += 1;
        }
        if prime {
            // The cube root of number * 2^96 is the cube root of number, times 2^32.
            let (mut low, mut high) = (0_u128, 8 << 32);
            while high - low > 1 {
                let middle = (low + high) / 2;
                if middle * middle * middle <= number << 96 {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            constants[found] = low as u32;
            found += 1;
        }
        number += 1;
    }
    constants
}
