//! `/healthz` and `/readyz`, for supervisors and load balancers; both without a token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::state::{Admin, Phase};
use crate::participating::operator::Question;
use crate::store::deferred::Health as StoreHealth;

/// All is well.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `alive` or `ready`.
    status: &'static str,
    /// `serving`; `full` while the disk has no room for new messages.
    store: &'static str,
    /// `normal`; `over` while new work is refused, because a shard is behind or memory is short.
    load: &'static str,
}

/// Whether the process is alive: every shard answers. A supervisor restarts it otherwise.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses(
    (status = 200, description = "Every shard answers, or the server is starting", body = Health),
    (status = 503, description = "A shard does not answer", body = Problem),
))]
pub(super) async fn healthz(State(admin): State<Arc<Admin>>) -> Result<Json<Health>, Problem> {
    if admin.phase() != Phase::Starting {
        admin.ask_all(&Question::Census).await?;
    }
    Ok(Json(Health {
        status: "alive",
        store: store(&admin),
        load: load(&admin),
    }))
}

/// Whether traffic should come here: not while starting or draining, nor after the store has failed.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, description = "Ready for traffic", body = Health),
    (status = 503, description = "Starting, draining, or the store has failed", body = Problem),
))]
pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Result<Json<Health>, Problem> {
    let parts = admin.parts()?;
    if admin.phase() == Phase::Draining {
        let detail = "the server takes no new work";
        return Err(Problem::unavailable(
            "draining",
            "The server is draining",
            detail,
        ));
    }
    if parts.store.health() == StoreHealth::Poisoned {
        let detail = "the store failed and acknowledges nothing until a restart";
        return Err(Problem::unavailable(
            "store",
            "The store has failed",
            detail,
        ));
    }
    Ok(Json(Health {
        status: "ready",
        store: store(&admin),
        load: load(&admin),
    }))
}

fn load(admin: &Admin) -> &'static str {
    match admin.parts().map(|parts| parts.metrics.overloaded_shards()) {
        Ok(1..) => "over",
        _ => "normal",
    }
}

fn store(admin: &Admin) -> &'static str {
    match admin.parts().map(|parts| parts.store.health()) {
        Ok(StoreHealth::Serving) => "serving",
        Ok(StoreHealth::Full) => "full",
        Ok(StoreHealth::Poisoned) => "poisoned",
        Err(_) => "starting",
    }
}
