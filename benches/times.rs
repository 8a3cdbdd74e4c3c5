//! How long the parts of the core paths take: `cargo bench`, or `cargo bench --bench times -- NAME`.

mod paths;

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use restante::clock::{Now, UnixMillis};
use restante::cpim::{Envelope, wrap_notification};
use restante::identity::Identity;
use restante::imdn::{self, DispositionNotification};
use restante::msrp::frame::{ByteRange, Continuation, FailureReport};
use restante::msrp::writer::{self, SendHead};
use restante::participating::served_user::{
    Reach, ReplayPolicy, RetrySchedule, RunEnd, ServedUser, UserAction,
};
use restante::sip::message::{HeaderName, Message};
use restante::sip::reply;
use restante::sip::splice::Edit;
use restante::sip::transaction::{TimerConfig, TransactionTable};
use restante::sip::transport::flow::{Flow, Transport};
use restante::sip::wire;
use restante::store::request::{ConversationKey, Held, MessageKind, Seq};

/// Counts allocations as well: divan prints them beside the times.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn message() -> Message {
    wire::parse(octets()).expect("legal")
}

fn octets() -> Bytes {
    paths::texts::message("alice", "bob", 1).into()
}

fn flow() -> Flow {
    let remote: SocketAddr = paths::core::AUTHOR.parse().expect("an address");
    Flow {
        transport: Transport::Udp,
        listener: 0,
        remote,
        connection: None,
    }
}

mod whole {
    use super::*;

    #[divan::bench]
    fn relay(bencher: Bencher) {
        let mut bench = paths::core::Bench::new(100);
        bencher.bench_local(|| bench.relay(7));
    }

    #[divan::bench]
    fn keep(bencher: Bencher) {
        let mut bench = paths::core::Bench::new(0);
        bencher.bench_local(|| bench.keep(7));
    }

    #[divan::bench]
    fn register(bencher: Bencher) {
        let mut bench = paths::core::Bench::new(100);
        bencher.bench_local(|| bench.register("u000007"));
    }
}

mod sip {
    use super::*;

    #[divan::bench]
    fn parse(bencher: Bencher) {
        let octets = octets();
        bencher.bench(|| wire::parse(black_box(octets.clone())));
    }

    #[divan::bench]
    fn splice(bencher: Bencher) {
        let message = message();
        bencher.bench(|| {
            let mut edit = Edit::new(black_box(&message));
            edit.request_uri("sip:bob@192.0.2.8:6090")
                .prepend("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK-0-1");
            edit.replace(HeaderName::MaxForwards, "69");
            edit.finish()
        });
    }

    /// The answer to a request.
    #[divan::bench]
    fn answer(bencher: Bencher) {
        let message = message();
        bencher.bench(|| reply::response(black_box(&message), 200, "OK", Some("tag")).build());
    }

    #[divan::bench]
    fn look_ups(bencher: Bencher) {
        let message = message();
        bencher.bench(|| {
            let message = black_box(&message);
            let to = message.to().expect("there");
            let from = message.from().expect("there");
            let via = message.top_via().expect("there");
            let cseq = message.cseq().expect("there");
            let absent = message.header(HeaderName::Route);
            (to.uri.len(), from.tag(), via.branch, cseq.number, absent)
        });
    }

    /// A retransmission among ten thousand transactions.
    #[divan::bench]
    fn transaction_match(bencher: Bencher) {
        let mut table = TransactionTable::new(TimerConfig::default(), 20_000, 0);
        let now = Now::default();
        let requests: Vec<Message> = (0..10_000)
            .map(|number| paths::texts::message("alice", "bob", number))
            .map(|text| wire::parse(text.into()).expect("legal"))
            .collect();
        for request in &requests {
            table.handle_request(request, flow(), now);
        }
        let mut next = requests.iter().cycle();
        bencher.bench_local(|| next.next().map(|it| table.handle_request(it, flow(), now)));
    }
}

mod content {
    use super::*;

    const DOCUMENT: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
        <imdn xmlns=\"urn:ietf:params:xml:ns:imdn\"><message-id>34jk324j</message-id>\
        <datetime>2026-11-21T01:30:00Z</datetime><delivery-notification><status><delivered/>\
        </status></delivery-notification></imdn>";

    #[divan::bench]
    fn cpim(bencher: Bencher) {
        let message = message();
        bencher.bench(|| Envelope::parse(black_box(message.body())).map(|it| it.dispositions()));
    }

    /// A receipt in its envelope.
    #[divan::bench]
    fn wrap(bencher: Bencher) {
        let document = DOCUMENT.as_bytes();
        let receipt = DispositionNotification::parse(document).expect("legal");
        let people = ("sip:bob@im.test", "sip:alice@im.test");
        bencher.bench(|| {
            wrap_notification(
                black_box(&receipt),
                people.0,
                people.1,
                "2026-11-21T01:30:00Z",
                "5jk7",
            )
        });
    }

