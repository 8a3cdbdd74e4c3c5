//! Which messages await receipts, and which receipts their authors have had (cpm-facts §8). Pure.
//!
//! The table lies on the author's shard: every receipt for him passes there, whoever sends it and by
//! whatever way. A message that asks for receipts is entered before a device can have it; a receipt of
//! an unknown message makes a row of its own, so that it too comes once. In memory, bounded by number
//! and time: what is forgotten, or was before a restart, is unknown again, and let through.

use std::collections::{BTreeMap, HashMap};

use super::one_or_more::OneOrMore;
use crate::clock::UnixMillis;
use crate::cpim::{self, Envelope};
use crate::identity::Identity;
use crate::imdn::{self, DispositionNotification, ImdnError, Kind, Status};
use crate::multipart::media_type;
use crate::store::request::DeferredMessage;

/// The longest Message-ID that is kept track of.
pub const LONGEST_ID: usize = 255;

/// One message to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRef {
    /// Who wrote it.
    pub author: Identity,
    /// Whom it was for.
    pub recipient: Identity,
    /// `imdn.Message-ID`
    pub message_id: Box<str>,
}

impl MessageRef {
    /// Of a kept one.
    pub fn of(message: &DeferredMessage) -> Self {
        Self {
            author: message.author.clone(),
            recipient: message.recipient.clone(),
            message_id: message.message_id.as_str().into(),
        }
    }
}

/// A message that asks for receipts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub message: MessageRef,
    /// How long receipts of it are kept track of.
    pub until: UnixMillis,
}

/// What a notification says of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `imdn.Message-ID` of the message.
    pub message_id: Box<str>,
    /// Which disposition.
    pub kind: Kind,
    /// How it went.
    pub status: Status,
}

impl Notice {
    /// Whether the recipient has the message, so that no copy of it need wait for him.
    pub fn confirms(&self) -> bool {
        matches!(self.status, Status::Delivered | Status::Displayed)
    }
}

impl Notice {
    /// What a body says that is a notification, or an aggregate, in an envelope or by itself. A content
    /// in an encoding we do not undo says nothing that we know of.
    pub fn read(
        content_type: &str,
        disposition: Option<&str>,
        body: &[u8],
    ) -> Result<Vec<Self>, ImdnError> {
        if media_type(content_type) != cpim::MEDIA_TYPE {
            return Self::of(content_type, disposition, body);
        }
        let envelope = Envelope::parse(body).map_err(|_| ImdnError::NotANotification)?;
        let encoding = envelope.content_header("Content-Transfer-Encoding");
        if encoding.is_some_and(|it| !matches!(media_type(it).as_str(), "7bit" | "8bit" | "binary"))
        {
            return Ok(Vec::new());
        }
        let content = body.get(envelope.content()).unwrap_or_default();
        let disposition = envelope.content_header("Content-Disposition");
        Self::of(envelope.content_type(), disposition, content)
    }

    fn of(
        content_type: &str,
        disposition: Option<&str>,
        content: &[u8],
    ) -> Result<Vec<Self>, ImdnError> {
        let notices = imdn::notices(content_type, disposition, content)?;
        let notices = notices.ok_or(ImdnError::NotANotification)?;
        Ok(notices.iter().map(Self::from).collect())
    }
}

impl From<&DispositionNotification> for Notice {
    fn from(read: &DispositionNotification) -> Self {
        Self {
            message_id: read.message_id.as_str().into(),
            kind: read.kind,
            status: read.status,
        }
    }
}

/// A receipt on its way to an author: one notification, or an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who wrote the messages it speaks of.
    pub author: Identity,
    /// Who sends it; of one that we make ourselves, the recipient it speaks for.
    pub speaker: Identity,
    /// We make it ourselves.
    pub own: bool,
    /// What it says.
    pub notices: Vec<Notice>,
}

/// What becomes of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the author.
    Pass,
    /// The author has had all it says.
    Duplicate,
    /// It speaks of a message that was not for its sender.
    NotTheRecipient,
}

/// What the author of a message has heard of it from one recipient.
#[derive(Debug, Default)]
struct Row {
    /// The message is known; otherwise only receipts of it are.
    known: bool,
    /// Which kinds have come, and which of these with a good word.
    heard: u8,
    well: u8,
    place: (UnixMillis, u64),
}

