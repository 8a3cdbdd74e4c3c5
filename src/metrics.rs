//! Every counter and gauge in one place: its name, its help, its label values.
//!
//! Each shard has its own set, so that counting never moves a cache line between CPUs; a reader adds
//! them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.add(1);
    }

    /// `more` more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn rise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer. Each shard's gauge may wrap below zero; the sum of all is right.
    pub fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// So many now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How many right now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a [`Histogram`]'s buckets in microseconds; the last bucket has none.
const BOUNDS: [u64; 10] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000,
];

/// How long something took, how often.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// It took this long once more.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        if let Some(count) = self.buckets.get(bucket.unwrap_or(BOUNDS.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Each bucket's upper bound in seconds, and how often it took longer than the bound before and no
    /// longer than this one.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6);
        let bounds = bounds.chain([f64::INFINITY]);
        let counts = self
            .buckets
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        bounds.zip(counts).collect()
    }

    /// How long it took in all.
    pub fn sum_seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// Whether a metric only goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does.
    Counter,
    /// It does not.
    Gauge,
}

/// One metric as a reader sees it, all shards added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its name.
    pub name: &'static str,
    /// Its labels as `key="value"`, or nothing.
    pub labels: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its value.
    pub value: u64,
}

macro_rules! metrics {
    ($($field:ident: $kind:ident, $name:literal, $labels:literal, $help:literal;)*) => {
        /// The metrics of one shard, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            /// Every metric, all shards added up, in the order of declaration.
            pub fn samples(&self) -> Vec<Sample> {
                vec![$(Sample {
                    name: $name,
                    labels: $labels,
                    help: $help,
                    kind: Kind::$kind,
                    value: self.shards.iter().fold(0_u64, |sum, shard| {
                        sum.wrapping_add(shard.$field.value())
                    }),
                },)*]
            }
        }
    };
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    shards: Box<[Arc<ShardMetrics>]>,
}

impl Metrics {
    /// Zeroes for `shards` shards.
    pub fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| Arc::default()).collect(),
        }
    }

    /// Shards that refuse new work.
    pub fn overloaded_shards(&self) -> u64 {
        let shards = self.shards.iter();
        shards.map(|shard| shard.overloaded.value()).sum()
    }

    /// What `shard` counts into.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard(&self, shard: u16) -> Arc<ShardMetrics> {
        Arc::clone(&self.shards[usize::from(shard)])
    }
}

