//! What the machine can do at best: the same datagrams and octets through programs that understand none of them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use restante::net::sys::Datagram;

use super::cost::Subject;
use super::line::Line;
use super::rig::Places;
use super::sys::{Wish, wait};
use super::texts;

const LOOK: Duration = Duration::from_millis(20);
/// Octets that are passed on at once.
const READ: usize = 256 * 1024;

/// A thread in the server's place.
pub struct Bound {
    pub address: SocketAddr,
    pub subject: Subject,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    places: Places,
}

impl Bound {
    /// Passes datagrams on: those of `device` to who sent last, all others to `device`.
    pub fn forwarder(places: &Places, device: SocketAddr) -> Self {
        let mut author = None;
        Self::of_datagrams(places, move |line, came| {
            for datagram in came.drain(..) {
                let to = match datagram.remote == device {
                    true => author,
                    false => Some(device),
                };
                if datagram.remote != device {
                    author = Some(datagram.remote);
                }
                if let Some(to) = to {
                    line.send(to, datagram.octets);
                }
            }
        })
    }

    /// Answers each request.
    pub fn answerer(places: &Places) -> Self {
        Self::of_datagrams(places, |line, came| answer_all(line, came, "200 OK"))
    }

    /// Appends requests to a file, and answers those that came together after one sync.
    pub fn keeper(places: &Places) -> Self {
        let mut file = tempfile::tempfile().expect("a file");
        Self::of_datagrams(places, move |line, came| {
            keep(&mut file, came);
            answer_all(line, came, "202 Accepted");
        })
    }

    /// Sends so many messages to `device`, each after the answer to the one before.
    pub fn caller(places: &Places, device: SocketAddr, count: u64) -> Self {
        let mut next = 0;
        Self::of_datagrams(places, move |line, came| {
            let may_go_on = next == 0 || !came.is_empty();
            came.clear();
            if may_go_on && next < count {
                let text = texts::message(line.local(), "author", "user", next);
                line.send(device, text);
                next += 1;
            }
        })
    }

    fn of_datagrams(
        places: &Places,
        mut work: impl FnMut(&mut Line, &mut Vec<Datagram>) + Send + 'static,
    ) -> Self {
        Self::start(places, move |told, stop| {
            let mut line = Line::new();
            told.send((line.local(), Subject::this_thread()))
                .expect("heard");
            let mut came = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                line.receive(&mut came);
                work(&mut line, &mut came);
                line.flush();
                wait(&[Wish::to_read(line.socket())], LOOK);
            }
        })
    }

    /// Passes the octets of each connection on to the one that was opened after it, and back.
    pub fn stream_forwarder(places: &Places) -> Self {
        Self::start(places, |told, stop| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            listener.set_nonblocking(true).expect("set");
            let address = listener.local_addr().expect("bound");
            told.send((address, Subject::this_thread())).expect("heard");
            let mut streams: Vec<TcpStream> = Vec::new();
            let mut buffer = vec![0; READ];
            while !stop.load(Ordering::Relaxed) {
                let open = streams.iter().map(|stream| Wish::to_read(stream.as_fd()));
                let wishes: Vec<Wish<'_>> = open.chain([Wish::to_read(listener.as_fd())]).collect();
                wait(&wishes, LOOK);
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true).expect("set");
                    stream.set_nonblocking(true).expect("set");
                    streams.push(stream);
                }
                for index in 0..streams.len() {
                    pass_on(&streams, index, &mut buffer);
                }
            }
        })
    }

    fn start(
        places: &Places,
        work: impl FnOnce(mpsc::Sender<(SocketAddr, Subject)>, Arc<AtomicBool>) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, heard) = mpsc::channel();
        let its_stop = Arc::clone(&stop);
        let thread = places.started(|| thread::spawn(move || work(told, its_stop)));
        let (address, subject) = heard.recv().expect("it starts");
        Self {
            address,
            subject,
            stop,
            thread: Some(thread),
            places: places.clone(),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that failed has said so; what waited for it fails too.
            let _ = thread.join();
        }
        self.places.leave();
    }
}

fn answer_all(line: &mut Line, came: &mut Vec<Datagram>, status: &str) {
    for datagram in came.drain(..) {
        let answer = texts::answer(&datagram.octets, status, "", "");
        line.send(datagram.remote, answer);
    }
}

fn keep(file: &mut File, came: &[Datagram]) {
    if came.is_empty() {
        return;
    }
    let all: Vec<u8> = (came.iter())
        .flat_map(|it| it.octets.iter().copied())
        .collect();
    file.write_all(&all).expect("written");
    file.sync_data().expect("synced");
}

/// What waits at a stream goes to its partner. What is not there yet is read the next time.
fn pass_on(streams: &[TcpStream], index: usize, buffer: &mut [u8]) {
    let Some(mut partner) = streams.get(index ^ 1) else {
        return;
    };
    let Ok(length @ 1..) = (&streams[index]).read(buffer) else {
        return;
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match partner.write(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let socket = partner.as_fd();
                let to_write = true;
                wait(&[Wish { socket, to_write }], LOOK);
            }
            // The load program is done.
            Err(_) => return,
        }
    }
}