impl Row {
    /// A good word follows a bad one, for it is the later truth: `delivered` after our own `failed`, say.
    /// Anything else comes once.
    fn has_heard(&self, notice: &Notice) -> bool {
        let bit = bit(notice.kind);
        match notice.confirms() {
            true => self.well & bit != 0,
            false => self.heard & bit != 0,
        }
    }

    fn hear(&mut self, notice: &Notice) {
        let bit = bit(notice.kind);
        self.heard |= bit;
        if notice.confirms() {
            self.well |= bit;
        }
    }
}

const fn bit(kind: Kind) -> u8 {
    match kind {
        Kind::Delivery => 1,
        Kind::Display => 2,
        Kind::Processing => 4,
        Kind::Interworking => 8,
    }
}

type Messages = HashMap<Box<str>, OneOrMore<Identity, Row>, foldhash::fast::RandomState>;

/// See the module's text.
#[derive(Debug)]
pub struct Receipts {
    authors: HashMap<Identity, Messages, foldhash::fast::RandomState>,
    /// Every row by the end of its time.
    order: BTreeMap<(UnixMillis, u64), MessageRef>,
    most: usize,
    last: u64,
}

impl Receipts {
    /// Keeps track of at most so many messages.
    pub fn new(most: usize) -> Self {
        Self {
            authors: HashMap::default(),
            order: BTreeMap::new(),
            most,
            last: 0,
        }
    }

    /// How many messages are kept track of.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A message that asks for receipts goes to its recipient. Entered again, say because it is
    /// replayed, it keeps what has been heard. Returns how many others were forgotten before their time.
    pub fn sent(&mut self, sent: &Sent, now: UnixMillis) -> usize {
        let (forgotten, row) = self.row(&sent.message, sent.until, now);
        if let Some(row) = row {
            row.known = true;
        }
        forgotten
    }

    /// What becomes of a receipt.
    pub fn judge(&self, receipt: &Receipt) -> Verdict {
        let messages = self.authors.get(&receipt.author);
        let mut verdict = match receipt.notices.is_empty() {
            true => Verdict::Pass,
            false => Verdict::Duplicate,
        };
        for notice in &receipt.notices {
            let rows = messages.and_then(|messages| messages.get(&notice.message_id));
            let row = rows.and_then(|rows| rows.get(&receipt.speaker));
            let known = rows.is_some_and(|rows| rows.values().any(|row| row.known));
            if known && !receipt.own && !row.is_some_and(|row| row.known) {
                return Verdict::NotTheRecipient;
            }
            if !row.is_some_and(|row| row.has_heard(notice)) {
                verdict = Verdict::Pass;
            }
        }
        verdict
    }

    /// The receipt is the author's, or is sure to become so. Returns how many messages were forgotten
    /// before their time.
    pub fn heard(&mut self, receipt: &Receipt, until: UnixMillis, now: UnixMillis) -> usize {
        let mut forgotten = 0;
        for notice in &receipt.notices {
            let message = MessageRef {
                author: receipt.author.clone(),
                recipient: receipt.speaker.clone(),
                message_id: notice.message_id.clone(),
            };
            let (more, row) = self.row(&message, until, now);
            forgotten += more;
            if let Some(row) = row {
                row.hear(notice);
            }
        }
        forgotten
    }

    /// The receipt has not reached its author after all.
    pub fn not_heard(&mut self, receipt: &Receipt) {
        let Some(messages) = self.authors.get_mut(&receipt.author) else {
            return;
        };
        for notice in &receipt.notices {
            let rows = messages.get_mut(&notice.message_id);
            if let Some(row) = rows.and_then(|rows| rows.get_mut(&receipt.speaker)) {
                row.heard &= !bit(notice.kind);
                row.well &= !bit(notice.kind);
            }
        }
    }

