//! New inputs from known ones.

/// Random numbers from a seed (splitmix64): the same everywhere, and nobody's secret.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From that seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }

    /// One of them.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// An input does not grow beyond this.
const LONGEST: usize = 64 << 10;
/// Numbers at which programs go wrong, as they are written.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "7",
    "127",
    "128",
    "255",
    "256",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0.5",
];
const BYTES: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'"', b'\\', b'\n', b'{', b'['];

/// What mutation has to work with.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// Inputs to take parts from.
    pub corpus: &'a [Vec<u8>],
    /// See [`crate::Target::words`].
    pub words: &'a [&'a str],
    /// See [`crate::Target::block`].
    pub block: usize,
}

/// Changes an input in one to sixteen places.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, material: Material<'_>) {
    let times = 1 << random.below(5);
    for _ in 0..times {
        once(random, input, material);
        input.truncate(LONGEST);
    }
}

fn once(random: &mut Random, input: &mut Vec<u8>, material: Material<'_>) {
    let at = random.below(input.len() + 1);
    match random.below(12) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = BYTES[random.below(BYTES.len())],
        2 if at < input.len() => input[at] = random.number() as u8,
        3 => {
            let byte = BYTES[random.below(BYTES.len())];
            let count = 1 << random.below(10);
            input.splice(at..at, std::iter::repeat_n(byte, count));
        }
        4 => drop(input.drain(range(random, input.len(), 1))),
        5 => insert(random, input, material, 1),
        6 => insert(random, input, material, material.block),
        7 => drop(input.drain(range(random, input.len(), material.block))),
        8 => exchange_number(random, input, at),
        9 => {
            // Of two inputs the one's beginning and the other's end.
            let Some(other) = random.of(material.corpus) else { return };
            let from = random.below(other.len() + 1) / material.block * material.block;
            input.truncate(at / material.block * material.block);
            input.extend_from_slice(&other[from..]);
        }
        10 => {
            let Some(word) = random.of(material.words) else { return };
            input.splice(at..at, word.bytes());
        }
        _ => exchange_word(random, input, material.words),
    }
}

/// Some of an input, from one block's beginning to another's end.
fn range(random: &mut Random, length: usize, block: usize) -> std::ops::Range<usize> {
    let start = random.below(length + 1) / block * block;
    let most = if random.below(4) == 0 { length } else { 16 * block };
    let end = start + (random.below(most + 1) / block * block).max(1);
    start..end.min(length).max(start)
}

/// Puts a part of an input, or of another, somewhere into it, or over what is there.
fn insert(random: &mut Random, input: &mut Vec<u8>, material: Material<'_>, block: usize) {
    let own = random.below(2) == 0;
    let from = if own { Some(&*input) } else { random.of(material.corpus) };
    let Some(from) = from else { return };
    let part = from[range(random, from.len(), block)].to_vec();
    let at = random.below(input.len() + 1) / block * block;
    let over = if random.below(2) == 0 { 0 } else { part.len() };
    let end = (at + over).min(input.len());
    input.splice(at..end, part);
}

/// Writes another number where the next one stands.
fn exchange_number(random: &mut Random, input: &mut Vec<u8>, at: usize) {
    let Some(start) = (at..input.len()).find(|&at| input[at].is_ascii_digit()) else { return };
    let end = (start..input.len()).find(|&at| !input[at].is_ascii_digit()).unwrap_or(input.len());
    let number = NUMBERS[random.below(NUMBERS.len())];
    // In a field of a fixed width it keeps that.
    let fits = number.len() <= end - start && random.below(2) == 0;
    let number = if fits { format!("{number:0>width$}", width = end - start) } else { number.to_owned() };
    input.splice(start..end, number.bytes());
}

/// Writes another word where one stands.
fn exchange_word(random: &mut Random, input: &mut Vec<u8>, words: &[&str]) {
    let (Some(old), Some(new)) = (random.of(words), random.of(words)) else { return };
    let places: Vec<usize> = (0..input.len()).filter(|&at| input[at..].starts_with(old.as_bytes())).collect();
    if let Some(&at) = random.of(&places) {
        input.splice(at..at + old.len(), new.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_another_makes_others() {
        let made = |seed| {
            let (mut random, corpus) = (Random::new(seed), vec![b"{\"a\":12}".to_vec(), vec![b'x'; 2000]]);
            let material = Material { corpus: &corpus, words: &["\"a\"", "null"], block: 512 };
            (0..500)
                .map(|round| {
                    let mut input = corpus[round % 2].clone();
                    mutate(&mut random, &mut input, material);
                    assert!(input.len() <= LONGEST);
                    input
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }

    #[test]
    fn nothing_at_all_can_be_mutated() {
        let mut random = Random::new(3);
        for _ in 0..500 {
            mutate(&mut random, &mut Vec::new(), Material { corpus: &[], words: &[], block: 1 });
        }
    }
}
