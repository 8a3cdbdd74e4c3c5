//! Health, the token, the drain, and the description of the interface.

use restante::demo::Failure;

use crate::http::Interface;
use crate::support::{Configuration, on_every_shard_count};

/// A path with its parameters filled in.
fn filled(path: &str) -> String {
    path.replace("{user}", "bob")
        .replace("{seq}", "1")
        .replace("{id}", "0-chat-1")
}

#[test]
fn nothing_below_admin_opens_without_the_token() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let admin = Interface::of(stage)?;
        for (method, path) in restante::admin::paths() {
            if !path.starts_with("/admin/") {
                continue;
            }
            for headers in [
                "",
                "Authorization: Bearer wrong\r\n",
                "Authorization: Basic x\r\n",
            ] {
                let reply = admin.ask_with(&method, &filled(&path), headers, "")?;
                let challenge = reply.header("www-authenticate").map(str::to_owned);
                reply.expect_problem(401, "unauthorised")?;
                let challenged = challenge.is_some_and(|value| value.starts_with("Bearer"));
                stage.observe(challenged, "RFC 6750 §3")?;
            }
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            admin.ask_with("GET", path, "", "")?.expect(200)?;
        }
        Ok(())
    });
}

#[test]
fn the_description_that_is_served_names_every_route_and_every_route_answers() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let admin = Interface::of(stage)?;
        let description = admin.get("/admin/v1/openapi.json")?.expect(200)?.json();
        let version = description["openapi"].as_str().unwrap_or_default();
        stage.observe(version.starts_with("3.1"), "OpenAPI 3.1")?;
        let paths = description["paths"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let mut described: Vec<(String, String)> = Vec::new();
        for (path, item) in &paths {
            for method in item.as_object().into_iter().flat_map(|item| item.keys()) {
                described.push((method.to_uppercase(), path.clone()));
            }
        }
        let mut routes = restante::admin::paths();
        routes.sort();
        described.sort();
        stage.observe(routes == described, "the description is that of the code")?;
        stage.observe(routes.len() >= 24, "and it is the whole interface")?;
        for (method, path) in &routes {
            if path.ends_with("/drain") {
                continue;
            }
            let reply = admin.ask(method, &filled(path), "{}")?;
            stage.observe(reply.status != 405, &format!("{method} {path}"))?;
            let unknown_path = reply.text().contains("nothing at this path");
            stage.observe(!unknown_path, &format!("{method} {path} is there"))?;
        }
        admin
            .get("/admin/v1/nothing")?
            .expect_problem(404, "not-found")?;
        admin
            .ask("DELETE", "/metrics", "")?
            .expect_problem(405, "method")?;
        Ok(())
    });
}

#[test]
fn a_draining_server_is_alive_but_not_ready() {
    on_every_shard_count(&Configuration::open(), |stage| {
        let admin = Interface::of(stage)?;
        admin.get("/readyz")?.expect(200)?;
        admin.ask("POST", "/admin/v1/drain", "")?.expect(202)?;
        admin.get("/readyz")?.expect_problem(503, "draining")?;
        admin.get("/healthz")?.expect(200)?;
        stage.observe(
            admin.metric("restante_ready")? == 0.0,
            "nor does it count as ready",
        )?;
        let code = stage.terminates()?;
        stage.observe(code == Some(0), "it exits 0")?;
        stage.restart()?;
        Interface::of(stage)?.get("/readyz")?.expect(200)?;
        Ok(())
    });
}

#[test]
fn the_server_tells_what_runs_and_keeps_its_secrets() {
    on_every_shard_count(&Configuration::digest(), |stage| {
        let admin = Interface::of(stage)?;
        let reply = admin.get("/admin/v1/server")?.expect(200)?;
        let server = reply.json();
        stage.observe(
            server["version"] == env!("CARGO_PKG_VERSION"),
            "the version",
        )?;
        stage.observe(server["state"] == "ready", "the state")?;
        let configuration = server["configuration"].as_str().unwrap_or_default();
        stage.observe(configuration.contains("[admin]"), "the configuration")?;
        stage.observe(!reply.text().contains("alice-secret"), "without passwords")?;
        stage.observe(!reply.text().contains(&admin.token), "without the token")
    });
}

#[test]
fn an_interface_that_is_off_is_not_there() -> Result<(), Failure> {
    let configuration = Configuration::open().with("admin", "listen = []");
    on_every_shard_count(&configuration, |stage| {
        stage.observe(
            stage.server().ready().admin.is_empty(),
            "the ready line has none",
        )?;
        let token = stage.folder().join("data/admin.token");
        stage.observe(!token.exists(), "and there is no token")
    });
    Ok(())
}
