//! What is owed, and what came: the four sets (lost, unexpected, duplicate, reordered), what expired, and who
//! was told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use restante::clock::Instant;
use restante::demo::Envelope;

/// A confirmation so shortly before a kill may not have been durable, or not even read by the server.
const UNREAD: Duration = Duration::from_millis(500);
/// How much later than its expiry a message may be seen here: what a loaded machine needs to schedule us.
const LATENESS: Duration = Duration::from_millis(1500);

/// Messages of one author to one recipient by one way, which must come in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    pub author: &'static str,
    pub recipient: &'static str,
    pub way: &'static str,
}

/// What its author heard of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Acknowledged(Instant),
    Refused(Instant),
}

struct Sent {
    stream: Stream,
    number: u64,
    octets: Vec<u8>,
    outcome: Outcome,
    /// Time to live that its author gave it.
    lives: Option<Duration>,
    /// The author wants to hear if it is not delivered.
    asks: bool,
    /// A younger one was acknowledged before it, so it may come anywhere.
    out_of_line: bool,
    /// Its author did not hear that it was taken, and said it in another request or session.
    said_again: bool,
    /// When its author heard 503 and that it may be said again.
    put_off: Vec<Instant>,
}

struct Arrival {
    id: String,
    octets: Vec<u8>,
    /// The device had it.
    shown: Instant,
    /// It said so.
    at: Instant,
}

/// A time in which confirmations may be forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    from: Instant,
    to: Instant,
    /// The disk refused for a while, so that more than what is in flight may be forgotten.
    pub disk: bool,
}

#[derive(Default)]
struct Pages {
    sent: HashMap<String, Sent>,
    numbers: HashMap<Stream, u64>,
    arrived: Vec<Arrival>,
    arrived_ids: HashSet<String>,
    /// Messages whose authors heard `failed`.
    told: HashSet<String>,
    excuses: Vec<Excuse>,
}

/// Written by everybody who takes part.
#[derive(Default)]
pub struct Book(Mutex<Pages>);

/// What is wrong.
#[derive(Debug, Default)]
pub struct Verdict {
    pub lost: Vec<String>,
    pub unexpected: Vec<String>,
    /// Beyond what a kill excuses.
    pub repeated: Vec<String>,
    pub reordered: Vec<String>,
    pub late: Vec<String>,
    pub untold: Vec<String>,
    /// Both delivered and told as failed, with no kill that excuses it.
    pub contradicted: Vec<String>,
}

impl Verdict {
    pub fn sets(&self) -> [(&'static str, &Vec<String>); 7] {
        [
            ("lost", &self.lost),
            ("unexpected", &self.unexpected),
            ("repeated without a cause", &self.repeated),
            ("reordered", &self.reordered),
            ("delivered after expiry", &self.late),
            ("expired and not told", &self.untold),
            ("delivered and told as failed", &self.contradicted),
        ]
    }
}

/// What there is to count.
#[derive(Debug, Default)]
pub struct Counts {
    pub acknowledged: u64,
    pub refused: u64,
    pub delivered: u64,
    pub expired: u64,
    pub told: u64,
    /// Messages that came again, with a kill that excuses it.
    pub duplicates: u64,
    /// In all; and of one stream after one kill, at most, where the disk did not refuse before.
    pub duplicates_by_way: BTreeMap<&'static str, (u64, u64)>,
    /// Messages that came again because their authors said them again: they had not heard that they were taken.
    pub said_again: u64,
    /// Of one stream after one kill, at most; where the disk refused for a while, apart.
    pub most_duplicates: u64,
    pub most_duplicates_of_disk: u64,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().expect("nobody panics with the book in hand")
    }

    /// How a stream's next message is called.
    pub fn next_name(&self, stream: Stream) -> String {
        let number = self.pages().numbers.get(&stream).copied().unwrap_or(0);
        stream.name_of(number + 1)
    }