metrics! {
    udp_received: Counter, "restante_udp_datagrams_received_total", "", "Datagrams received.";
    udp_sent: Counter, "restante_udp_datagrams_sent_total", "", "Datagrams handed to the kernel.";
    udp_noise: Counter, "restante_udp_datagrams_dropped_total", r#"reason="keep-alive""#,
        "Datagrams that are a keep-alive and no message.";
    udp_truncated: Counter, "restante_udp_datagrams_dropped_total", r#"reason="truncated""#,
        "Datagrams longer than the receive buffer.";
    udp_handover_full: Counter, "restante_udp_datagrams_dropped_total", r#"reason="shard-busy""#,
        "Datagrams whose shard had no room for them.";
    udp_send_full: Counter, "restante_udp_datagrams_dropped_total", r#"reason="send-queue-full""#,
        "Datagrams not sent because too many waited already.";
    udp_send_failed: Counter, "restante_udp_datagrams_dropped_total", r#"reason="send-failed""#,
        "Datagrams the kernel refused to send.";
    udp_receive_failed: Counter, "restante_udp_receive_errors_total", "",
        "Times the kernel refused to hand over datagrams.";
    sip_malformed: Counter, "restante_sip_malformed_total", "",
        "SIP messages that could not be parsed.";
    sip_handed_over: Counter, "restante_sip_handed_over_total", "",
        "SIP messages that arrived on another shard than their own.";
    sip_connections: Gauge, "restante_connections", r#"protocol="sip""#,
        "TCP connections that are open.";
    sip_overflows: Counter, "restante_connection_overflows_total", r#"protocol="sip""#,
        "Connections closed because the peer read too slowly.";
    msrp_connections: Gauge, "restante_connections", r#"protocol="msrp""#,
        "TCP connections that are open.";
    msrp_overflows: Counter, "restante_connection_overflows_total", r#"protocol="msrp""#,
        "Connections closed because the peer read too slowly.";
    msrp_malformed: Counter, "restante_msrp_malformed_total", "",
        "MSRP connections closed because of a malformed frame.";
    requests_register: Counter, "restante_sip_requests_total", r#"method="REGISTER""#,
        "Requests received, repetitions aside.";
    requests_message: Counter, "restante_sip_requests_total", r#"method="MESSAGE""#,
        "Requests received, repetitions aside.";
    requests_invite: Counter, "restante_sip_requests_total", r#"method="INVITE""#,
        "Requests received, repetitions aside.";
    requests_bye: Counter, "restante_sip_requests_total", r#"method="BYE""#,
        "Requests received, repetitions aside.";
    requests_options: Counter, "restante_sip_requests_total", r#"method="OPTIONS""#,
        "Requests received, repetitions aside.";
    requests_publish: Counter, "restante_sip_requests_total", r#"method="PUBLISH""#,
        "Requests received, repetitions aside.";
    requests_subscribe: Counter, "restante_sip_requests_total", r#"method="SUBSCRIBE""#,
        "Requests received, repetitions aside.";
    requests_notify: Counter, "restante_sip_requests_total", r#"method="NOTIFY""#,
        "Requests received, repetitions aside.";
    requests_other: Counter, "restante_sip_requests_total", r#"method="other""#,
        "Requests received, repetitions aside.";
    responses_1xx: Counter, "restante_sip_responses_total", r#"class="1xx""#,
        "Responses sent, repetitions and those passed on included.";
    responses_2xx: Counter, "restante_sip_responses_total", r#"class="2xx""#,
        "Responses sent, repetitions and those passed on included.";
    responses_3xx: Counter, "restante_sip_responses_total", r#"class="3xx""#,
        "Responses sent, repetitions and those passed on included.";
    responses_4xx: Counter, "restante_sip_responses_total", r#"class="4xx""#,
        "Responses sent, repetitions and those passed on included.";
    responses_5xx: Counter, "restante_sip_responses_total", r#"class="5xx""#,
        "Responses sent, repetitions and those passed on included.";
    responses_6xx: Counter, "restante_sip_responses_total", r#"class="6xx""#,
        "Responses sent, repetitions and those passed on included.";
    registrations: Counter, "restante_registrations_total", "",
        "REGISTERs answered 200, refreshes and removals included.";
    sessions_chat: Counter, "restante_sessions_total", r#"kind="chat""#,
        "Sessions that callers were answered 200 for.";
    sessions_large: Counter, "restante_sessions_total", r#"kind="large""#,
        "Sessions that callers were answered 200 for.";
    received_pager: Counter, "restante_messages_received_total", r#"kind="pager""#,
        "Messages let in, whatever becomes of them; in sessions word of typing and receipts too.";
    received_session: Counter, "restante_messages_received_total", r#"kind="session""#,
        "Messages let in, whatever becomes of them; in sessions word of typing and receipts too.";
    received_receipt: Counter, "restante_messages_received_total", r#"kind="receipt""#,
        "Messages let in, whatever becomes of them; in sessions word of typing and receipts too.";
    passed_pager: Counter, "restante_messages_passed_total", r#"kind="pager""#,
        "Messages that a device took at once, without being kept.";
    passed_session: Counter, "restante_messages_passed_total", r#"kind="session""#,
        "Messages that a device took at once, without being kept.";
    stored_pager: Counter, "restante_messages_stored_total", r#"kind="pager""#,
        "Messages made durable for their recipients.";
    stored_session: Counter, "restante_messages_stored_total", r#"kind="session""#,
        "Messages made durable for their recipients.";
    stored_receipt: Counter, "restante_messages_stored_total", r#"kind="receipt""#,
        "Messages made durable for their recipients.";
    delivered: Counter, "restante_messages_delivered_total", "",
        "Kept messages that a device confirmed; where every device gets a copy, each copy.";
    refused_overload: Counter, "restante_sip_refused_total", r#"reason="overload""#,
        "Requests answered 503 because too much was under way or could not be stored.";
    refused_submission: Counter, "restante_traffic_refused_total", r#"reason="submission""#,
        "Messages and sessions answered 403 because their senders may not send.";
    refused_presence: Counter, "restante_traffic_refused_total", r#"reason="presence""#,
        "Requests answered 403 because their senders may not use presence.";
    refused_size: Counter, "restante_traffic_refused_total", r#"reason="size""#,
        "Messages answered 413 because they were larger than their senders may send.";
    refused_name: Counter, "restante_traffic_refused_total", r#"reason="name""#,
        "Messages answered 403 because their envelopes name somebody else as their author.";
    refused_type: Counter, "restante_traffic_refused_total", r#"reason="type""#,
        "Messages answered 415 because their senders may not send that type.";
    refused_user_rate: Counter, "restante_traffic_refused_total", r#"reason="user-rate""#,
        "Requests answered 503 because their senders sent too many.";
    refused_user_messages: Counter, "restante_traffic_refused_total", r#"reason="user-messages""#,
        "Messages refused because their senders had sent as many as they may in a period.";
    refused_user_octets: Counter, "restante_traffic_refused_total", r#"reason="user-octets""#,
        "Messages refused because their senders had sent as many octets as they may in a period.";
    refused_user_chats: Counter, "restante_traffic_refused_total", r#"reason="user-chats""#,
        "Sessions answered 486 or 503 because the caller or the callee had as many as he may.";
    refused_flow: Counter, "restante_traffic_refused_total", r#"reason="whole-server""#,
        "Messages refused because traffic.messages_per_second or octets_per_second was reached.";
    refused_no_place: Counter, "restante_traffic_refused_total", r#"reason="senders""#,
        "Requests refused because traffic.senders users with limits were being counted.";
    refused_peer: Counter, "restante_traffic_refused_total", r#"reason="peer""#,
        "Requests answered 403 because their peer is denied.";
    refused_peer_rate: Counter, "restante_traffic_refused_total", r#"reason="peer-rate""#,
        "Requests answered 503 because their peer sent too many.";
    errors_suppressed: Counter, "restante_errors_suppressed_total", r#"kind="answer""#,
        "Messages that could not be taken and were answered 202 all the same (traffic.suppress_errors).";
    failures_suppressed: Counter, "restante_errors_suppressed_total", r#"kind="notification""#,
        "Authors not told that their message failed (traffic.suppress_errors).";
    failures_delayed: Counter, "restante_failure_notices_delayed_total", "",
        "Times an author was told later that his message failed (traffic.failures_per_second).";
    rules_unavailable: Counter, "restante_rules_applied_total", r#"verdict="unavailable""#,
        "Requests that a recipient's rules answered with 480.";
    rules_forbidden: Counter, "restante_rules_applied_total", r#"verdict="forbidden""#,
        "Requests that a recipient's rules answered with 403 or 433.";
    rules_dropped: Counter, "restante_rules_applied_total", r#"verdict="dropped""#,
        "Requests that a recipient's rules dropped without a word.";
    attempts_untold: Counter, "restante_attempts_untold_total", "",
        "Attempts to reach a user of which he was not told again.";
    messages_revoked: Counter, "restante_messages_revoked_total", "",
        "Messages that their authors took back before they were delivered.";
    system_messages: Counter, "restante_system_messages_total", "",
        "Messages of the server itself to its users.";
    refused_quota: Counter, "restante_messages_refused_total", r#"reason="quota""#,
        "Messages not kept because as much waited for their recipient as may.";
    messages_evicted: Counter, "restante_messages_ended_total", r#"reason="evicted""#,
        "Kept messages that left undelivered.";
    messages_expired: Counter, "restante_messages_ended_total", r#"reason="expired""#,
        "Kept messages that left undelivered.";
    messages_cancelled: Counter, "restante_messages_ended_total", r#"reason="cancelled""#,
        "Kept messages that left undelivered.";
    messages_damaged: Counter, "restante_messages_ended_total", r#"reason="damaged""#,
        "Kept messages that left undelivered.";
    messages_refused: Counter, "restante_messages_ended_total", r#"reason="refused""#,
        "Kept messages that left undelivered.";
    receipts_dropped: Counter, "restante_receipts_dropped_total", "",
        "Receipts not kept because their author's queue was full even for receipts.";
    refused_delay: Counter, "restante_sip_refused_total", r#"reason="delay""#,
        "New requests answered 503 unseen because their shard was behind.";
    refused_memory: Counter, "restante_sip_refused_total", r#"reason="memory""#,
        "New requests answered 503 unseen because limits.memory was nearly used up.";
    refused_share: Counter, "restante_sip_refused_total", r#"reason="share""#,
        "New requests answered 503 unseen because their shard was behind and their address had its share.";
    strays: Counter, "restante_sip_dropped_unread_total", r#"kind="stray""#,
        "Datagrams dropped unread while a shard was behind: responses to nothing that we sent.";
    dropped_unread: Counter, "restante_sip_dropped_unread_total", r#"kind="crowded""#,
        "Datagrams dropped unread while a shard was behind: there was no room for more of their kind.";
    ignored: Counter, "restante_sip_ignored_total", "",
        "Requests by datagram dropped while new ones are refused: retransmissions, and what waited so long that it comes again.";
    overloaded: Gauge, "restante_overloaded_shards", "",
        "Shards that refuse new work.";
    waiting: Gauge, "restante_waiting_room_entries", "",
        "SIP messages of peers that wait for their shard.";
    replay_line: Gauge, "restante_replay_users", r#"state="waiting""#,
        "Users who stand in line for a replay of what waits for them.";
    replays_served: Gauge, "restante_replay_users", r#"state="served""#,
        "Users whose waiting messages are being replayed.";
    queue_delay: Gauge, "restante_queue_delay_microseconds", "",
        "How long the SIP message taken last had waited for its shard, all shards added up.";
    refused_transactions: Counter, "restante_sip_refused_total", r#"reason="transactions""#,
        "Requests answered 503 because the transaction table was full of unanswered ones.";
    forgotten_transactions: Counter, "restante_sip_transactions_forgotten_total", "",
        "Answered transactions that made room for new ones before their time was over.";
    refused_locked_out: Counter, "restante_sip_refused_total", r#"reason="locked-out""#,
        "Requests answered 403 because their sender had failed to log in too often.";
    failed_logins: Counter, "restante_failed_logins_total", "",
        "Wrong answers to challenges.";
    lockouts: Counter, "restante_lockouts_total", "",
        "Users locked out where their failed logins came from.";
    msrp_abused: Counter, "restante_msrp_abused_total", "",
        "MSRP connections closed because their peer went on sending a message that was refused.";
    bans: Counter, "restante_bans_total", "",
        "Addresses banned for a while.";
    dropped_rate: Counter, "restante_source_refused_total", r#"reason="rate""#,
        "Datagrams dropped, connections closed or made to wait because their address sent too much.";
    dropped_crowded: Counter, "restante_source_refused_total", r#"reason="connections""#,
        "Connections closed because their address had limits.connections_per_address open.";
    dropped_banned: Counter, "restante_source_refused_total", r#"reason="banned""#,
        "Datagrams dropped and connections closed because their address is banned.";
    withheld_length: Counter, "restante_answers_withheld_total", r#"reason="length""#,
        "Answers over UDP not sent because they were more than one and a half times as long as a request that nobody had proved.";
    withheld_rate: Counter, "restante_answers_withheld_total", r#"reason="rate""#,
        "Answers over UDP not sent because an address had too many requests that nobody had proved.";
    malformed_responses: Counter, "restante_sip_responses_dropped_total", "",
        "Responses dropped because a header field of theirs could not be read.";
    resolutions_refused: Counter, "restante_resolutions_refused_total", "",
        "Host names not looked up because too many look-ups were under way.";
    unsent: Counter, "restante_sip_unsent_total", "",
        "SIP messages for a listener that does not exist.";
    receipts_passed: Counter, "restante_receipts_total", r#"result="passed""#,
        "Receipts taken for their authors.";
    receipts_duplicate: Counter, "restante_receipts_total", r#"result="duplicate""#,
        "Receipts answered and dropped: their authors have had what they say.";
    receipts_refused: Counter, "restante_receipts_total", r#"result="refused""#,
        "Receipts answered 403: they speak of messages that were not for their senders.";
    receipts_expired: Counter, "restante_receipts_total", r#"result="expired""#,
        "Kept receipts dropped because their time was over.";
    receipt_rows: Gauge, "restante_receipt_rows", "",
        "Messages whose receipts are kept track of.";
    receipt_rows_forgotten: Counter, "restante_receipt_rows_forgotten_total", "",
        "Messages forgotten before their time because limits.receipts was reached.";
    messages_confirmed: Counter, "restante_messages_confirmed_total", "",
        "Kept messages that left the store because their recipients confirmed them first.";
    revocations: Gauge, "restante_revocation_users", "",
        "Users whose queues are read for revocations that wait.";
    receipt_lanes: Gauge, "restante_receipt_lanes", "",
        "Senders a receipt of whom is under way; their later ones wait behind it.";
    tcp_refused: Gauge, "restante_tcp_refusing_peers", "",
        "Peers that refused TCP a moment ago and are not tried again.";
    crowded_queues: Gauge, "restante_crowded_queues", "",
        "Users whose full queues make room for new messages.";
    handshakes: Gauge, "restante_tls_handshakes", "",
        "TLS handshakes of accepted connections under way.";
    turns: Counter, "restante_shard_turns_total", "", "Turns of the shards' loops.";
}

