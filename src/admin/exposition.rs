//! `/metrics`: everything that is counted, in the OpenMetrics text form that Prometheus reads. Names and
//! units are conventional, labels are closed sets, nothing carries a time stamp.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::problem::Problem;
use super::state::{Admin, Parts, Phase};
use crate::limits::memory;
use crate::metrics::{Histogram, Kind, Sample};
use crate::net::sys;
use crate::participating::census::{Census, Population};
use crate::participating::operator::{Answer, Question};
use crate::store::deferred::Health;

/// Everything that is counted, in the text form of OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()), responses(
    (status = 200, description = "The metrics", body = String,
        content_type = "application/openmetrics-text"),
    (status = 503, description = "The server is starting, or a shard does not answer", body = Problem),
))]
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let mut census = Census::default();
    let mut population = Population::default();
    for answer in admin.ask_all(&Question::Census).await? {
        let Answer::Census(shard, registered) = answer else {
            return Err(Problem::unexpected(&answer));
        };
        census.add(&shard);
        population.users += registered.users;
        population.contacts += registered.contacts;
    }
    let mut registry = Registry::default();
    let snapshot = Snapshot::take(&admin, admin.parts()?, &census, population);
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, form)], text).into_response())
}

/// A gauge: its name, its labels, its help, its value.
type Row = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    f64,
);

/// All values at one moment.
#[derive(Debug)]
struct Snapshot {
    samples: Vec<Sample>,
    gauges: Vec<Row>,
    commits: Arc<Histogram>,
}

impl Snapshot {
    fn take(admin: &Admin, parts: &Parts, census: &Census, population: Population) -> Self {
        let mut gauges = of_process(admin, parts);
        gauges.extend(of_shards(census, population));
        gauges.extend(of_store(parts));
        gauges.extend(of_memory(parts));
        let [work, media, notices, internal] = parts.desk.inbox_lengths();
        let help = "Entries in the shards' inboxes.";
        for (lane, length) in [
            ("work", work),
            ("media", media),
            ("notices", notices),
            ("internal", internal),
        ] {
            let labels: &'static [_] = match lane {
                "work" => &[("lane", "work")],
                "media" => &[("lane", "media")],
                "notices" => &[("lane", "notices")],
                _ => &[("lane", "internal")],
            };
            gauges.push(("restante_inbox_entries", labels, help, length as f64));
        }
        let mut samples = parts.metrics.samples();
        samples.extend(of_interface(admin));
        Self {
            samples,
            gauges,
            commits: parts.store.commits(),
        }
    }
}

fn of_interface(admin: &Admin) -> [Sample; 2] {
    let sample = |name, help, value| Sample {
        name,
        labels: "",
        help,
        kind: Kind::Counter,
        value,
    };
    [
        sample(
            "restante_admin_requests_total",
            "Requests to the admin interface.",
            admin.requests.load(Ordering::Relaxed),
        ),
        sample(
            "restante_admin_connections_refused_total",
            "Connections to the admin interface closed because there were too many.",
            admin.refused_connections.load(Ordering::Relaxed),
        ),
    ]
}

fn of_process(admin: &Admin, parts: &Parts) -> Vec<Row> {
    let ready = admin.phase() == Phase::Ready && parts.store.health() != Health::Poisoned;
    vec![
        (
            "restante_start_time_seconds",
            &[],
            "When the process started, in seconds since 1970.",
            admin.started.wall.0 as f64 / 1000.0,
        ),
        (
            "restante_ready",
            &[],
            "1 while the server takes new work.",
            f64::from(u8::from(ready)),
        ),
        (
            "restante_shards",
            &[],
            "Shards, a thread each.",
            f64::from(parts.desk.shards()),
        ),
        (
            "restante_accounts",
            &[],
            "Accounts, of the file and of the interface.",
            parts.accounts.len() as f64,
        ),
        (
            "restante_limited_senders",
            &[],
            "Users with limits that have sent something lately.",
            parts.meters.senders.len() as f64,
        ),
    ]
}

fn of_shards(census: &Census, population: Population) -> Vec<Row> {
    let gauge = |name, help, value: usize| (name, &[] as &[_], help, value as f64);
    vec![
        gauge(
            "restante_registered_users",
            "Users with a binding.",
            population.users,
        ),
        gauge(
            "restante_registered_contacts",
            "Bindings of all users.",
            population.contacts,
        ),
        gauge(
            "restante_waiting_users",
            "Users for whom messages wait.",
            census.waiting,
        ),
        gauge(
            "restante_sip_transactions",
            "SIP transactions, finished ones that absorb retransmissions included.",
            census.transactions,
        ),
        gauge(
            "restante_sip_dialogs",
            "Dialogs in which the server is the user agent.",
            census.dialogs,
        ),
        gauge(
            "restante_pagers",
            "MESSAGEs without a final answer, or with branches that still run.",
            census.pagers,
        ),
        gauge("restante_chats", "Chat sessions.", census.chats),
        gauge(
            "restante_deliveries",
            "Deliveries of kept messages under way.",
            census.deliveries,
        ),
        gauge(
            "restante_relays",
            "Proxied requests under way.",
            census.relays,
        ),
        gauge(
            "restante_msrp_sessions",
            "MSRP sessions.",
            census.media_sessions,
        ),
        gauge(
            "restante_store_requests",
            "Requests of the shards that the store has not answered.",
            census.store_requests,
        ),
    ]
}

