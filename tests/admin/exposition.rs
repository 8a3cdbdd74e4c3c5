//! `/metrics`, read by a strict reader of the text form, and moved by traffic.

use std::collections::{BTreeMap, BTreeSet};

use crate::http::Interface;
use crate::support::{Configuration, on_every_shard_count};

/// The names of the samples of a family (OpenMetrics 1.0, metric types).
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_sum", "_count", "_bucket"],
        _ => &[],
    }
}

fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_lowercase())
        && letters
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

/// Name, labels and value of a sample line.
fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let value = value.parse().expect("a number");
    let Some((name, labels)) = series.split_once('{') else {
        return (series.to_owned(), Vec::new(), value);
    };
    let labels = labels.strip_suffix('}').expect("labels end");
    assert!(!labels.is_empty(), "no empty labels: {line}");
    let labels = labels.split(',').map(|label| {
        let (key, value) = label.split_once('=').expect("key and value");
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        (key.to_owned(), value.expect("quoted").to_owned())
    });
    (name.to_owned(), labels.collect(), value)
}

/// Every rule that a scraper may hold us to; panics with the line that breaks one.
fn read_strictly(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "the end is marked");
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut described = BTreeSet::new();
    let mut values = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "EOF"] => {}
            ["#", "HELP", name, help] => {
                assert!(
                    !help.is_empty() && described.insert((*name).to_owned()),
                    "{line}"
                );
                current = (*name).to_owned();
            }
            ["#", "TYPE", name, kind] => {
                assert!(is_name(name) && !suffixes(kind).is_empty(), "{line}");
                assert_eq!(*name, current, "the help stands before the type");
                let twice = families.insert((*name).to_owned(), (*kind).to_owned());
                assert_eq!(twice, None, "a family is one block: {line}");
            }
            _ => {
                let (name, labels, value) = sample(line);
                let kind = &families[&current];
                let own = suffixes(kind)
                    .iter()
                    .any(|suffix| name == format!("{current}{suffix}"));
                assert!(own, "of its family: {line}");
                assert!(name.starts_with("restante_"), "{line}");
                assert!(
                    labels
                        .iter()
                        .all(|(key, value)| is_name(key) && !value.contains('"'))
                );
                assert!(
                    value.is_finite() && (kind == "gauge" || value >= 0.0),
                    "{line}"
                );
                let series = line.rsplit_once(' ').expect("a value").0.to_owned();
                assert_eq!(
                    values.insert(series, value),
                    None,
                    "a series stands once: {line}"
                );
            }
        }
    }
    let buckets: Vec<f64> = values
        .iter()
        .filter(|(series, _)| series.starts_with("restante_store_commit_seconds_bucket"))
        .map(|(_, count)| *count)
        .collect();
    let all = values["restante_store_commit_seconds_bucket{le=\"+Inf\"}"];
    assert_eq!(all, values["restante_store_commit_seconds_count"]);
    assert!(buckets.iter().all(|count| *count <= all));
    values
}

#[test]
fn the_metrics_are_well_formed_and_move_with_the_traffic() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let (alice, bob) = (stage.agent("alice")?, stage.agent("bob")?);
        let admin = Interface::of(stage)?;
        let scrape = || -> Result<_, restante::demo::Failure> {
            let reply = admin.ask_with("GET", "/metrics", "", "")?.expect(200)?;
            let form = reply.header("content-type").unwrap_or_default().to_owned();
            assert!(
                form.starts_with("application/openmetrics-text; version=1.0.0"),
                "{form}"
            );
            Ok(read_strictly(&reply.text()))
        };
        let before = scrape()?;
        stage.observe(before["restante_waiting_messages"] == 0.0, "nothing waits")?;
        stage.observe(before["restante_ready"] == 1.0, "it is ready")?;
        alice.sends_message("bob", "kept")?.expect_status(202)?;
        let during = scrape()?;
        stage.observe(during["restante_waiting_messages"] == 1.0, "one waits")?;
        stage.observe(during["restante_waiting_bytes"] > 0.0, "with its octets")?;
        let commits = "restante_store_commit_seconds_count";
        stage.observe(during[commits] > before[commits], "it was synced")?;
        let received = "restante_udp_datagrams_received_total";
        stage.observe(during[received] > before[received], "datagrams are counted")?;
        bob.registers()?;
        bob.expect_text("kept")?;
        admin.until("/metrics", |reply| {
            reply.text().contains("\nrestante_waiting_messages 0")
        })?;
        let after = scrape()?;
        stage.observe(
            after["restante_registered_users"] == 1.0,
            "a user is registered",
        )?;
        stage.observe(
            after["restante_registered_contacts"] == 1.0,
            "with one contact",
        )
    });
}
