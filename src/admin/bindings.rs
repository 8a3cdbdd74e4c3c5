//! The bindings of a user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Named;
use super::problem::Problem;
use super::state::Admin;
use super::times::written;
use crate::participating::operator::{Answer, BindingView, Question};
use crate::registrar::Profile;

/// The bindings of a user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Bindings {
    bindings: Vec<Binding>,
}

/// A registered way to a device (RFC 3261 §10).
#[derive(Debug, Serialize, ToSchema)]
struct Binding {
    /// Names it among the user's.
    id: String,
    /// The Contact URI.
    contact: String,
    /// The Contact's parameters as they were registered.
    parameters: String,
    /// `+sip.instance`.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// How requests reach it.
    flow: String,
    /// In which dialect the device is spoken to: `rcs`, `rcs-e`, `cpm`, `message`.
    profile: &'static str,
    /// The Contact's `q`, 0 to 1.
    q: f64,
    /// Not reachable before it registers again: its connection is lost.
    suspended: bool,
    /// When it ends, RFC 3339.
    expires_at: String,
}

/// How many bindings were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removed {
    removed: usize,
}

impl From<BindingView> for Binding {
    fn from(view: BindingView) -> Self {
        Self {
            id: view.key,
            contact: view.uri,
            parameters: view.parameters,
            instance: view.instance,
            flow: view.flow,
            profile: match view.profile {
                Profile::Rcs => "rcs",
                Profile::RcsE => "rcs-e",
                Profile::Cpm => "cpm",
                Profile::MessageOnly => "message",
            },
            q: f64::from(view.q) / 1000.0,
            suspended: view.suspended,
            expires_at: written(view.expires_at),
        }
    }
}

/// The bindings of a user, the one registered last at the end.
#[utoipa::path(get, path = "/admin/v1/users/{user}/bindings", tag = "bindings",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")), responses(
    (status = 200, description = "The bindings", body = Bindings),
    (status = 404, description = "There is no such user", body = Problem),
))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<Json<Bindings>, Problem> {
    let user = admin.known(&user)?;
    match admin
        .ask_user(&user, Question::Bindings(user.clone()))
        .await?
    {
        Answer::Bindings(views) => Ok(Json(Bindings {
            bindings: views.into_iter().map(Binding::from).collect(),
        })),
        answer => Err(Problem::unexpected(&answer)),
    }
}

/// Removes all bindings of a user; the devices come back when they register again.
#[utoipa::path(delete, path = "/admin/v1/users/{user}/bindings", tag = "bindings",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")), responses(
    (status = 200, description = "They are gone", body = Removed),
    (status = 404, description = "There is no such user", body = Problem),
))]
pub(super) async fn remove_all(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<Json<Removed>, Problem> {
    let user = admin.known(&user)?;
    let question = Question::Unbind {
        user: user.clone(),
        key: None,
    };
    match admin.ask_user(&user, question).await? {
        Answer::Unbound(removed) => Ok(Json(Removed { removed })),
        answer => Err(Problem::unexpected(&answer)),
    }
}

/// Removes one binding of a user.
#[utoipa::path(delete, path = "/admin/v1/users/{user}/bindings/{id}", tag = "bindings", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("id" = String, Path, description = "As the list names it, percent-encoded"),
), responses(
    (status = 204, description = "It is gone"),
    (status = 404, description = "There is no such user or binding", body = Problem),
))]
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Named((user, id)): Named<(String, String)>,
) -> Result<StatusCode, Problem> {
    let user = admin.known(&user)?;
    let question = Question::Unbind {
        user: user.clone(),
        key: Some(id),
    };
    match admin.ask_user(&user, question).await? {
        Answer::Unbound(_) => Ok(StatusCode::NO_CONTENT),
        answer => Err(Problem::unexpected(&answer)),
    }
}
