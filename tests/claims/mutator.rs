//! Mutations that know what SIP, MSRP, SDP and XML are made of.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Words that parsers stumble over.
const WORDS: [&[u8]; 58] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n\t",
    b"\n",
    b"\r",
    b"\0",
    b"%00",
    b"%0d%0a",
    b"%",
    b"%s%n%x",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    "\u{202e}".as_bytes(),
    b"-1",
    b"0",
    b"4294967295",
    b"4294967296",
    b"2147483648",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999999999999",
    b"0x10",
    b"1e9",
    b" : ",
    b"::",
    b";;",
    b",",
    b";lr",
    b";branch=z9hG4bK",
    b";tag=",
    b";q=9.9",
    b";ttl=256",
    b"\"",
    b"\\\"",
    b"\\",
    b"<",
    b"<<",
    b">",
    b"<sip:",
    b"[::1]",
    b"[::::1]",
    b"@",
    b"@@",
    b"../../../../etc/passwd",
    b"*",
    b"((((((((((",
    b"Content-Length: 99999999\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n-------",
    b"$\r\n",
    b"Byte-Range: 18446744073709551615-1/*\r\n",
    b"<!ENTITY a \"&a;&a;\">",
    b"--b\r\n",
    b"SIP/2.0",
];

/// Octets that the copies of one line have together.
const MOST_COPIED: usize = 100_000;

/// Mutates by one seed.
#[derive(Debug)]
pub struct Mutator(StdRng);

impl Mutator {
    /// The same seed gives the same mutations.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            0
        } else {
            self.0.random_range(0..end)
        }
    }

    /// So many random octets.
    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        self.0.fill_bytes(&mut octets);
        octets
    }

    /// One to four mutations of `octets`; `other` gives what is spliced in. At most `most` octets.
    pub fn mutate(&mut self, octets: &[u8], other: &[u8], most: usize) -> Vec<u8> {
        let mut out = octets.to_vec();
        for _ in 0..=self.below(4) {
            self.once(&mut out, other);
            out.truncate(most);
        }
        out
    }

    fn once(&mut self, out: &mut Vec<u8>, other: &[u8]) {
        match self.below(14) {
            0 => self.flips(out),
            1 => self.overwrites(out),
            2 | 3 => self.inserts(out),
            4 => {
                let end = self.below(out.len() + 1);
                out.truncate(end);
            }
            5 => self.removes(out),
            6 => self.repeats_a_piece(out),
            7 => self.changes_a_number(out),
            8..=10 => self.changes_the_lines(out),
            11 => self.swaps_within_a_line(out),
            12 => self.stretches(out),
            _ => {
                let (from, to) = (self.below(other.len() + 1), self.below(out.len() + 1));
                let piece = &other[from..];
                let count = self.below(piece.len().min(300) + 1);
                out.splice(to..to, piece[..count].iter().copied());
            }
        }
    }

    fn flips(&mut self, out: &mut [u8]) {
        let (at, bit) = (self.below(out.len()), self.below(8));
        if let Some(octet) = out.get_mut(at) {
            *octet ^= 1 << bit;
        }
    }

    fn overwrites(&mut self, out: &mut [u8]) {
        let at = self.below(out.len());
        let common = b"\r\n :;,<>\"\\@/=\0%-[]*+$#";
        let octet = match self.below(3) {
            0 => self.below(256) as u8,
            _ => common[self.below(common.len())],
        };
        if let Some(place) = out.get_mut(at) {
            *place = octet;
        }
    }

    fn inserts(&mut self, out: &mut Vec<u8>) {
        let at = self.below(out.len() + 1);
        let word = WORDS[self.below(WORDS.len())];
        out.splice(at..at, word.iter().copied());
    }

    fn removes(&mut self, out: &mut Vec<u8>) {
        let from = self.below(out.len() + 1);
        let count = self.below((out.len() - from).min(40) + 1);
        out.drain(from..from + count);
    }

    fn repeats_a_piece(&mut self, out: &mut Vec<u8>) {
        let from = self.below(out.len() + 1);
        let count = self.below((out.len() - from).min(60) + 1);
        let piece = out[from..from + count].to_vec();
        let times = [1, 2, 10, 100][self.below(4)];
        let many = piece.repeat(times);
        out.splice(from..from, many);
    }

    /// A number becomes another, mostly one at a bound.
    fn changes_a_number(&mut self, out: &mut Vec<u8>) {
        let starts: Vec<usize> = (0..out.len())
            .filter(|at| out[*at].is_ascii_digit() && (*at == 0 || !out[at - 1].is_ascii_digit()))
            .collect();
        let Some(start) = starts.get(self.below(starts.len())).copied() else {
            return;
        };
        let digits = out[start..]
            .iter()
            .take_while(|octet| octet.is_ascii_digit());
        let end = start + digits.count();
        let new = match self.below(4) {
            0 => self.below(1000).to_string().into_bytes(),
            1 => vec![b'9'; 1 + self.below(40)],
            _ => WORDS[16 + self.below(10)].to_vec(),
        };
        out.splice(start..end, new);
    }

    /// Lines doubled, swapped, left out, folded, emptied, renamed or given a blank before the colon.
    fn changes_the_lines(&mut self, out: &mut Vec<u8>) {
        let mut lines: Vec<Vec<u8>> = out
            .split_inclusive(|octet| *octet == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        let (at, to) = (self.below(lines.len()), self.below(lines.len()));
        if lines.is_empty() {
            return;
        }
        let colon = lines[at].iter().position(|octet| *octet == b':');
        match (self.below(8), colon) {
            (0, _) => lines.swap(at, to),
            (1, _) => {
                lines.remove(at);
            }
            (2, _) => lines.insert(to, lines[at].clone()),
            (3, Some(colon)) => {
                lines[at].splice(colon + 1..=colon, b"\r\n ".iter().copied());
            }
            (4, Some(colon)) => lines[at].truncate(colon + 1),
            (5, Some(colon)) => {
                let other = lines[to]
                    .iter()
                    .position(|octet| *octet == b':')
                    .unwrap_or(0);
                let name = lines[to][..other].to_vec();
                lines[at].splice(..colon, name);
            }
            (6, Some(colon)) => {
                lines[at].splice(colon..colon, b" \t".iter().copied());
            }
            (_, _) => {
                let line = lines[at].clone();
                let copies = [2, 20, 200, 600][self.below(4)].min(1 + MOST_COPIED / line.len());
                lines.splice(at..at, std::iter::repeat_n(line, copies));
            }
        }
        *out = lines.concat();
    }

    fn swaps_within_a_line(&mut self, out: &mut [u8]) {
        let (a, b) = (self.below(out.len()), self.below(out.len()));
        if !out.is_empty() {
            out.swap(a, b);
        }
    }

    fn stretches(&mut self, out: &mut Vec<u8>) {
        let at = self.below(out.len() + 1);
        let octet = [b'a', b'<', b'(', b';', b' ', b'%', b'\0', 0xc3][self.below(8)];
        let count = [10, 300, 5_000, 70_000][self.below(4)];
        out.splice(at..at, std::iter::repeat_n(octet, count));
    }
}
