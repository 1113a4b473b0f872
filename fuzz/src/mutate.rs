//! From inputs that are known to others that may break something: seeded, so that every input can be made again.

use std::io::Write;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use serde_json::{Map, Value, json};

/// What an input looks like: its structure is kept most of the time, so that what lies behind the first check is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Bytes.
    Bytes,
    /// JSON, perhaps after some bytes, or several values one after the other.
    Json,
    /// JSON that is compressed after it was changed.
    Gzip,
    /// A JSON header behind its length, then data.
    Safetensors,
    /// Pages with headers, and a description with its length at the end.
    Parquet,
}

/// Numbers at which lengths, counts and offsets go wrong.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 60,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// The longest input that it makes.
const LONGEST: usize = 1 << 20;

/// Makes inputs out of seeds.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
    form: Form,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator whose inputs follow from `seed` alone.
    pub fn new(form: Form, mut seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        if seeds.is_empty() {
            seeds.push(Vec::new());
        }
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            form,
            seeds,
        }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let seed = self.below(self.seeds.len());
        let mut bytes = self.seeds[seed].clone();
        let mut steps = 1;
        while steps < 16 && self.below(2) == 0 {
            steps += 1;
        }
        let structured = self.below(4) > 0;
        for _ in 0..steps {
            match self.form {
                Form::Json | Form::Gzip if structured => self.json(&mut bytes, 0),
                Form::Safetensors if structured => self.safetensors(&mut bytes),
                Form::Parquet if structured => self.parquet(&mut bytes),
                _ => self.bytes(&mut bytes),
            }
        }
        if self.form == Form::Gzip {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            if packed.write_all(&bytes).is_ok()
                && let Ok(packed) = packed.finish()
            {
                bytes = packed;
            }
            if self.below(4) == 0 {
                self.bytes(&mut bytes);
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn below(&mut self, n: usize) -> usize {
        match n {
            0 => 0,
            n => (self.random.next_u64() % n as u64) as usize,
        }
    }

    fn number(&mut self) -> u64 {
        match self.below(3) {
            0 => self.random.next_u64() >> self.below(64),
            _ => NUMBERS[self.below(NUMBERS.len())],
        }
    }

    /// One change of bytes without regard to what they mean.
    fn bytes(&mut self, bytes: &mut Vec<u8>) {
        // Headers stand in front: half of the changes are there.
        let span = match self.below(2) {
            0 => bytes.len().min(1024),
            _ => bytes.len(),
        };
        let at = self.below(span);
        let length = 1 + self.below(64).min(bytes.len() - at.min(bytes.len()));
        let end = (at + length).min(bytes.len());
        match self.below(9) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = self.random.next_u32() as u8,
            3 | 4 => {
                let number = self.number().to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)];
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            5 => drop(bytes.drain(at..end)),
            6 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            7 => {
                let other = self.below(self.seeds.len());
                let from = self.below(self.seeds[other].len());
                let piece: Vec<u8> = self.seeds[other][from..]
                    .iter()
                    .take(length)
                    .copied()
                    .collect();
                bytes.splice(at..end, piece);
            }
            8 => bytes.truncate(at),
            _ => bytes.push(self.random.next_u32() as u8),
        }
    }

    /// One change of a JSON value: the first one from `from` on, or one further on.
    fn json(&mut self, bytes: &mut Vec<u8>, from: usize) {
        let opens = |b: &u8| matches!(b, b'{' | b'[');
        let mut from = from;
        if self.below(4) == 0 && from < bytes.len() {
            // Of several lines, another one.
            let somewhere = from + self.below(bytes.len() - from);
            let line = bytes[..somewhere].iter().rposition(|&b| b == b'\n');
            from = line.map_or(from, |line| (line + 1).max(from));
        }
        let Some(start) = bytes[from..].iter().position(opens).map(|i| from + i) else {
            return self.bytes(bytes);
        };
        let mut values = serde_json::Deserializer::from_slice(&bytes[start..]).into_iter::<Value>();
        let Some(Ok(mut value)) = values.next() else {
            return self.bytes(bytes);
        };
        let end = start + values.byte_offset();
        self.value(&mut value, 0);
        let mut text = value.to_string().into_bytes();
        if self.below(64) == 0 {
            // What serde_json does not write: numbers beyond its own, and keys twice.
            let odd = [&b"1e999"[..], b"-0", b"NaN", b"1E-400", b"\"\\ud800\""];
            let odd = odd[self.below(odd.len())];
            if let Some(digit) = text.iter().position(u8::is_ascii_digit) {
                text.splice(digit..=digit, odd.iter().copied());
            }
        }
        bytes.splice(start..end, text);
    }

    /// Changes a value or one inside it.
    fn value(&mut self, value: &mut Value, depth: usize) {
        let inside = depth < 8 && self.below(5) > 0;
        match value {
            Value::Object(fields) if inside && !fields.is_empty() => {
                let at = self.below(fields.len());
                let key = fields.keys().nth(at).cloned().unwrap_or_default();
                match self.below(8) {
                    0 => drop(fields.remove(&key)),
                    1 => {
                        let copy = fields[&key].clone();
                        let name = self.text(&key);
                        fields.insert(name, copy);
                    }
                    2 => {
                        let other = self.below(fields.len());
                        let other = fields.values().nth(other).cloned().unwrap_or_default();
                        fields.insert(key, other);
                    }
                    _ => {
                        if let Some(inner) = fields.get_mut(&key) {
                            self.value(inner, depth + 1);
                        }
                    }
                }
            }
            Value::Array(items) if inside && !items.is_empty() => {
                let at = self.below(items.len());
                match self.below(8) {
                    0 => drop(items.remove(at)),
                    1 => {
                        let copy = items[at].clone();
                        items.push(copy);
                    }
                    2 => items.swap(0, at),
                    _ => self.value(&mut items[at], depth + 1),
                }
            }
            _ => *value = self.other(value),
        }
    }

    /// A value to put in the place of another.
    fn other(&mut self, before: &Value) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(self.number()),
            3 => json!(self.number() as i64),
            4 => json!(-(self.number() as f64)),
            5 => json!([0.5, 1e-300, 1e300, -1e38, f64::MIN_POSITIVE][self.below(5)]),
            6 => json!(self.text(before.as_str().unwrap_or("a"))),
            7 => json!([]),
            8 => Value::Object(Map::new()),
            9 => {
                let mut nested = before.clone();
                for _ in 0..1 + self.below(200) {
                    nested = match self.below(2) {
                        0 => json!([nested]),
                        _ => json!({"a": nested}),
                    };
                }
                nested
            }
            10 => json!([before, before]),
            _ => match before.as_u64() {
                Some(n) => json!(n.wrapping_add(self.number() % 5).wrapping_sub(2)),
                None => before.as_str().map_or(json!(1), |s| json!(self.text(s))),
            },
        }
    }

    fn text(&mut self, before: &str) -> String {
        match self.below(8) {
            0 => String::new(),
            1 => before.repeat(1 + self.below(50)),
            2 => "../".repeat(1 + self.below(3)) + before,
            3 => format!("{before}\u{1b}[2J\u{7}\r\n"),
            4 => format!("/{before}"),
            5 => before.chars().rev().collect(),
            6 => format!("{before}\u{0}\u{202e}\u{10ffff}"),
            _ => before.chars().skip(1).collect(),
        }
    }

    /// Changes the header and puts its new length in front, most of the time.
    fn safetensors(&mut self, bytes: &mut Vec<u8>) {
        let length = bytes.first_chunk().map(|n| u64::from_le_bytes(*n));
        let header = length.and_then(|n| usize::try_from(n).ok());
        let Some(header) =
            header.filter(|n| n.checked_add(8).is_some_and(|end| end <= bytes.len()))
        else {
            return self.bytes(bytes);
        };
        if self.below(3) == 0 {
            // The data alone.
            let mut data = bytes.split_off(8 + header);
            self.bytes(&mut data);
            bytes.extend(data);
            return;
        }
        let mut text = bytes[8..8 + header].to_vec();
        self.json(&mut text, 0);
        let declared = match self.below(16) {
            0 => self.number(),
            _ => text.len() as u64,
        };
        bytes.splice(8..8 + header, text);
        bytes[..8].copy_from_slice(&declared.to_le_bytes());
    }

    /// Changes the description at the end, or a page's header.
    fn parquet(&mut self, bytes: &mut [u8]) {
        let end = bytes.len().saturating_sub(8);
        let length = bytes.get(end..end + 4).and_then(|b| b.first_chunk());
        let length = length.map_or(0, |n| u32::from_le_bytes(*n) as usize);
        let start = end.saturating_sub(length);
        let at = match self.below(3) {
            0 => self.below(64.min(end)),
            1 => start + self.below(end - start),
            _ => self.below(end),
        };
        if at < bytes.len() {
            match self.below(3) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.number() as u8,
                _ => bytes[at] = bytes[at].wrapping_add(2), // numbers are zigzag
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_follow_from_the_seed_and_differ() {
        for form in [
            Form::Bytes,
            Form::Json,
            Form::Gzip,
            Form::Safetensors,
            Form::Parquet,
        ] {
            let seeds = vec![br#"{"a": [1, "b"]}"#.to_vec(), Vec::new(), vec![7; 100]];
            let inputs = |seed| {
                let mut mutator = Mutator::new(form, seeds.clone(), seed);
                (0..300).map(|_| mutator.input()).collect::<Vec<_>>()
            };
            assert_eq!(inputs(1), inputs(1));
            assert_ne!(inputs(1), inputs(2));
        }
    }

    #[test]
    fn a_changed_header_mostly_has_its_length_in_front() {
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut seed = (header.len() as u64).to_le_bytes().to_vec();
        seed.extend(header);
        seed.extend([0; 4]);
        let mut mutator = Mutator::new(Form::Safetensors, vec![seed], 1);
        let parses = |bytes: &Vec<u8>| {
            let length = bytes.first_chunk().map(|n| u64::from_le_bytes(*n) as usize);
            let header = length.and_then(|n| bytes.get(8..n.checked_add(8)?));
            header.is_some_and(|h| serde_json::from_slice::<Value>(h).is_ok())
        };
        let inputs: Vec<_> = (0..300).map(|_| mutator.input()).collect();
        assert!(inputs.iter().filter(|i| parses(i)).count() > 150);
    }
}
