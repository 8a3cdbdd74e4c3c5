//! The configurations the scenarios run with, written as an operator would write them.

use std::collections::BTreeMap;
use std::path::Path;

use md5::{Digest, Md5};

/// Keys that differ from the defaults, by section.
#[derive(Clone, Debug)]
pub struct Configuration {
    sections: BTreeMap<&'static str, Vec<String>>,
    accounts: Vec<String>,
    host: &'static str,
}

impl Configuration {
    /// Every user of `im.test` exists and is believed.
    pub fn open() -> Self {
        Self {
            sections: BTreeMap::new(),
            accounts: Vec::new(),
            host: "127.0.0.1",
        }
        .with("registrar", "authentication = \"none\"")
    }

    /// Alice, Bob and Carol have accounts; their passwords are `NAME-secret`.
    pub fn digest() -> Self {
        Self::accounts(|user| format!("password = \"{user}-secret\""))
    }

    /// The same accounts with MD5 hashes alone, so that only MD5 is offered: SIPp 3.6 gives up at
    /// a SHA-256 challenge.
    pub fn md5() -> Self {
        Self::accounts(|user| {
            let ha1 = Md5::digest(format!("{user}:im.test:{user}-secret"));
            let hex: String = ha1.iter().map(|octet| format!("{octet:02x}")).collect();
            format!("ha1 = \"{hex}\"")
        })
    }

    fn accounts(secret: impl Fn(&str) -> String) -> Self {
        let users = [
            ("alice", "+4670000001"),
            ("bob", "+4670000002"),
            ("carol", "+4670000003"),
        ];
        let account = |(user, tel): (&str, &str)| {
            let secret = secret(user);
            format!("[[account]]\nuser = \"{user}\"\n{secret}\ntel = \"{tel}\"\n")
        };
        Self {
            sections: BTreeMap::new(),
            accounts: users.into_iter().map(account).collect(),
            host: "127.0.0.1",
        }
        .with("registrar", "authentication = \"digest\"")
    }

    /// All listeners on the loopback address of IPv6.
    pub fn on_ipv6(mut self) -> Self {
        self.host = "[::1]";
        self
    }

    /// One more line in a section; the section `""` is the top of the file.
    pub fn with(mut self, section: &'static str, line: &str) -> Self {
        let lines = self.sections.entry(section).or_default();
        lines.push(line.to_owned());
        self
    }

    /// One more line for the account of a user.
    pub fn for_account(mut self, user: &str, line: &str) -> Self {
        let name = format!("user = \"{user}\"\n");
        for account in &mut self.accounts {
            if account.contains(&name) {
                account.push_str(line);
                account.push('\n');
            }
        }
        self
    }

    /// More tables at the end, such as `[[client]]`.
    pub fn and(mut self, table: &str) -> Self {
        self.accounts.push(table.to_owned());
        self
    }

    /// The file, with port 0 everywhere.
    pub fn text_with_any_ports(&self, folder: &Path, shards: u16) -> String {
        self.text(folder, shards)
            .replace("{sip_udp}", "0")
            .replace("{sip_tcp}", "0")
            .replace("{msrp}", "0")
    }

    /// The file, with the ports left open for [`restante::demo::ServerProcess`].
    pub fn text(&self, folder: &Path, shards: u16) -> String {
        let mut sections = self.sections.clone();
        let data = folder.join("data");
        sections.entry("").or_default().extend([
            "domain = \"im.test\"".to_owned(),
            format!("data_dir = {data:?}"),
            format!("shards = {shards}"),
        ]);
        let host = self.host;
        let sip = format!("listen = [\"udp://{host}:{{sip_udp}}\", \"tcp://{host}:{{sip_tcp}}\"]");
        sections.entry("sip").or_default().push(sip);
        let msrp = format!("listen = [\"tcp://{host}:{{msrp}}\"]");
        sections.entry("msrp").or_default().push(msrp);
        let admin = sections.entry("admin").or_default();
        if !admin.iter().any(|line| line.starts_with("listen")) {
            admin.push(format!("listen = [\"tcp://{host}:0\"]"));
        }
        let mut text = String::new();
        for (section, lines) in &sections {
            if !section.is_empty() {
                text.push_str(&format!("\n[{section}]\n"));
            }
            text.push_str(&lines.join("\n"));
            text.push('\n');
        }
        for account in &self.accounts {
            text.push_str(&format!("\n{account}"));
        }
        text
    }
}
