//! The client of the admin interface: where it is, what opens it, and one request after the other.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use crate::admin::{Token, default_file};
use crate::config::Config;

/// A server that answers later than this does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the admin interface is, and its token.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Configuration file of the server: address and token come from it and from the environment.
    #[arg(short = 'c', long = "config", global = true, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Address of the admin interface; without it the first of admin.listen in the configuration.
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// The bearer token. Other users of the machine can see arguments: prefer --token-file.
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// A file whose first line is the token; without it admin.token or admin.token_file of the
    /// configuration, else admin.token in data_dir.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Print the JSON of the server instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Why a command did not do what it was asked. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The arguments or the configuration are wrong: exit code 2.
    #[error("{0}")]
    Misconfigured(String),
    /// The server cannot be reached, or talks nonsense: exit code 1.
    #[error("{url}: {error}")]
    Unreachable {
        /// Whom was asked.
        url: String,
        /// What happened.
        error: String,
    },
    /// The server refused: exit code 1.
    #[error("{status} {title}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem in a few words.
        title: String,
        /// What is wrong.
        detail: String,
    },
    /// The store, or a copy of it, is not whole: exit code 1.
    #[error("{0}")]
    Damaged(String),
    /// The output cannot be written: exit code 1.
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl OperateError {
    /// 2 for wrong arguments or configuration, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Misconfigured(_) => 2,
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Damaged(_)
            | Self::Output(_) => 1,
        }
    }
}

/// An open way to a server.
pub struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Target {
    /// The way there, without asking anything yet. Without `guarded` no token is looked for.
    pub fn client(&self, guarded: bool) -> Result<Client, OperateError> {
        let needs_file =
            self.url.is_none() || (guarded && self.token.is_none() && self.token_file.is_none());
        let config = match needs_file {
            true => super::load(self.file.as_deref()),
            false => Ok(Config::default()),
        };
        let config = config.map_err(|error| OperateError::Misconfigured(error.to_string()))?;
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => url_of(&config)?,
        };
        let token = match guarded {
            true => Some(self.token_of(&config)?),
            false => None,
        };
        let agent = Agent::config_builder()
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .http_status_as_error(false)
            // The server is near; what stands in HTTP_PROXY is for others.
            .proxy(None)
            .build();
        Ok(Client {
            agent: agent.into(),
            url,
            token,
        })
    }

    fn token_of(&self, config: &Config) -> Result<String, OperateError> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        if self.token_file.is_none() && !config.admin.token.is_empty() {
            return Ok(config.admin.token.expose().to_owned());
        }
        let file = self.token_file.clone();
        let file = file.unwrap_or_else(|| default_file(config));
        let token = Token::read(&file).map_err(|error| {
            let hint = "give -c FILE, --token or --token-file";
            OperateError::Misconfigured(format!("{}: {error}; {hint}", file.display()))
        })?;
        Ok(token.expose().to_owned())
    }
}

fn url_of(config: &Config) -> Result<String, OperateError> {
    let misconfigured = |text: &str| OperateError::Misconfigured(text.to_owned());
    let listener = config.admin.listen.first();
    let listener = listener.ok_or_else(|| {
        misconfigured("admin.listen is empty in this configuration: the interface is off")
    })?;
    let mut address = listener.address;
    if address.port() == 0 {
        return Err(misconfigured(
            "admin.listen has port 0: give --url with the address in the ready line",
        ));
    }
    if address.ip().is_unspecified() {
        let loopback = match address.ip() {
            IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        };
        address.set_ip(loopback);
    }
    Ok(format!("http://{address}"))
}

impl Client {
    /// Asks, and gives the JSON of the answer; `Null` if it has none.
    pub fn json(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, OperateError> {
        let mut response = self.ask(method, path, body)?;
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        match text.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_str(&text).map_err(|error| self.unreachable(&error)),
        }
    }

    /// Asks, and gives the octets of the answer as they come.
    pub fn stream(&self, path: &str) -> Result<impl Read + use<>, OperateError> {
        Ok(self.ask("GET", path, None)?.into_body().into_reader())
    }

    /// All pages of a list: the entries under `key`.
    pub fn all(&self, path: &str, key: &str) -> Result<Vec<Value>, OperateError> {
        let mut entries = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = self.json("GET", &format!("{path}?limit=1000{after}"), None)?;
            if let Some(Value::Array(found)) = page.get_mut(key).map(Value::take) {
                entries.extend(found);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = format!("&after={}", segment(next)),
                None => return Ok(entries),
            }
        }
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Body>, OperateError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                let request = request.body(body.to_string());
                request
                    .map_err(ureq::Error::from)
                    .and_then(|r| self.agent.run(r))
            }
            None if method == "POST" => {
                let request = request.body(String::new());
                request
                    .map_err(ureq::Error::from)
                    .and_then(|r| self.agent.run(r))
            }
            None => {
                let request = request.body(());
                request
                    .map_err(ureq::Error::from)
                    .and_then(|r| self.agent.run(r))
            }
        };
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let word = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default();
        let field = match word("field") {
            "" => String::new(),
            field => format!("{field}: "),
        };
        Err(OperateError::Refused {
            status,
            title: word("title").to_owned(),
            detail: format!("{field}{}", word("detail")),
        })
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> OperateError {
        OperateError::Unreachable {
            url: self.url.clone(),
            error: error.to_string(),
        }
    }
}

/// A value as a segment of a path, or in a query (RFC 3986 §2.3).
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_configuration() {
        let mut config = Config::default();
        assert_eq!(url_of(&config).unwrap(), "http://127.0.0.1:8060");
        config.admin.listen = vec!["tcp://0.0.0.0:9000".parse().unwrap()];
        assert_eq!(url_of(&config).unwrap(), "http://127.0.0.1:9000");
        config.admin.listen = vec!["tcp://[::1]:9000".parse().unwrap()];
        assert_eq!(url_of(&config).unwrap(), "http://[::1]:9000");
        for listen in [vec!["tcp://127.0.0.1:0".parse().unwrap()], Vec::new()] {
            config.admin.listen = listen;
            assert_eq!(url_of(&config).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("j ö/..?"), "j%20%C3%B6%2F..%3F");
    }
}