impl ShardMetrics {
    /// A response left, if these are the octets of one (RFC 3261 §7.2).
    pub fn count_response(&self, octets: &[u8]) {
        let class = octets.strip_prefix(b"SIP/2.0 ").and_then(<[u8]>::first);
        let counter = match class {
            Some(b'1') => &self.responses_1xx,
            Some(b'2') => &self.responses_2xx,
            Some(b'3') => &self.responses_3xx,
            Some(b'4') => &self.responses_4xx,
            Some(b'5') => &self.responses_5xx,
            Some(b'6') => &self.responses_6xx,
            _ => return,
        };
        counter.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up_and_a_gauge_may_fall_on_another_shard() {
        let metrics = Metrics::new(2);
        metrics.shard(0).udp_received.add(2);
        metrics.shard(1).udp_received.count();
        metrics.shard(0).sip_connections.rise();
        metrics.shard(0).sip_connections.rise();
        metrics.shard(1).sip_connections.fall();
        let samples = metrics.samples();
        let value = |name, labels| {
            let of = |sample: &&Sample| sample.name == name && sample.labels == labels;
            samples.iter().find(of).map(|sample| sample.value)
        };
        assert_eq!(value("restante_udp_datagrams_received_total", ""), Some(3));
        assert_eq!(value("restante_connections", r#"protocol="sip""#), Some(1));
    }

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(60));
        let buckets = histogram.buckets();
        assert_eq!(
            buckets.iter().find(|bucket| bucket.1 > 0),
            Some(&(0.001, 1))
        );
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
        assert!((histogram.sum_seconds() - 60.001).abs() < 1e-9);
    }

    #[test]
    fn responses_count_by_their_class() {
        let metrics = ShardMetrics::default();
        for octets in [
            "SIP/2.0 202 Accepted\r\n",
            "SIP/2.0 200 OK\r\n",
            "MESSAGE a SIP/2.0",
        ] {
            metrics.count_response(octets.as_bytes());
        }
        assert_eq!(metrics.responses_2xx.value(), 2);
        assert_eq!(metrics.responses_5xx.value(), 0);
    }

    #[test]
    fn no_two_metrics_share_name_and_labels() {
        let samples = Metrics::new(1).samples();
        let mut seen = std::collections::BTreeSet::new();
        for sample in &samples {
            assert!(seen.insert((sample.name, sample.labels)), "{}", sample.name);
            assert!(!sample.help.is_empty());
            assert_eq!(
                sample.kind == Kind::Counter,
                sample.name.ends_with("_total")
            );
        }
    }
}
