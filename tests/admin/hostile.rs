//! HTTP as nobody should speak it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use restante::clock;

use crate::http::Interface;
use crate::support::{Configuration, on_every_shard_count};

#[test]
fn large_bodies_deep_json_and_nonsense_are_refused() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let admin = Interface::of(stage)?;
        let path = "/admin/v1/accounts";
        let large = format!("{{\"user\": \"{}\"}}", "x".repeat(1 << 20));
        admin
            .ask("POST", path, &large)?
            .expect_problem(413, "too-large")?;
        let deep = "[".repeat(100_000);
        admin
            .ask("POST", path, &deep)?
            .expect_problem(400, "invalid")?;
        let deep = format!("{{\"settings\": {}", "{\"a\":".repeat(20_000));
        admin
            .ask("PATCH", "/admin/v1/accounts/x", &deep)?
            .expect_problem(400, "invalid")?;
        for nonsense in [
            "",
            "nul",
            "{\"user\": 5}",
            "{} {}",
            "{\"user\":\"a\",\"b\":1}",
            "\u{0}",
        ] {
            admin
                .ask("POST", path, nonsense)?
                .expect_problem(400, "invalid")?;
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100_000));
        let refused = admin.send(long.as_bytes())?.status;
        stage.observe(
            matches!(refused, 414 | 431),
            &format!("a long path: {refused}"),
        )?;
        let many: String = (0..5000)
            .map(|number| format!("H{number}: x\r\n"))
            .collect();
        let refused = admin.ask_with("GET", "/readyz", &many, "")?.status;
        stage.observe(refused == 431, &format!("many header fields: {refused}"))?;
        admin
            .send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")?
            .expect(400)?;
        for path in [
            "/admin/v1/users/%2e%2e/messages",
            "/admin/v1/users/a%00b/bindings",
            "/admin/v1/users/bob/messages/18446744073709551616",
            "/admin/v1/users?limit=0",
            "/admin/v1/users?limit=-1&after=%ff",
            "/admin/v1/sessions/70000-chat-1",
        ] {
            let status = admin.get(path)?.status;
            stage.observe(status < 500, &format!("{path}: {status}"))?;
        }
        admin.get("/healthz")?.expect(200)?;
        Ok(())
    });
}

#[test]
fn a_slow_head_is_cut_off() {
    let configuration = Configuration::open().with("admin", "header_timeout = \"300ms\"");
    on_every_shard_count(&configuration, |stage| {
        let admin = Interface::of(stage)?;
        let mut slow = TcpStream::connect(admin.address)?;
        slow.set_read_timeout(Some(Duration::from_secs(10)))?;
        slow.write_all(b"GET /readyz HTTP/1.1\r\nHost: ")?;
        let begun = clock::now().instant;
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest);
        stage.observe(
            clock::now().instant.since(begun) < Duration::from_secs(9),
            "the server closes",
        )?;
        admin.get("/readyz")?.expect(200)?;
        Ok(())
    });
}

#[test]
fn a_slow_body_ends_with_a_408() {
    let configuration = Configuration::open().with("admin", "request_timeout = \"300ms\"");
    on_every_shard_count(&configuration, |stage| {
        let admin = Interface::of(stage)?;
        let token = &admin.token;
        let request = format!(
            "POST /admin/v1/accounts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
        );
        admin
            .send(request.as_bytes())?
            .expect_problem(408, "timeout")?;
        Ok(())
    });
}

#[test]
fn connections_beyond_the_bound_are_closed() {
    let configuration = Configuration::open().with("admin", "max_connections = 2");
    on_every_shard_count(&configuration, |stage| {
        let admin = Interface::of(stage)?;
        let held: Vec<TcpStream> = (0..2)
            .map(|_| TcpStream::connect(admin.address))
            .collect::<Result<_, _>>()?;
        let mut more = TcpStream::connect(admin.address)?;
        more.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut rest = Vec::new();
        let _ = more.read_to_end(&mut rest);
        stage.observe(rest.is_empty(), "it is closed without a word")?;
        drop(held);
        loop {
            if let Ok(reply) = admin.get("/readyz") {
                reply.expect(200)?;
                break;
            }
        }
        let refused = admin.metric("restante_admin_connections_refused_total")?;
        stage.observe(refused >= 1.0, "and counted")
    });
}
