//! What the operator lets through: the switches and rates of `[traffic]`, changed while the server runs, and
//! what each user has sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::accounts::{merge, tell_shards};
use super::extract::{Body, Named};
use super::problem::Problem;
use super::state::Admin;
use crate::clock;
use crate::config::{Traffic, TrafficOverrides};
use crate::identity::Identity;
use crate::participating::operator::{Answer, Question};

/// What is let through.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TrafficView {
    /// Whether anybody may send messages and begin chats.
    submission: bool,
    /// Whether messages are delivered.
    delivery: bool,
    /// Whether senders hear of no errors.
    suppress_errors: bool,
    /// Messages through the whole server each second; 0: no limit.
    messages_per_second: u32,
    /// Octets of messages through the whole server each second; 0: no limit.
    octets_per_second: String,
    /// Notifications each second that a message failed; 0: no limit.
    failures_per_second: u32,
    /// What of it was changed here; the rest is as configured.
    changed: TrafficOverrides,
}

fn view(traffic: &Traffic, changed: TrafficOverrides) -> TrafficView {
    TrafficView {
        submission: traffic.submission,
        delivery: traffic.delivery,
        suppress_errors: traffic.suppress_errors,
        messages_per_second: traffic.messages_per_second,
        octets_per_second: traffic.octets_per_second.to_string(),
        failures_per_second: traffic.failures_per_second,
        changed,
    }
}

/// What is let through at the moment.
#[utoipa::path(get, path = "/admin/v1/traffic", tag = "traffic", responses(
    (status = 200, description = "What is let through", body = TrafficView),
))]
pub(super) async fn show(State(admin): State<Arc<Admin>>) -> Result<Json<TrafficView>, Problem> {
    let changed = admin.parts()?.accounts.traffic();
    Ok(Json(view(&changed.over(&admin.config.traffic), changed)))
}

/// Changes what the patch names (RFC 7396, JSON merge patch): `null` makes it as configured again. It is
/// durable, and every shard keeps to it, before the answer leaves.
#[utoipa::path(patch, path = "/admin/v1/traffic", tag = "traffic",
    request_body(content = TrafficOverrides, content_type = "application/merge-patch+json"), responses(
    (status = 200, description = "What is let through", body = TrafficView),
    (status = 400, description = "A field is wrong", body = Problem),
    (status = 503, description = "The store refuses", body = Problem),
))]
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Body(patch): Body<Value>,
) -> Result<Json<TrafficView>, Problem> {
    let accounts = &admin.parts()?.accounts;
    let _changing = accounts.changing.lock().await;
    if !patch.is_object() {
        return Err(Problem::invalid("", "allowed: a JSON object"));
    }
    let invalid = |error: serde_json::Error| Problem::invalid("", error.to_string());
    let mut wanted = serde_json::to_value(accounts.traffic()).map_err(invalid)?;
    merge(&mut wanted, patch);
    let value = serde_json::to_vec(&wanted).map_err(invalid)?;
    let changed: TrafficOverrides = serde_path_to_error::deserialize(wanted).map_err(|error| {
        let field = error.path().to_string();
        Problem::invalid(&field, error.into_inner().to_string())
    })?;
    let put = Question::PutDocument {
        key: TrafficOverrides::DOCUMENT.into(),
        value: value.into(),
    };
    match admin.ask(0, put).await? {
        Answer::Done => {}
        answer => return Err(Problem::unexpected(&answer)),
    }
    accounts.set_traffic(changed.clone());
    let traffic = changed.over(&admin.config.traffic);
    tell_shards(&admin, Question::Traffic(Box::new(traffic.clone()))).await?;
    tracing::info!(?changed, "the operator changed [traffic]");
    Ok(Json(view(&traffic, changed)))
}

/// What a user has sent in his running period, if he has a limit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SentView {
    /// Messages.
    messages: u32,
    /// How many he may send; 0: no limit.
    messages_per_period: u32,
    /// Octets of their bodies.
    octets: u64,
    /// How many he may send; 0: no limit.
    octets_per_period: u64,
    /// How long the period still lasts.
    seconds_left: u64,
    /// Whether he may send messages at the moment.
    may_send: bool,
    /// Whether he gets messages at the moment.
    may_receive: bool,
}

/// What a user has sent, and whether he may.
#[utoipa::path(get, path = "/admin/v1/users/{user}/traffic", tag = "traffic",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")), responses(
    (status = 200, description = "What he has sent", body = SentView),
    (status = 404, description = "There is no such user", body = Problem),
))]
pub(super) async fn sent(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<Json<SentView>, Problem> {
    let user: Identity = admin.known(&user)?;
    let parts = admin.parts()?;
    let directory = parts.accounts.directory();
    let settings = &directory.settings(&user).settings;
    let traffic = parts.accounts.traffic().over(&admin.config.traffic);
    let used = parts.meters.senders.used(&user, clock::now().instant);
    Ok(Json(SentView {
        messages: used.messages,
        messages_per_period: settings.messages_per_period,
        octets: used.octets,
        octets_per_period: settings.octets_per_period.get(),
        seconds_left: used.left.as_secs(),
        may_send: traffic.submission && settings.may_send,
        may_receive: traffic.delivery && settings.may_receive,
    }))
}
