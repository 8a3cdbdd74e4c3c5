//! What can be wrong with a field.

/// See [`Head::with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anomaly {
    Empty,
    Missing,
    Doubled,
    /// 64 KiB and nothing else.
    Huge,
    /// The value, and 64 KiB behind it.
    HugeTail,
    Nul,
    NotUtf8,
    Negative,
    Overflow32,
    Overflow64,
    Fraction,
    /// A quote that is never closed, in front.
    Quote,
    LoneLineEnd,
}

use Anomaly::*;

/// Every anomaly.
pub const ALL: [Anomaly; 13] = [
    Empty,
    Missing,
    Doubled,
    Huge,
    HugeTail,
    Nul,
    NotUtf8,
    Negative,
    Overflow32,
    Overflow64,
    Fraction,
    Quote,
    LoneLineEnd,
];

/// A message taken apart.
pub struct Head {
    start: Vec<u8>,
    /// Names and values.
    pub fields: Vec<(String, Vec<u8>)>,
    /// What follows the last field: of SIP and of SEND the empty line and the body, else the end-line.
    rest: Vec<u8>,
}

impl Head {
    pub fn of(message: &[u8]) -> Self {
        let text = std::str::from_utf8(message).expect("text");
        let (start, mut rest) = text.split_once("\r\n").expect("a start line");
        let mut fields = Vec::new();
        while let Some((line, after)) = rest.split_once("\r\n") {
            let Some((name, value)) = line.split_once(": ") else {
                break;
            };
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
            rest = after;
        }
        Self {
            start: start.as_bytes().to_vec(),
            fields,
            rest: rest.as_bytes().to_vec(),
        }
    }

    /// The message with one field made wrong.
    pub fn with(&self, place: usize, anomaly: Anomaly) -> Vec<u8> {
        let mut out = [&self.start[..], b"\r\n"].concat();
        for (index, (name, value)) in self.fields.iter().enumerate() {
            let values = match index == place {
                true => anomaly.of(value),
                false => vec![value.clone()],
            };
            for value in values {
                out.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
            }
        }
        out.extend_from_slice(&self.rest);
        out
    }
}

impl Anomaly {
    /// The values that stand there instead.
    fn of(self, value: &[u8]) -> Vec<Vec<u8>> {
        let huge = [b'1'; 65_536];
        let (front, back) = value.split_at(value.len() / 2);
        let one = match self {
            Empty => Vec::new(),
            Missing => return Vec::new(),
            Doubled => return vec![value.to_vec(); 2],
            Huge => huge.to_vec(),
            HugeTail => [value, &huge].concat(),
            Nul => [front, b"\0", back].concat(),
            NotUtf8 => [front, b"\xff", back].concat(),
            Negative => number(value, b"-1"),
            Overflow32 => number(value, b"4294967296"),
            Overflow64 => number(value, b"18446744073709551616"),
            Fraction => number(value, b"1.5"),
            Quote => [b"\"", value].concat(),
            LoneLineEnd => [front, b"\n", back].concat(),
        };
        vec![one]
    }
}

/// The value with its first number, or all of it, as another.
fn number(value: &[u8], other: &[u8]) -> Vec<u8> {
    let digit = |octet: &u8| octet.is_ascii_digit();
    let from = value.iter().position(digit).unwrap_or_default();
    let length = value[from..]
        .iter()
        .take_while(|octet| digit(octet))
        .count();
    let length = if length == 0 { value.len() } else { length };
    [&value[..from], other, &value[from + length..]].concat()
}
