//! MSRP as a simulated device writes and reads it.

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub transaction: String,
    /// The method, or the status of a response.
    pub word: String,
    head: String,
    pub body: Option<Vec<u8>>,
    pub flag: u8,
}

impl Frame {
    /// Takes the first whole frame off a stream.
    pub fn take(stream: &mut Vec<u8>) -> Option<Self> {
        let line_end = position(stream, b"\r\n")?;
        let start = String::from_utf8_lossy(&stream[..line_end]).into_owned();
        let mut words = start.split(' ').skip(1);
        let transaction = words.next()?.to_owned();
        let word = words.next()?.to_owned();
        let end_line = format!("\r\n-------{transaction}");
        let mut from = line_end;
        let at = loop {
            let at = from + position(&stream[from..], end_line.as_bytes())?;
            let flag = *stream.get(at + end_line.len())?;
            if b"$+#".contains(&flag) {
                break at;
            }
            from = at + 1;
        };
        let flag = stream[at + end_line.len()];
        let whole = at + end_line.len() + 3;
        if stream.len() < whole {
            return None;
        }
        let octets: Vec<u8> = stream.drain(..whole).collect();
        let inside = octets.get(line_end + 2..at).unwrap_or(&[]);
        let (head, body) = match position(inside, b"\r\n\r\n") {
            Some(split) => (&inside[..split], Some(inside[split + 4..].to_vec())),
            None => (inside, None),
        };
        Some(Self {
            transaction,
            word,
            head: String::from_utf8_lossy(head).into_owned(),
            body,
            flag,
        })
    }

    pub fn header(&self, name: &str) -> &str {
        let mut fields = self
            .head
            .split("\r\n")
            .filter_map(|line| line.split_once(": "));
        fields
            .find(|(own, _)| *own == name)
            .map_or("", |(_, value)| value)
    }

    /// The first octet of the chunk, from 0.
    pub fn offset(&self) -> usize {
        let range = self.header("Byte-Range");
        let start = range.split('-').next().unwrap_or_default();
        start.parse::<usize>().map_or(0, |start| start - 1)
    }

    pub fn response(&self, status: u16) -> Vec<u8> {
        let tid = &self.transaction;
        let (to, from) = (self.header("From-Path"), self.header("To-Path"));
        format!("MSRP {tid} {status} X\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{tid}$\r\n")
            .into_bytes()
    }
}

/// A chunk of a message as it goes out.
pub struct Chunk<'a> {
    pub transaction: &'a str,
    pub to: &'a str,
    pub from: &'a str,
    pub message_id: &'a str,
    pub whole: &'a [u8],
    pub start: usize,
    pub end: usize,
}

impl Chunk<'_> {
    pub fn octets(&self) -> Vec<u8> {
        let Self {
            transaction: tid,
            to,
            from,
            message_id,
            whole,
            start,
            end,
        } = self;
        let flag = if *end == whole.len() { '$' } else { '+' };
        let head = format!(
            "MSRP {tid} SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: {message_id}\r\n\
             Byte-Range: {}-{end}/{}\r\nContent-Type: message/cpim\r\n\r\n",
            start + 1,
            whole.len()
        );
        let tail = format!("\r\n-------{tid}{flag}\r\n");
        [head.as_bytes(), &whole[*start..*end], tail.as_bytes()].concat()
    }
}

/// The SEND without body that shows whose connection it is.
pub fn binding(transaction: &str, to: &str, from: &str) -> Vec<u8> {
    format!(
        "MSRP {transaction} SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: b{transaction}\r\n\
         Byte-Range: 1-0/0\r\n-------{transaction}$\r\n"
    )
    .into_bytes()
}

pub fn position(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(octets, wanted)
}
