//! What lies on a disk: records of the store, documents, the configuration.

use restante::clock::{Instant, Now, UnixMillis};
use restante::config::{Config, HostPort, Listener, Period, Size, Tagless};
use restante::registrar::{Binding, StoredAccount};
use restante::store::reading;

/// Any octets where a record, a footer, a binding or an account is expected: they are refused, or read
/// as something that is written and read alike. A file of any octets is scanned to its end, in order.
pub fn records_are_read_soundly(octets: &[u8]) {
    let (kind, payload) = octets.split_first().unwrap_or((&0, &[]));
    if let Some(written) = reading::rewritten(*kind, payload) {
        let again = reading::rewritten(*kind, &written).expect("ours can be read");
        assert_eq!(again, written);
    }
    let mut end = 0;
    for range in reading::scanned(payload) {
        assert!(
            range.start >= end && range.end > range.start,
            "out of order"
        );
        end = range.end;
    }
    let now = Now {
        instant: Instant::from_micros(1_000_000),
        wall: UnixMillis(1_800_000_000_000),
    };
    if let Ok(Some(binding)) = Binding::decode(payload, Tagless::Message, now) {
        let again = Binding::decode(&binding.encode(), Tagless::Message, now);
        let again = again.expect("ours can be read").expect("as long-lived");
        assert_eq!(again.encode(), binding.encode());
    }
    if let Some(Ok(account)) = StoredAccount::decode("account/alice", payload) {
        let written = account.encode().expect("it was read");
        let again = StoredAccount::decode("account/alice", &written);
        assert_eq!(
            again.expect("an account").expect("ours can be read"),
            account
        );
    }
}

/// A configuration that is taken is printed so that it is read alike; so is every value in it.
pub fn configuration_comes_back_as_written(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else {
        return;
    };
    let value = text.lines().next().unwrap_or_default();
    if let Ok(period) = value.parse::<Period>() {
        assert_eq!(period.to_string().parse(), Ok(period));
    }
    if let Ok(size) = value.parse::<Size>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Ok(listener) = value.parse::<Listener>() {
        assert_eq!(listener.to_string().parse(), Ok(listener));
    }
    if let Ok(host) = value.parse::<HostPort>() {
        assert_eq!(host.to_string().parse(), Ok(host));
    }
    // Files it names are not this claim's to open.
    if text.contains("_file") {
        return;
    }
    if let Ok(config) = Config::of_text(text)
        && config.account.is_empty()
    {
        let written = config.document();
        assert_eq!(Config::of_text(&written).expect("ours can be read"), config);
    }
}
