//! Writes a configuration as commented TOML: what `restante config` prints.

use std::fmt::Write;

use toml::{Table, Value};

use super::schema::Config;

const ABOUT: &str = "\
# Configuration of restante. Every key is optional; the value shown is the one in effect.
# Each key is also an environment variable that wins over this file: RESTANTE_DOMAIN for a key at
# the top, RESTANTE_SIP__LISTEN for one in a section; its value is TOML, or a bare string.
# Durations are written \"500ms\", \"30s\", \"1h30m\", \"7d\"; sizes \"64 KiB\", \"100 MB\".
";

const CLIENTS: &str = "\
# How devices of one make are spoken to, whatever tags they register, a table each; the first whose
# text is part of the User-Agent of the REGISTER holds, and an account's own profile wins over it.
# [[client]]
# user_agent = \"OldPhone/\"
# profile = \"rcs-e\"                # rcs, rcs-e, cpm (chat without marks), message (no chat)
";

const PEERS: &str = "\
# Who may send requests, and how many: networks and domains, a table each; of either kind the first
# that fits holds, and a rate is for all of a peer together.
# [[peer]]
# network = \"10.0.0.0/8\"           # where requests come from: devices, a proxy, a trunk
# rate = 500                       # requests outside dialogs a second; over it 503; 0: no limit
# burst = 1000                     # of these, so many at once; 0: as many as in a second
# [[peer]]
# domain = \"other.test\"            # the domain of From or P-Asserted-Identity instead
# action = \"deny\"                  # 403; or \"allow\"
";

const ACCOUNTS: &str = "\
# The users of the domain, a table each; needed when authentication = \"digest\".
# [[account]]
# user = \"alice\"                   # the user part of sip:alice@DOMAIN
# password = \"secret\"              # or one of the next two instead
# password_file = \"alice.secret\"   # its first line; relative to this file
# ha1 = \"HEX\"                      # hash of user:realm:password: MD5, SHA-256, or a list of both;
#                                  # an algorithm one account lacks is not offered to anyone
# tel = \"+15550100\"                # tel:+15550100 is the same user
# [account.settings]               # any key of [users] for this user alone, and
# profile = \"rcs-e\"                # how all its devices are spoken to: rcs, rcs-e, cpm, message
# rules = [{ from = \"sip:eve@im.test\", action = \"block\" }]
#                                  # from: a person, a domain, or \"anonymous\"; the first fit holds
";

impl Config {
    /// Every key with its comment and its value in effect, as TOML. Secrets are masked; without
    /// accounts it reads back equal.
    pub fn document(&self) -> String {
        let written = Table::try_from(self).expect("every key has a TOML form");
        let mut out = ABOUT.to_owned();
        out.push('\n');
        for (key, comment) in Self::KEYS {
            match written.get(*key) {
                Some(Value::Table(table)) => write_section(&mut out, key, comment, table),
                Some(_) if ["account", "client", "peer"].contains(key) => {}
                Some(value) => write_key(&mut out, key, comment, value),
                None => {}
            }
        }
        out.push('\n');
        out.push_str(PEERS);
        if let Some(Value::Array(peers)) = written.get("peer") {
            for peer in peers.iter().filter_map(Value::as_table) {
                put(&mut out, format_args!("\n[[peer]]\n{peer}"));
            }
        }
        out.push('\n');
        out.push_str(CLIENTS);
        if let Some(Value::Array(clients)) = written.get("client") {
            for client in clients.iter().filter_map(Value::as_table) {
                put(&mut out, format_args!("\n[[client]]\n{client}"));
            }
        }
        out.push('\n');
        out.push_str(ACCOUNTS);
        if let Some(Value::Array(accounts)) = written.get("account") {
            for account in accounts.iter().filter_map(Value::as_table) {
                write_account(&mut out, account);
            }
        }
        out
    }
}

fn write_section(out: &mut String, section: &str, comment: &str, table: &Table) {
    out.push('\n');
    write_comment(out, comment);
    put(out, format_args!("[{section}]\n"));
    let keys = Config::SECTIONS
        .iter()
        .find(|(name, _)| *name == section)
        .map_or(&[] as &[_], |(_, keys)| keys);
    for (key, comment) in keys {
        if let Some(value) = table.get(*key) {
            write_key(out, key, comment, value);
        }
    }
}

fn write_key(out: &mut String, key: &str, comment: &str, value: &Value) {
    write_comment(out, comment);
    put(out, format_args!("{key} = {value}\n"));
}

fn write_comment(out: &mut String, comment: &str) {
    for line in comment.lines() {
        put(out, format_args!("#{line}\n"));
    }
}

fn write_account(out: &mut String, account: &Table) {
    out.push_str("\n[[account]]\n");
    for key in ["user", "password", "password_file", "ha1", "tel"] {
        // A password read from a file belongs to the file.
        if key == "password" && account.contains_key("password_file") {
            continue;
        }
        if let Some(value) = account.get(key) {
            put(out, format_args!("{key} = {value}\n"));
        }
    }
    if let Some(Value::Table(settings)) = account.get("settings") {
        put(out, format_args!("[account.settings]\n"));
        for (key, value) in settings {
            put(out, format_args!("{key} = {value}\n"));
        }
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_the_defaults_reads_back_as_the_defaults() {
        let text = Config::default().document();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_preceded_by_its_comment() {
        let text = Config::default().document();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            if pair[1].contains(" = ") && !pair[1].starts_with('#') {
                assert!(pair[0].starts_with("# "), "{}", pair[1]);
            }
        }
        for (_, keys) in Config::SECTIONS {
            for (key, _) in *keys {
                assert!(text.contains(&format!("\n{key} = ")), "{key}");
            }
        }
    }

    #[test]
    fn what_is_in_effect_is_shown_and_secrets_are_not() {
        let config: Config = toml::from_str(
            "domain = \"a.test\"\n[[account]]\nuser = \"bob\"\npassword = \"hunter2\"\n\
             [[account]]\nuser = \"eve\"\nha1 = \"0123456789abcdef0123456789abcdef\"\n",
        )
        .unwrap();
        let text = config.document();
        assert!(text.contains("domain = \"a.test\""));
        assert!(text.contains("user = \"bob\"\npassword = \"********\"\n"));
        assert!(!text.contains("hunter2"));
        assert!(!text.contains("0123456789abcdef"));
    }

    #[test]
    fn rules_for_clients_read_back_as_they_were() {
        let text = "[[client]]\nuser_agent = \"Old\"\nprofile = \"rcs-e\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.client.len(), 1);
        let again: Config = toml::from_str(&config.document()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn the_deployed_example_is_the_document_of_the_defaults() {
        let example = include_str!("../../deploy/restante.example.toml");
        assert_eq!(example, Config::default().document());
    }
}
