//! The server itself: what runs, and its drain.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::state::{Admin, Phase};
use super::times::written;
use crate::clock;

/// What runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Server {
    version: &'static str,
    domain: String,
    /// `ready` or `draining`.
    state: &'static str,
    /// RFC 3339.
    started_at: String,
    uptime_seconds: u64,
    shards: u16,
    /// Messages in custody.
    messages: u64,
    /// The configuration in effect, as commented TOML; secrets are masked.
    configuration: String,
}

/// The drain has begun.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Draining {
    state: &'static str,
}

/// What runs: version, uptime, shards, and the configuration without secrets.
#[utoipa::path(get, path = "/admin/v1/server", tag = "server", responses(
    (status = 200, description = "What runs", body = Server),
))]
pub(super) async fn show(State(admin): State<Arc<Admin>>) -> Result<Json<Server>, Problem> {
    let parts = admin.parts()?;
    let up = clock::now().instant.since(admin.started.instant);
    Ok(Json(Server {
        version: env!("CARGO_PKG_VERSION"),
        domain: admin.config.domain.clone(),
        state: match admin.phase() {
            Phase::Draining => "draining",
            Phase::Starting | Phase::Ready => "ready",
        },
        started_at: written(admin.started.wall),
        uptime_seconds: up.as_secs(),
        shards: parts.desk.shards(),
        messages: parts.store.usage().messages,
        configuration: admin.config.document(),
    }))
}

/// Takes no new work from here on: `/readyz` says 503, live chats end, running replays finish. The
/// process goes on until it is told to stop; a restart ends the drain.
#[utoipa::path(post, path = "/admin/v1/drain", tag = "server", responses(
    (status = 202, description = "The drain has begun", body = Draining),
))]
pub(super) async fn drain(
    State(admin): State<Arc<Admin>>,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    let parts = admin.parts()?;
    if admin.phase() == Phase::Ready {
        tracing::info!("draining, by the operator");
        admin.set_draining();
        (parts.drain)();
    }
    let state = "draining";
    Ok((StatusCode::ACCEPTED, Json(Draining { state })))
}
