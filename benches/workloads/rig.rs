//! The server under load: its configuration, where it runs, what it says of itself.

use std::net::SocketAddr;
use std::path::Path;

use restante::demo::{ServerProcess, Transport};

use super::cost::Subject;
use super::phones::Phones;
use super::sys;

/// Which CPUs the server gets; the load program takes the last one.
#[derive(Clone, Debug)]
pub struct Places {
    all: Vec<usize>,
    server: Vec<usize>,
}

impl Places {
    /// So many of the CPUs for the server, if there are as many.
    pub fn new(all: &[usize], cores: usize) -> Self {
        Self {
            server: all.iter().copied().take(cores.max(1)).collect(),
            all: all.to_vec(),
        }
    }

    /// How many CPUs the server has.
    pub fn cores(&self) -> usize {
        self.server.len()
    }

    /// Starts something on the server's CPUs; the load program goes to the last one.
    pub fn started<T>(&self, start: impl FnOnce() -> T) -> T {
        sys::stay_on(&self.server);
        let started = start();
        let last = self.all.last().copied();
        sys::stay_on(last.as_slice());
        started
    }

    /// Everybody may run everywhere again.
    pub fn leave(&self) {
        sys::stay_on(&self.all);
    }
}

/// What differs from a lab's configuration.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Users with accounts who must prove who they are: so many.
    pub accounts: Option<u64>,
    /// Bounds that let a million users register within seconds.
    pub is_roomy: bool,
}

impl Setting {
    /// For many users.
    pub fn roomy() -> Self {
        Self {
            is_roomy: true,
            ..Self::default()
        }
    }
}

/// A running server with its data folder.
pub struct Rig {
    pub server: ServerProcess,
    _folder: tempfile::TempDir,
    places: Places,
}

impl Rig {
    /// A server with an empty store.
    pub fn new(binary: &Path, places: &Places, setting: &Setting) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::on(folder, binary, places, setting)
    }

    /// A server on a folder whose `data` is there already.
    pub fn on(
        folder: tempfile::TempDir,
        binary: &Path,
        places: &Places,
        setting: &Setting,
    ) -> Self {
        let text = configuration(folder.path(), setting);
        let server = places.started(|| ServerProcess::start(binary, folder.path(), &text));
        Self {
            server: server.unwrap_or_else(|failure| panic!("{failure}")),
            _folder: folder,
            places: places.clone(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let address = self.server.sip_address(Transport::Udp);
        address.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Its process.
    pub fn subject(&self) -> Subject {
        Subject::process(self.server.pid())
    }

    /// How many CPUs it has.
    pub fn cores(&self) -> usize {
        self.places.cores()
    }

    /// The phones of its users.
    pub fn phones(&self) -> Phones {
        Phones::new(self.address())
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self) {
        let server = &mut self.server;
        server.kill9().unwrap_or_else(|failure| panic!("{failure}"));
        let started = self.places.started(|| server.restart());
        started.unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// The sum of a metric's values.
    pub fn metric(&self, name: &str) -> f64 {
        let admin = self.server.ready().admin.first().expect("an interface");
        let url = format!("http://{}/metrics", admin.trim_start_matches("tcp://"));
        let answer = ureq::get(&url).call().expect("the metrics");
        let text = answer.into_body().read_to_string().expect("a text");
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.places.leave();
    }
}

fn configuration(folder: &Path, setting: &Setting) -> String {
    let data = folder.join("data");
    let authentication = match setting.accounts {
        Some(_) => "digest",
        None => "none",
    };
    let (transactions, memory) = match setting.is_roomy {
        true => (
            "max_transactions = 4000000\n",
            "[limits]\nmemory = \"12 GiB\"\n",
        ),
        false => ("", ""),
    };
    let accounts: String = (0..setting.accounts.unwrap_or_default())
        .map(|user| format!("[[account]]\nuser = \"u{user}\"\npassword = \"secret-u{user}\"\n"))
        .collect();
    format!(
        "domain = \"im.test\"\ndata_dir = {data:?}\n\
         [sip]\nlisten = [\"udp://127.0.0.1:{{sip_udp}}\", \"tcp://127.0.0.1:{{sip_tcp}}\"]\n\
         {transactions}[msrp]\nlisten = [\"tcp://127.0.0.1:{{msrp}}\"]\n\
         [admin]\nlisten = [\"tcp://127.0.0.1:0\"]\n\
         [registrar]\nauthentication = \"{authentication}\"\n{memory}{accounts}"
    )
}