    #[divan::bench]
    fn notification(bencher: Bencher) {
        bencher.bench(|| {
            imdn::notices("message/imdn+xml", None, black_box(DOCUMENT.as_bytes()))
                .map(|notices| notices.map(|it| it.len()))
        });
    }
}

mod msrp {
    use super::*;
    use paths::chunks::{Receiver, cut, message};

    /// SENDs of 1 kB, a message each.
    #[divan::bench]
    fn framing(bencher: Bencher) {
        let octets = message("m", 1024, 1024).repeat(64);
        let bencher = bencher.counter(BytesCount::of_slice(&octets));
        bencher.bench(|| cut(black_box(&octets)));
    }

    /// The head of a SEND and its end-line, and the answer to it.
    #[divan::bench]
    fn writing(bencher: Bencher) {
        let head = SendHead {
            transaction: "t00000001",
            to_path: "msrp://192.0.2.9:7777/0.alice;tcp",
            from_path: "msrp://192.0.2.1:2855/0.bob;tcp",
            message_id: "m00000001",
            byte_range: ByteRange {
                start: 1,
                end: Some(1024),
                total: Some(1024),
            },
            success_report: false,
            failure_report: FailureReport::Yes,
            content_type: Some("message/cpim"),
        };
        bencher.bench(|| {
            let mut out = BytesMut::with_capacity(1024);
            let SendHead {
                transaction,
                to_path,
                from_path,
                ..
            } = head;
            writer::write_send_head(&mut out, black_box(&head));
            writer::write_end_line(&mut out, transaction, true, Continuation::Last);
            writer::write_response(&mut out, transaction, 200, to_path, from_path);
            out
        });
    }

    /// One message of 1 MB in chunks of 8 kB, each answered.
    #[divan::bench]
    fn reassembly(bencher: Bencher) {
        let octets = message("m", 1024 * 1024, 8 * 1024);
        let bencher = bencher.counter(BytesCount::of_slice(&octets));
        bencher.bench(|| assert_eq!(Receiver::new().take(black_box(&octets)), 128));
    }
}

mod store {
    use super::*;
    use paths::store::{BATCH, Desk};

    /// 64 messages and the sync that covers them.
    #[divan::bench(sample_count = 50)]
    fn append(bencher: Bencher) {
        let mut desk = Desk::new();
        bencher.bench_local(|| desk.put());
    }

    /// The same, settled, until none is left.
    #[divan::bench(sample_count = 20)]
    fn settle(bencher: Bencher) {
        let mut desk = Desk::new();
        bencher.bench_local(|| {
            let all = desk.put();
            desk.settle(all);
            assert_eq!(desk.scan(), 0);
        });
    }

    /// A queue of 640 messages.
    #[divan::bench(sample_count = 50)]
    fn scan(bencher: Bencher) {
        let mut desk = Desk::new();
        for _ in 0..640 / BATCH {
            desk.put();
        }
        bencher.bench_local(|| assert_eq!(desk.scan(), 640));
    }
}

mod served_user {
    use super::*;

    fn held(number: u64) -> Held {
        Held {
            seq: Seq(number),
            kind: MessageKind::Pager,
            conversation: ConversationKey {
                author: Identity::new("alice", "im.test"),
                conversation: format!("conversation-{number}").into(),
            },
            message_id: number.to_string().into(),
            length: 400,
            expires_at: UnixMillis(2_000_000),
            marks: Box::default(),
        }
    }

    /// A queue of so many conversations leaves by MESSAGE, one after the other; the time is that of all.
    #[divan::bench(args = [10, 100, 1000])]
    fn replay(bencher: Bencher, count: u64) {
        let queue: Vec<Held> = (0..count).map(held).collect();
        let reach = Reach {
            session: true,
            message: Some(60_000),
            standalone: false,
            switch_over: 1300,
        };
        let policy = ReplayPolicy {
            retry: RetrySchedule::new(&[]),
            per_device: 1,
            per_user: 4,
        };
        bencher.with_inputs(|| queue.clone()).bench_values(|queue| {
            let now = Now::default();
            let mut user = ServedUser::new(true, policy.clone());
            user.handle_reach(reach, now);
            assert!(matches!(user.poll_action(), Some(UserAction::Load { .. })));
            user.handle_loaded(queue, false, now);
            let mut left = 0;
            while let Some(UserAction::Start { run, .. }) = user.poll_action() {
                while let Some(held) = user.next_message(run) {
                    user.handle_settled(&held.conversation, held.seq);
                    left += 1;
                }
                user.handle_run_ended(run, RunEnd::Done, now);
            }
            assert_eq!(left, count);
        });
    }
}