    /// A message is about to leave for the first time.
    pub fn begin(&self, stream: Stream, envelope: &Envelope, lives: Option<Duration>) {
        let mut pages = self.pages();
        let number = pages.numbers.entry(stream).or_default();
        *number += 1;
        let sent = Sent {
            stream,
            number: *number,
            octets: envelope.to_octets(),
            outcome: Outcome::Open,
            lives,
            asks: envelope.asks.contains("negative-delivery"),
            out_of_line: false,
            said_again: false,
            put_off: Vec::new(),
        };
        pages.sent.insert(envelope.message_id.clone(), sent);
    }

    pub fn acknowledged(&self, envelope: &Envelope, now: Instant) {
        self.end(envelope, Outcome::Acknowledged(now));
    }

    pub fn refused(&self, envelope: &Envelope, now: Instant) {
        self.end(envelope, Outcome::Refused(now));
    }

    /// It was not acknowledged while younger ones were.
    pub fn out_of_line(&self, envelope: &Envelope) {
        if let Some(sent) = self.pages().sent.get_mut(&envelope.message_id) {
            sent.out_of_line = true;
        }
    }

    /// It leaves once more, in another request or session.
    pub fn said_again(&self, envelope: &Envelope) {
        if let Some(sent) = self.pages().sent.get_mut(&envelope.message_id) {
            sent.said_again = true;
        }
    }

    /// It was answered 503, and leaves once more.
    pub fn put_off(&self, envelope: &Envelope, now: Instant) {
        if let Some(sent) = self.pages().sent.get_mut(&envelope.message_id) {
            sent.said_again = true;
            sent.put_off.push(now);
        }
    }

    fn end(&self, envelope: &Envelope, outcome: Outcome) {
        if let Some(sent) = self.pages().sent.get_mut(&envelope.message_id) {
            sent.outcome = outcome;
        }
    }

    /// A device that was shown this says that it takes it. False if it has it already.
    pub fn arrived(&self, octets: &[u8], shown: Instant, at: Instant) -> bool {
        let envelope = Envelope::read(octets);
        let mut pages = self.pages();
        if let Some(failed) = envelope.as_ref().and_then(failed) {
            pages.told.insert(failed);
            return true;
        }
        let id = envelope.map(|envelope| envelope.message_id);
        let id = id.unwrap_or_default();
        pages.arrived.push(Arrival {
            id: id.clone(),
            octets: octets.to_vec(),
            shown,
            at,
        });
        pages.arrived_ids.insert(id)
    }

    /// What a kill or a fault excuses from `from` on, less what is on its way, until `to`, when the server
    /// answers again.
    pub fn excuse(&self, from: Instant, to: Instant, disk: bool) {
        let from = from - UNREAD;
        self.pages().excuses.push(Excuse { from, to, disk });
    }

    /// After SIGTERM everything that was said before the end counts; nobody hears what is said after it.
    pub fn excuse_after_stop(&self, from: Instant, to: Instant) {
        self.pages().excuses.push(Excuse {
            from,
            to,
            disk: false,
        });
    }

    /// Acknowledged messages that neither came nor were told as failed.
    pub fn owed(&self) -> usize {
        let pages = self.pages();
        let settled = |id: &String, sent: &Sent| {
            pages.arrived_ids.contains(id)
                || (sent.lives.is_some() && (pages.told.contains(id) || !sent.asks))
        };
        let owed = |(id, sent): &(&String, &Sent)| {
            matches!(sent.outcome, Outcome::Acknowledged(_)) && !settled(id, sent)
        };
        pages.sent.iter().filter(owed).count()
    }

    /// How much has happened so far, to see that something does.
    pub fn progress(&self) -> usize {
        let pages = self.pages();
        pages.arrived.len() + pages.told.len()
    }