    /// The row of a message, made if there was none and its identifier is of usual length.
    fn row(
        &mut self,
        message: &MessageRef,
        until: UnixMillis,
        now: UnixMillis,
    ) -> (usize, Option<&mut Row>) {
        if message.message_id.len() > LONGEST_ID || self.most == 0 {
            return (0, None);
        }
        let is_new = self.find(message).is_none();
        let forgotten = if is_new { self.make_room(now) } else { 0 };
        self.last += 1;
        let place = (until, self.last);
        let messages = self.authors.entry(message.author.clone()).or_default();
        let rows = messages.entry(message.message_id.clone()).or_default();
        let row = rows.get_or_default(&message.recipient);
        if is_new || row.place.0 < until {
            self.order.remove(&row.place);
            row.place = place;
            self.order.insert(place, message.clone());
        }
        (forgotten, Some(row))
    }

    fn find(&self, message: &MessageRef) -> Option<&Row> {
        let messages = self.authors.get(&message.author)?;
        messages.get(&message.message_id)?.get(&message.recipient)
    }

    /// Forgets what is over, and if that is not enough what will be over first.
    fn make_room(&mut self, now: UnixMillis) -> usize {
        let mut forgotten = 0;
        while let Some(((until, _), _)) = self.order.first_key_value() {
            let over = *until <= now;
            if !over && self.order.len() < self.most {
                break;
            }
            forgotten += usize::from(!over);
            if let Some((_, message)) = self.order.pop_first() {
                self.remove(&message);
            }
        }
        forgotten
    }

