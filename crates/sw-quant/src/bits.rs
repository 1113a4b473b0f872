//! Dense streams of 2- to 8-bit codes, least significant bit first: code `i` is bits `i*b .. (i+1)*b`, so that 8 codes
//! fill exactly `b` bytes.

/// Bytes of `n` codes.
pub(crate) fn packed_len(n: usize, bits: u8) -> Option<usize> {
    let bits = usize::from(bits);
    // Whole groups of 8 codes take `bits` bytes each; no overflow where the sum fits.
    (n / 8)
        .checked_mul(bits)?
        .checked_add((n % 8 * bits).div_ceil(8))
}

/// Packs `codes`, each below `2^bits`, into `out` of [`packed_len`] bytes.
#[inline(always)]
pub(crate) fn pack(codes: &[u8], bits: u8, out: &mut [u8]) {
    match bits {
        8 => out.copy_from_slice(codes),
        4 => {
            let (pairs, rest) = codes.as_chunks::<2>();
            for (o, pair) in out.iter_mut().zip(pairs) {
                let pair = u16::from_le_bytes(*pair); // the second code is 8 bits up, and belongs 4 bits up
                *o = (pair | (pair >> 4)) as u8;
            }
            if let ([a], Some(o)) = (rest, out.last_mut()) {
                *o = *a;
            }
        }
        _ => {
            for (codes, out) in codes.chunks(8).zip(out.chunks_mut(usize::from(bits))) {
                let word = codes
                    .iter()
                    .rev()
                    .fold(0u64, |word, &c| (word << bits) | u64::from(c));
                out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
            }
        }
    }
}

/// Unpacks the codes from place `start` on into `out`.
#[inline(always)]
pub(crate) fn unpack(packed: &[u8], bits: u8, start: usize, out: &mut [u8]) {
    // Up to the next group of 8, code by code; then group by group.
    let head = out.len().min(start.next_multiple_of(8) - start);
    let (head, body) = out.split_at_mut(head);
    for (i, o) in head.iter_mut().enumerate() {
        *o = get(packed, bits, start + i);
    }
    if body.is_empty() {
        return;
    }
    let packed = &packed[(start + head.len()) / 8 * usize::from(bits)..];
    match bits {
        8 => body.copy_from_slice(&packed[..body.len()]),
        4 => {
            let (pairs, rest) = body.as_chunks_mut::<2>();
            let (whole, last) = packed.split_at(pairs.len());
            for ([a, b], p) in pairs.iter_mut().zip(whole) {
                (*a, *b) = (p & 15, p >> 4);
            }
            if let ([a], Some(p)) = (rest, last.first()) {
                *a = p & 15;
            }
        }
        _ => {
            let mask = (1u64 << bits) - 1;
            for (out, packed) in body.chunks_mut(8).zip(packed.chunks(usize::from(bits))) {
                let mut word = [0; 8];
                word[..packed.len()].copy_from_slice(packed);
                let mut word = u64::from_le_bytes(word);
                for o in out {
                    *o = (word & mask) as u8;
                    word >>= bits;
                }
            }
        }
    }
}

/// The code at place `i`.
#[inline(always)]
pub(crate) fn get(packed: &[u8], bits: u8, i: usize) -> u8 {
    let (byte, shift) = (
        i / 8 * usize::from(bits) + i % 8 * usize::from(bits) / 8,
        i % 8 * usize::from(bits) % 8,
    );
    let next = packed.get(byte + 1).copied().unwrap_or(0);
    let two = u16::from_le_bytes([packed[byte], next]);
    ((two >> shift) & ((1 << bits) - 1)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_of_every_width_length_and_start() {
        let max_len = if cfg!(miri) { 18 } else { 70 };
        for bits in 2..=8u8 {
            let codes: Vec<u8> = (0..max_len as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & (((1u16 << bits) - 1) as u8))
                .collect();
            for n in 1..=codes.len() {
                let mut packed = vec![0xa5; packed_len(n, bits).unwrap()];
                pack(&codes[..n], bits, &mut packed);
                for start in 0..n {
                    let mut back = vec![0xff; n - start];
                    unpack(&packed, bits, start, &mut back);
                    assert_eq!(back, &codes[start..n], "bits {bits} n {n} start {start}");
                    assert_eq!(get(&packed, bits, start), codes[start]);
                }
            }
        }
    }

    #[test]
    fn length_does_not_overflow() {
        assert_eq!(packed_len(usize::MAX, 8), Some(usize::MAX));
        assert_eq!(packed_len(5, 3), Some(2));
    }
}