    pub fn judge(&self) -> (Verdict, Counts) {
        let mut pages = self.pages();
        pages.arrived.sort_by_key(|arrival| arrival.at);
        let (mut verdict, mut counts) = (Verdict::default(), Counts::default());
        let first = pages.judge_arrivals(&mut verdict, &mut counts);
        pages.judge_sent(&first, &mut verdict, &mut counts);
        (verdict, counts)
    }
}

impl Pages {
    fn excuse_of(&self, (shown, at): (Instant, Instant)) -> Option<usize> {
        let excused = |excuse: &Excuse| excuse.from <= at && shown <= excuse.to;
        self.excuses.iter().position(excused)
    }

    /// Whether a failing disk may have kept what was answered 503: the record was written, its sync failed.
    fn may_be_kept(&self, sent: &Sent) -> bool {
        let mut all = sent.put_off.iter();
        all.any(|at| {
            let mut excuses = self.excuses.iter().filter(|excuse| excuse.disk);
            excuses.any(|excuse| (excuse.from..=excuse.to).contains(at))
        })
    }

    /// When each message came first.
    fn judge_arrivals(
        &self,
        verdict: &mut Verdict,
        counts: &mut Counts,
    ) -> HashMap<String, (Instant, Instant)> {
        let mut latest = HashMap::new();
        let mut first = HashMap::new();
        let mut reached: HashMap<Stream, u64> = HashMap::new();
        let mut again: BTreeMap<(usize, Stream), u64> = BTreeMap::new();
        for arrival in &self.arrived {
            let Some(sent) = self.sent.get(&arrival.id) else {
                verdict.unexpected.push(shown(&arrival.octets));
                continue;
            };
            let name = sent.name();
            if arrival.octets != sent.octets {
                verdict.unexpected.push(format!("{name} was changed"));
            }
            // A device may take it, and refuse it when a dead server's successor asks again.
            let was_refused = matches!(sent.outcome, Outcome::Refused(at) if at < arrival.shown);
            if was_refused && !self.may_be_kept(sent) {
                verdict.unexpected.push(format!("{name} was refused"));
            }
            if let (Some(lives), Outcome::Acknowledged(at)) = (sent.lives, sent.outcome)
                && arrival.at > at + lives + LATENESS
            {
                verdict.late.push(name.clone());
            }
            if let Some(before) = latest.insert(arrival.id.clone(), arrival.times()) {
                // One that was shown by a server that is dead, and taken later, came before the other.
                let was_late = arrival.at.since(arrival.shown) > UNREAD;
                let late = || was_late.then(|| self.excuse_of(arrival.times())).flatten();
                match self.excuse_of(before).or_else(late) {
                    Some(excuse) => *again.entry((excuse, sent.stream)).or_default() += 1,
                    None if sent.said_again => counts.said_again += 1,
                    None => verdict.repeated.push(name),
                }
                continue;
            }
            first.insert(arrival.id.clone(), arrival.times());
            if sent.out_of_line {
                continue;
            }
            let last = reached.entry(sent.stream).or_default();
            if sent.number < *last {
                verdict.reordered.push(format!("{name} after {last}"));
            }
            *last = sent.number.max(*last);
        }
        for ((excuse, stream), many) in again {
            counts.duplicates += many;
            let of_way = counts.duplicates_by_way.entry(stream.way).or_default();
            of_way.0 += many;
            if self.excuses[excuse].disk {
                counts.most_duplicates_of_disk = many.max(counts.most_duplicates_of_disk);
            } else {
                of_way.1 = many.max(of_way.1);
                counts.most_duplicates = many.max(counts.most_duplicates);
            }
        }
        first
    }

