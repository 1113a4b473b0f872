//! The random numbers of Python's `random.Random`, bit for bit: what the harness and the GPTQ protocol draw with.

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// MT19937, seeded and read as `random.Random` does it.
#[derive(Clone)]
pub struct PyRandom {
    state: [u32; N],
    next: usize,
}

impl PyRandom {
    /// `random.Random(seed)` for a non-negative integer.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key: &[u32] = if high == 0 { &[low] } else { &[low, high] };
        let mut state = [0u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = spread(state[i - 1])
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N {
            let mixed = state[i] ^ spread(state[i - 1]).wrapping_mul(1_664_525);
            state[i] = mixed.wrapping_add(key[j]).wrapping_add(j as u32);
            (i, j) = (wrap(&mut state, i + 1), (j + 1) % key.len());
        }
        for _ in 0..N - 1 {
            let mixed = state[i] ^ spread(state[i - 1]).wrapping_mul(1_566_083_941);
            state[i] = mixed.wrapping_sub(i as u32);
            i = wrap(&mut state, i + 1);
        }
        state[0] = 0x8000_0000;
        Self { state, next: N }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// `random()`: a float of 53 bits in [0, 1).
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5); // 27 bits
        let low = f64::from(self.next_u32() >> 6); // 26 bits
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// A uniform index in `0..n`, as `randrange(n)` draws it: top bits, rejected while too large.
    ///
    /// # Panics
    /// When `n` is 0 or above 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0 && n as u64 <= 1 << 32, "an index below {n}");
        let bits = usize::BITS - n.leading_zeros();
        loop {
            // 33 bits (n = 2^32) would take two words in Python; no population here is that large.
            let r = (self.next_u32() >> (32 - bits.min(32))) as usize;
            if r < n {
                return r;
            }
        }
    }

    /// The indices that `sample(population, k)` picks from a population of `n`.
    ///
    /// # Panics
    /// When `k` is larger than `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "a sample of {k} from {n}");
        let mut set_size = 21;
        if k > 5 {
            set_size += 4usize.pow(((3 * k) as f64).log(4.0).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            (0..k)
                .map(|i| {
                    let j = self.below(n - i);
                    let picked = pool[j];
                    pool[j] = pool[n - i - 1];
                    picked
                })
                .collect()
        } else {
            let mut seen = HashSet::new();
            (0..k)
                .map(|_| {
                    loop {
                        let j = self.below(n);
                        if seen.insert(j) {
                            return j;
                        }
                    }
                })
                .collect()
        }
    }

    /// One index of `choices(population, k=..)` from a population of `n`.
    pub fn choice(&mut self, n: usize) -> usize {
        (self.random() * n as f64) as usize
    }
}

fn spread(x: u32) -> u32 {
    x ^ (x >> 30)
}

/// The index after the last is 1, and then the last word becomes the first.
fn wrap(state: &mut [u32; N], i: usize) -> usize {
    if i < N {
        return i;
    }
    state[0] = state[N - 1];
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_python() {
        let mut r = PyRandom::new(0);
        let words: Vec<u32> = (0..4).map(|_| r.next_u32()).collect();
        assert_eq!(
            words,
            [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514]
        );
        let mut r = PyRandom::new(0);
        let drawn: Vec<usize> = (0..8).map(|_| r.below(45_576)).collect();
        assert_eq!(
            drawn,
            [
                25_247, 27_562, 2_653, 16_968, 33_506, 31_845, 26_537, 19_877
            ]
        );
    }

    #[test]
    fn floats_samples_and_choices_of_python() {
        // python3 -c 'import random; r = random.Random(1234); print(r.random(), r.sample(range(1000), 3), r.sample(range(10), 4), ...)'
        let mut r = PyRandom::new(1234);
        assert_eq!(r.random(), 0.9664535356921388);
        assert_eq!(r.sample(1000, 3), [451, 119, 7]);
        assert_eq!(r.sample(10, 4), [1, 0, 9, 8]);
        assert_eq!(r.sample(100, 8), [98, 45, 30, 2, 3, 44, 82, 79]);
        let choices: Vec<usize> = (0..6).map(|_| r.choice(7)).collect();
        assert_eq!(choices, [3, 3, 0, 4, 5, 3]);
        assert_eq!(PyRandom::new((1 << 40) + 5).random(), 0.5043802970418443);
    }
}