fn of_memory(parts: &Parts) -> Vec<Row> {
    let help = "Octets of memory accounted for, by what they are used for.";
    let labels = [
        &[("kind", "process")],
        &[("kind", "connections")],
        &[("kind", "write-queues")],
        &[("kind", "inboxes")],
        &[("kind", "transactions")],
        &[("kind", "work")],
        &[("kind", "media")],
        &[("kind", "spools")],
        &[("kind", "bindings")],
        &[("kind", "users")],
        &[("kind", "receipts")],
        &[("kind", "duplicates")],
        &[("kind", "store-queues")],
        &[("kind", "store-index")],
    ];
    let kinds = memory::Kind::ALL.into_iter().zip(labels);
    let mut rows: Vec<Row> = kinds
        .map(|(kind, labels)| {
            debug_assert_eq!(kind.name(), labels[0].1);
            let octets = parts.memory.of(kind) as f64;
            ("restante_memory_bytes", labels as &[_], help, octets)
        })
        .collect();
    rows.push((
        "restante_memory_limit_bytes",
        &[],
        "limits.memory.",
        parts.memory.limit() as f64,
    ));
    if let Some(resident) = sys::resident_memory() {
        rows.push((
            "restante_resident_memory_bytes",
            &[],
            "Octets of memory the process has, as the system counts.",
            resident as f64,
        ));
    }
    rows
}

fn of_store(parts: &Parts) -> Vec<Row> {
    let store = &parts.store;
    let (disk, live) = store.disk_use();
    let (log, body) = store.segments();
    let usage = store.usage();
    let health = |word: Health| f64::from(u8::from(store.health() == word));
    let state = "The state of the store: 1 for the one it is in.";
    vec![
        (
            "restante_waiting_messages",
            &[],
            "Messages in custody.",
            usage.messages as f64,
        ),
        (
            "restante_waiting_bytes",
            &[],
            "Octets of the bodies of messages in custody.",
            usage.octets as f64,
        ),
        (
            "restante_store_disk_bytes",
            &[],
            "Octets of all segment files.",
            disk as f64,
        ),
        (
            "restante_store_live_bytes",
            &[],
            "Octets of segment files that are of use.",
            live as f64,
        ),
        (
            "restante_store_segments",
            &[("kind", "log")],
            "Segment files.",
            log as f64,
        ),
        (
            "restante_store_segments",
            &[("kind", "body")],
            "Segment files.",
            body as f64,
        ),
        (
            "restante_store_index_entries",
            &[],
            "Entries of the index that are in memory.",
            store.in_memory() as f64,
        ),
        (
            "restante_store_torn_bytes",
            &[],
            "Octets of unfinished writes that the start found behind the log and set aside.",
            store.torn() as f64,
        ),
        (
            "restante_store_damaged_places",
            &[],
            "Damaged places met since the start, and at it.",
            store.damaged() as f64,
        ),
        (
            "restante_store_state",
            &[("state", "serving")],
            state,
            health(Health::Serving),
        ),
        (
            "restante_store_state",
            &[("state", "full")],
            state,
            health(Health::Full),
        ),
        (
            "restante_store_state",
            &[("state", "poisoned")],
            state,
            health(Health::Poisoned),
        ),
    ]
}

fn encode(encoder: &mut MetricEncoder<'_>, sample: &Sample) -> Result<(), fmt::Error> {
    match sample.kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&sample.value, None),
        Kind::Gauge => encoder.encode_gauge(&signed(sample.value)),
    }
}

/// What one value of a label means.
fn explained(sample: &Sample) -> String {
    let word = sample.labels.split('"').nth(1).unwrap_or_default();
    format!("{word}: {}", sample.help)
}

/// `key="value"` taken apart.
fn label(text: &'static str) -> Vec<(&'static str, &'static str)> {
    let pair = text.split_once('=');
    pair.map(|(key, value)| (key, value.trim_matches('"')))
        .into_iter()
        .collect()
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let about =
            encoder.encode_descriptor("restante_build", "What runs.", None, MetricType::Info)?;
        version.encode(about)?;
        let mut done: Vec<&str> = Vec::new();
        for Sample {
            name, help, kind, ..
        } in &self.samples
        {
            if done.contains(name) {
                continue;
            }
            done.push(name);
            let (base, kind) = match kind {
                // The encoder adds the suffix again.
                Kind::Counter => (name.trim_end_matches("_total"), MetricType::Counter),
                Kind::Gauge => (*name, MetricType::Gauge),
            };
            let of_family = || self.samples.iter().filter(|sample| sample.name == *name);
            let help = match of_family().all(|sample| sample.help == *help) {
                true => (*help).to_owned(),
                false => of_family().map(explained).collect::<Vec<_>>().join(" "),
            };
            let mut family = encoder.encode_descriptor(base, &help, None, kind)?;
            for sample in of_family() {
                let labels = label(sample.labels);
                match labels.is_empty() {
                    true => encode(&mut family, sample)?,
                    false => encode(&mut family.encode_family(&labels)?, sample)?,
                }
            }
        }
        let mut done: Vec<&str> = Vec::new();
        for (name, _, help, _) in &self.gauges {
            if done.contains(name) {
                continue;
            }
            done.push(name);
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (_, labels, _, value) in self.gauges.iter().filter(|gauge| gauge.0 == *name) {
                match labels.is_empty() {
                    true => family.encode_gauge(value)?,
                    false => family.encode_family(labels)?.encode_gauge(value)?,
                }
            }
        }
        let mut commits = encoder.encode_descriptor(
            "restante_store_commit_seconds",
            "How long a commit of the log took, write and sync.",
            None,
            MetricType::Histogram,
        )?;
        let buckets = self.commits.buckets();
        commits.encode_histogram::<NoLabelSet>(
            self.commits.sum_seconds(),
            buckets.iter().map(|(_, count)| count).sum(),
            &buckets,
            None,
        )
    }
}

/// A gauge's sum never leaves this range.
fn signed(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}
