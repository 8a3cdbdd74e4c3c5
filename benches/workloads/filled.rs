//! A store in which many messages wait, written by the store itself: a million over the network would take
//! minutes.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use restante::clock::{self, UnixMillis};
use restante::identity::Identity;
use restante::imdn::Dispositions;
use restante::store::request::{
    Body, DeferredMessage, MessageKind, Quota, StoreEvent, StoreRequest, StoreToken,
};
use restante::store::{Store, StoreConfig};

use super::texts;

/// How many wait for one user.
pub const EACH: u64 = 1000;
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Milliseconds since they were taken: nobody sends them again.
const AGE: u64 = 3_600_000;
/// Requests under way.
const CREDITS: usize = 4096;

/// Fills an empty folder with messages as they come from `texts::message`.
pub fn fill(folder: &Path, count: u64) {
    let (sender, events) = mpsc::channel::<Vec<StoreEvent>>();
    let answer = Box::new(move |told| drop(sender.send(told)));
    let config = StoreConfig {
        credits: CREDITS,
        ..StoreConfig::new(folder)
    };
    let (store, mut clients, _) = Store::open(&config, |_| 0, vec![answer]).expect("opens");
    let client = clients.remove(0);
    let (mut asked, mut stored) = (0, 0);
    while stored < count {
        while asked < count && client.try_submit(put(asked)).is_ok() {
            asked += 1;
        }
        for event in events.recv().expect("an answer") {
            assert!(matches!(event, StoreEvent::Stored { .. }), "{event:?}");
            stored += 1;
        }
    }
    store.close();
}

fn put(number: u64) -> StoreRequest {
    let (author, recipient) = ("author".to_owned(), format!("waiting{}", number / EACH));
    let body = texts::envelope(
        &author,
        &recipient,
        number,
        62,
        "positive-delivery, display",
    );
    let accepted_at = UnixMillis(clock::now().wall.0 - AGE);
    StoreRequest::Put {
        token: StoreToken(number),
        message: Arc::new(DeferredMessage {
            recipient: Identity::new(&recipient, "im.test"),
            author: Identity::new(&author, "im.test"),
            from: format!("<sip:{author}@im.test>;tag=f{number}"),
            to: format!("<sip:{recipient}@im.test>"),
            kind: MessageKind::Pager,
            conversation: format!("f81d4fae-7dec-11d0-a765-{number:012}"),
            contribution: format!("8fa24c01-93b1-4c5e-b5d2-{number:012}"),
            in_reply_to: None,
            headers: Vec::new(),
            content_type: "message/cpim".into(),
            message_id: format!("load-{number:012}"),
            date_time: Some("2026-11-21T01:30:00.000Z".into()),
            dispositions: Dispositions::POSITIVE,
            accepted_at,
            expires_at: accepted_at.plus(LIFETIME),
            duplicate_key: number.into(),
        }),
        body: Body::Inline(body.into()),
        quota: Quota::NONE,
    }
}
