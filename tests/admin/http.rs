//! A plain HTTP/1.1 client over a socket, which shares nothing with the server.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use restante::clock;
use restante::demo::Failure;
use serde_json::Value;

use crate::support::Stage;

const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Fails unless it has this status.
    pub fn expect(self, status: u16) -> Result<Self, Failure> {
        match self.status == status {
            true => Ok(self),
            false => Err(Failure::plain(format!(
                "{status} was expected: {}\n{}",
                self.head,
                self.text()
            ))),
        }
    }

    /// Fails unless it is a problem of this kind, complete as RFC 9457 wants it.
    pub fn expect_problem(self, status: u16, kind: &str) -> Result<Value, Failure> {
        let reply = self.expect(status)?;
        let problem = reply.json();
        let right = reply.header("content-type") == Some("application/problem+json")
            && problem["type"] == format!("/admin/v1/problems/{kind}")
            && problem["status"] == status
            && problem["title"].is_string()
            && problem["detail"].is_string();
        match right {
            true => Ok(problem),
            false => Err(Failure::plain(format!(
                "no problem {kind}: {}",
                reply.text()
            ))),
        }
    }
}

/// The interface of a server on a stage.
pub struct Interface {
    pub address: SocketAddr,
    pub token: String,
}

impl Interface {
    /// As the server tells it: the address in the ready line, the token in the data folder.
    pub fn of(stage: &Stage) -> Result<Self, Failure> {
        let server = stage.server();
        let listener = server.ready().admin.first().cloned().unwrap_or_default();
        let address = listener.strip_prefix("tcp://").unwrap_or_default().parse();
        let address = address.map_err(|_| Failure::plain("the ready line names no interface"))?;
        let token = fs::read_to_string(stage.folder().join("data/admin.token"))?;
        let token = token.trim().to_owned();
        Ok(Self { address, token })
    }

    pub fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.ask("GET", path, "")
    }

    /// With the token.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<Reply, Failure> {
        let authorization = format!("Authorization: Bearer {}\r\n", self.token);
        self.ask_with(method, path, &authorization, body)
    }

    /// With these header lines.
    pub fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<Reply, Failure> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(request.as_bytes())
    }

    /// These octets; the answer is what comes until the server closes.
    pub fn send(&self, request: &[u8]) -> Result<Reply, Failure> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The server may answer and close before it has read all.
        let _ = stream.write_all(request);
        let mut octets = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            octets.extend_from_slice(&buffer[..count]);
        }
        read(&octets).ok_or_else(|| Failure::plain("no answer of HTTP"))
    }

    /// Asks until the answer is as wanted.
    pub fn until(&self, path: &str, wanted: impl Fn(&Reply) -> bool) -> Result<Reply, Failure> {
        let begun = clock::now().instant;
        loop {
            let reply = self.get(path)?;
            if wanted(&reply) {
                return Ok(reply);
            }
            if clock::now().instant.since(begun) > PATIENCE {
                let text = reply.text();
                return Err(Failure::plain(format!(
                    "{path} stays {} {text}",
                    reply.status
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The value of a metric, with its labels as they are written.
    pub fn metric(&self, name: &str) -> Result<f64, Failure> {
        let text = self
            .ask_with("GET", "/metrics", "", "")?
            .expect(200)?
            .text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.and_then(|value| value.parse().ok());
        value.ok_or_else(|| Failure::plain(format!("no metric {name}")))
    }
}

fn read(octets: &[u8]) -> Option<Reply> {
    let end = octets.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&octets[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let rest = &octets[end + 4..];
    let mut reply = Reply {
        status,
        head,
        body: rest.to_vec(),
    };
    if reply.header("transfer-encoding") == Some("chunked") {
        reply.body = unchunk(rest)?;
    }
    Some(reply)
}

/// RFC 9112 §7.1; `None` if the last chunk did not come.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 4 + size..)?;
    }
}
