//! Files one after the other in the form of `tar` (POSIX.1-2017, pax, "ustar Interchange Format"): as much
//! of it as a backup needs, so that any `tar` can read one.

use std::io::{self, Read};

/// Everything is in blocks of this.
pub const BLOCK: usize = 512;
/// Octets of a name, at most.
const NAME: usize = 100;
/// Octets of a file, at most: eleven octal digits.
const LONGEST: u64 = 0o777_7777_7777;

/// The block before a file's octets. Modes are 0600; who unpacks it owns it.
pub fn header(name: &str, length: u64, modified: u64) -> io::Result<[u8; BLOCK]> {
    if name.len() > NAME || length > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut block = [0; BLOCK];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, b"0000600\0");
    put(&mut block, 108, b"0000000\0");
    put(&mut block, 116, b"0000000\0");
    put(&mut block, 124, format!("{length:011o}\0").as_bytes());
    put(
        &mut block,
        136,
        format!("{:011o}\0", modified.min(LONGEST)).as_bytes(),
    );
    put(&mut block, 148, b"        ");
    put(&mut block, 156, b"0");
    put(&mut block, 257, b"ustar\x0000");
    let sum = sum_of(&block);
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn put(block: &mut [u8; BLOCK], at: usize, octets: &[u8]) {
    for (place, octet) in block.iter_mut().skip(at).zip(octets) {
        *place = *octet;
    }
}

fn sum_of(block: &[u8; BLOCK]) -> u32 {
    block.iter().copied().map(u32::from).sum()
}

/// Octets behind a file, up to the next block.
pub fn padding(length: u64) -> usize {
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// The end: two empty blocks.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The next file's name and length; `None` at the end. What follows are its octets and the padding.
pub fn next(from: &mut impl Read) -> io::Result<Option<(String, u64)>> {
    let mut block = [0; BLOCK];
    from.read_exact(&mut block)?;
    if block.iter().all(|octet| *octet == 0) {
        return Ok(None);
    }
    let said = octal(&block[148..156]);
    block[148..156].fill(b' ');
    let sound = said == Some(sum_of(&block).into()) && block[156] == b'0';
    let name = block[..NAME].split(|octet| *octet == 0).next();
    let name = name.and_then(|name| std::str::from_utf8(name).ok());
    match (sound, name, octal(&block[124..136])) {
        (true, Some(name), Some(length)) => Ok(Some((name.to_owned(), length))),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "this is not a file of a backup",
        )),
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_what_is_damaged_is_refused() {
        let mut packed = header("log/0000000000000001.seg", 5, 7).unwrap().to_vec();
        packed.extend(b"12345");
        packed.resize(packed.len() + padding(5), 0);
        packed.extend(END);
        let mut from = packed.as_slice();
        let found = next(&mut from).unwrap();
        assert_eq!(found, Some(("log/0000000000000001.seg".to_owned(), 5)));
        from = &from[5 + padding(5)..];
        assert_eq!(next(&mut from).unwrap(), None);
        for at in [0, 100, 130, 150] {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            assert!(next(&mut damaged.as_slice()).is_err(), "{at}");
        }
        assert!(next(&mut &packed[..100]).is_err());
        assert!(header("log", LONGEST + 1, 0).is_err());
    }

    #[test]
    fn whole_blocks_need_no_padding() {
        assert_eq!([padding(0), padding(1), padding(512)], [0, 511, 0]);
    }
}