    fn judge_sent(
        &self,
        first: &HashMap<String, (Instant, Instant)>,
        verdict: &mut Verdict,
        counts: &mut Counts,
    ) {
        for (id, sent) in &self.sent {
            let name = sent.name();
            let (came, told) = (first.get(id), self.told.contains(id));
            counts.delivered += u64::from(came.is_some());
            counts.told += u64::from(told);
            // Said again in a new request it is another message: one may be delivered, the other may fail.
            if let Some(times) = came
                && told
                && self.excuse_of(*times).is_none()
                && !self.may_be_kept(sent)
            {
                verdict.contradicted.push(name.clone());
            }
            match sent.outcome {
                Outcome::Open => {}
                Outcome::Refused(_) => counts.refused += 1,
                Outcome::Acknowledged(_) => {
                    counts.acknowledged += 1;
                    if came.is_some() {
                        continue;
                    }
                    match sent.lives {
                        None => verdict.lost.push(name),
                        Some(_) => {
                            counts.expired += 1;
                            if sent.asks && !told {
                                verdict.untold.push(name);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Arrival {
    fn times(&self) -> (Instant, Instant) {
        (self.shown, self.at)
    }
}

impl Sent {
    fn name(&self) -> String {
        self.stream.name_of(self.number)
    }
}

impl Stream {
    fn name_of(&self, number: u64) -> String {
        let (way, author, recipient) = (self.way, self.author, self.recipient);
        format!("{way} {number} from {author} to {recipient}")
    }
}

/// The message that a notification of the server's calls failed.
fn failed(envelope: &Envelope) -> Option<String> {
    let xml = envelope.content_text();
    let (_, rest) = xml.split_once("<message-id>")?;
    let id = rest.split_once("</message-id>")?.0.trim();
    envelope.notifies("failed", id).then(|| id.to_owned())
}

fn shown(octets: &[u8]) -> String {
    let shown = &octets[..octets.len().min(400)];
    String::from_utf8_lossy(shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use restante::demo::Disposition;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn stream() -> Stream {
        Stream {
            author: "ann",
            recipient: "frank",
            way: "pager",
        }
    }

    fn hello() -> Envelope {
        let (from, to) = ("sip:ann@im.test", "sip:frank@im.test");
        Envelope::new(from, to, "text/plain", b"hello")
    }

    /// A message that was answered 503 at second 10, 603 at 12, and came at 20.
    fn refused_and_delivered(disk: bool) -> Verdict {
        let book = Book::default();
        let envelope = hello();
        book.begin(stream(), &envelope, None);
        book.put_off(&envelope, at(10));
        book.refused(&envelope, at(12));
        book.excuse(at(9), at(14), disk);
        book.arrived(&envelope.to_octets(), at(20), at(20));
        book.judge().0
    }

    #[test]
    fn what_a_failing_disk_refused_may_come_although_a_device_declined_it_meanwhile() {
        assert!(refused_and_delivered(true).unexpected.is_empty());
        assert_eq!(refused_and_delivered(false).unexpected.len(), 1);
    }

    /// A message that was answered 503 at second 10 and 202 at 15, came at 15 and was told as failed.
    fn failed_and_delivered(disk: bool) -> Verdict {
        let book = Book::default();
        let envelope = hello();
        book.begin(stream(), &envelope, Some(Duration::from_secs(1)));
        book.put_off(&envelope, at(10));
        book.acknowledged(&envelope, at(15));
        book.excuse(at(9), at(14), disk);
        book.arrived(&envelope.to_octets(), at(15), at(15));
        let id = &envelope.message_id;
        let failure = envelope.notification(Disposition::Delivered);
        let text = failure.content_text().replace("delivered/>", "failed/>");
        let failure = Envelope {
            content: text.into_bytes(),
            ..failure
        };
        assert_eq!(failed(&failure).as_ref(), Some(id));
        book.arrived(&failure.to_octets(), at(16), at(16));
        book.judge().0
    }

    #[test]
    fn what_a_failing_disk_refused_may_fail_although_it_was_delivered_when_it_was_said_again() {
        assert!(failed_and_delivered(true).contradicted.is_empty());
        assert_eq!(failed_and_delivered(false).contradicted.len(), 1);
    }
}