    fn remove(&mut self, message: &MessageRef) {
        let Some(messages) = self.authors.get_mut(&message.author) else {
            return;
        };
        if let Some(rows) = messages.get_mut(&message.message_id) {
            rows.remove(&message.recipient);
            if rows.is_empty() {
                messages.remove(&message.message_id);
            }
        }
        if messages.is_empty() {
            self.authors.remove(&message.author);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Identity {
        Identity::new(name, "im.test")
    }

    fn message(id: &str, recipient: &str) -> MessageRef {
        MessageRef {
            author: user("alice"),
            recipient: user(recipient),
            message_id: id.into(),
        }
    }

    fn receipt(id: &str, speaker: &str, kind: Kind, status: Status) -> Receipt {
        Receipt {
            author: user("alice"),
            speaker: user(speaker),
            own: false,
            notices: vec![Notice {
                message_id: id.into(),
                kind,
                status,
            }],
        }
    }

    fn delivered(id: &str, speaker: &str) -> Receipt {
        receipt(id, speaker, Kind::Delivery, Status::Delivered)
    }

    const NOW: UnixMillis = UnixMillis(1_000);
    const LATER: UnixMillis = UnixMillis(2_000);

    fn knowing(id: &str, recipient: &str) -> Receipts {
        let mut receipts = Receipts::new(10);
        let message = message(id, recipient);
        let until = LATER;
        assert_eq!(receipts.sent(&Sent { message, until }, NOW), 0);
        receipts
    }

    #[test]
    fn exactly_one_of_each_kind_passes() {
        let mut receipts = knowing("m1", "bob");
        for (kind, status) in [
            (Kind::Processing, Status::Stored),
            (Kind::Delivery, Status::Delivered),
            (Kind::Display, Status::Displayed),
            (Kind::Interworking, Status::Interworked),
        ] {
            let receipt = receipt("m1", "bob", kind, status);
            assert_eq!(receipts.judge(&receipt), Verdict::Pass, "{kind:?}");
            receipts.heard(&receipt, LATER, NOW);
            assert_eq!(receipts.judge(&receipt), Verdict::Duplicate, "{kind:?}");
        }
        let processed = receipt("m1", "bob", Kind::Processing, Status::Processed);
        assert_eq!(receipts.judge(&processed), Verdict::Duplicate);
    }

    #[test]
    fn a_good_word_follows_a_bad_one_and_never_the_other_way_round() {
        let mut receipts = knowing("m1", "bob");
        let failed = receipt("m1", "bob", Kind::Delivery, Status::Failed);
        receipts.heard(&failed, LATER, NOW);
        assert_eq!(receipts.judge(&failed), Verdict::Duplicate);
        assert_eq!(receipts.judge(&delivered("m1", "bob")), Verdict::Pass);
        receipts.heard(&delivered("m1", "bob"), LATER, NOW);
        assert_eq!(receipts.judge(&failed), Verdict::Duplicate);
        assert_eq!(receipts.judge(&delivered("m1", "bob")), Verdict::Duplicate);
    }

    #[test]
    fn only_the_recipient_speaks_of_a_known_message() {
        let mut receipts = knowing("m1", "bob");
        let forged = delivered("m1", "carol");
        assert_eq!(receipts.judge(&forged), Verdict::NotTheRecipient);
        let own = Receipt {
            own: true,
            ..forged
        };
        assert_eq!(receipts.judge(&own), Verdict::Pass);
        let until = LATER;
        let message = message("m1", "carol");
        receipts.sent(&Sent { message, until }, NOW);
        assert_eq!(receipts.judge(&delivered("m1", "carol")), Verdict::Pass);
    }

    #[test]
    fn receipts_of_unknown_messages_pass_once_from_each_sender() {
        let mut receipts = Receipts::new(10);
        assert_eq!(receipts.judge(&delivered("m1", "carol")), Verdict::Pass);
        receipts.heard(&delivered("m1", "carol"), LATER, NOW);
        assert_eq!(
            receipts.judge(&delivered("m1", "carol")),
            Verdict::Duplicate
        );
        assert_eq!(receipts.judge(&delivered("m1", "bob")), Verdict::Pass);
    }

    #[test]
    fn a_receipt_that_was_taken_back_passes_again() {
        let mut receipts = knowing("m1", "bob");
        receipts.heard(&delivered("m1", "bob"), LATER, NOW);
        receipts.not_heard(&delivered("m1", "bob"));
        assert_eq!(receipts.judge(&delivered("m1", "bob")), Verdict::Pass);
        receipts.not_heard(&delivered("m2", "bob"));
    }

    #[test]
    fn an_aggregate_passes_while_any_of_it_is_new() {
        let mut receipts = knowing("m1", "bob");
        receipts.heard(&delivered("m1", "bob"), LATER, NOW);
        let mut both = delivered("m1", "bob");
        let more = receipt("m1", "bob", Kind::Display, Status::Displayed);
        both.notices.extend(more.notices);
        assert_eq!(receipts.judge(&both), Verdict::Pass);
        receipts.heard(&both, LATER, NOW);
        assert_eq!(receipts.judge(&both), Verdict::Duplicate);
    }

    #[test]
    fn the_table_is_bounded_by_number_and_by_time() {
        let mut receipts = Receipts::new(2);
        let mut sent = |id: &str, until, now| {
            let message = message(id, "bob");
            receipts.sent(&Sent { message, until }, now)
        };
        assert_eq!(sent("m1", LATER, NOW), 0);
        assert_eq!(sent("m2", UnixMillis(5_000), NOW), 0);
        assert_eq!(sent("m3", UnixMillis(6_000), NOW), 1);
        assert_eq!(sent("m4", UnixMillis(9_000), UnixMillis(5_500)), 0);
        assert_eq!(receipts.len(), 2);
        let of = |id| message(id, "bob");
        assert!(receipts.find(&of("m1")).is_none() && receipts.find(&of("m2")).is_none());
        assert!(receipts.find(&of("m3")).is_some() && receipts.find(&of("m4")).is_some());
    }

    #[test]
    fn a_message_that_goes_out_again_keeps_what_was_heard_and_lives_longer() {
        let mut receipts = knowing("m1", "bob");
        receipts.heard(&delivered("m1", "bob"), NOW, NOW);
        let again = Sent {
            message: message("m1", "bob"),
            until: UnixMillis(9_000),
        };
        receipts.sent(&again, NOW);
        assert_eq!(receipts.len(), 1);
        receipts.sent(
            &Sent {
                message: message("m2", "bob"),
                ..again
            },
            LATER,
        );
        assert_eq!(receipts.judge(&delivered("m1", "bob")), Verdict::Duplicate);
    }

    #[test]
    fn an_identifier_of_unusual_length_is_not_kept() {
        let mut receipts = Receipts::new(10);
        let message = message(&"m".repeat(256), "bob");
        let until = LATER;
        receipts.sent(&Sent { message, until }, NOW);
        assert!(receipts.is_empty());
    }
}
