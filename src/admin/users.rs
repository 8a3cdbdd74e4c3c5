//! Users with a binding or waiting messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Asked;
use super::problem::Problem;
use super::state::Admin;
use crate::identity::Identity;
use crate::participating::operator::{Answer, Question, UserView};

/// Entries of a page where nobody says.
const PAGE: usize = 100;
/// Entries of a page at most.
const LARGEST: usize = 1000;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Only what comes after this: `next` of the page before.
    pub(super) after: Option<String>,
    /// At most so many, 1 to 1000; 100 without.
    limit: Option<usize>,
}

impl Page {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(PAGE);
        match (1..=LARGEST).contains(&limit) {
            true => Ok(limit),
            false => Err(Problem::invalid("limit", "allowed: 1 to 1000")),
        }
    }
}

/// A page of users.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Users {
    users: Vec<User>,
    /// `after` of the next page; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A user with something here.
#[derive(Debug, Serialize, ToSchema)]
struct User {
    /// `bob@im.test`.
    user: String,
    /// Bindings, suspended ones too.
    contacts: usize,
    /// Messages that wait.
    waiting_messages: u64,
    /// Octets of their bodies.
    waiting_bytes: u64,
}

/// Users with a binding or waiting messages, in order.
#[utoipa::path(get, path = "/admin/v1/users", tag = "users", params(Page), responses(
    (status = 200, description = "A page of users", body = Users),
    (status = 400, description = "A parameter is wrong", body = Problem),
))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Asked(page): Asked<Page>,
) -> Result<Json<Users>, Problem> {
    let limit = page.limit()?;
    let after = page.after.as_deref().map(|user| admin.identity(user));
    let after = after.transpose()?;
    let question = Question::Users {
        after,
        limit: limit + 1,
    };
    let mut found: BTreeMap<Identity, UserView> = BTreeMap::new();
    for answer in admin.ask_all(&question).await? {
        let Answer::Users(users) = answer else {
            return Err(Problem::unexpected(&answer));
        };
        found.extend(users.into_iter().map(|view| (view.user.clone(), view)));
    }
    let more = found.len() > limit;
    let store = &admin.parts()?.store;
    let users: Vec<User> = found
        .into_values()
        .take(limit)
        .map(|view| {
            let waiting = store.usage_of(&view.user);
            User {
                user: view.user.to_string(),
                contacts: view.contacts,
                waiting_messages: waiting.messages,
                waiting_bytes: waiting.octets,
            }
        })
        .collect();
    let next = users.last().filter(|_| more).map(|user| user.user.clone());
    Ok(Json(Users { users, next }))
}
