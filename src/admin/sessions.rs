//! Chats and replays under way.

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
use crate::participating::operator::{Answer, Question, SessionId, SessionState, SessionView};

/// Sessions under way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sessions {
    sessions: Vec<Session>,
}

/// A session under way.
#[derive(Debug, Serialize, ToSchema)]
struct Session {
    /// `SHARD-chat-NUMBER` or `SHARD-replay-NUMBER`.
    id: String,
    /// `chat` or `replay`.
    kind: &'static str,
    /// The caller of a chat; the author of what is replayed.
    from: String,
    /// The other one.
    to: String,
    /// `inviting`, `live`, `custody` (only the caller's side stands), `ending`.
    state: &'static str,
    /// Conversation-ID.
    conversation: String,
    /// Messages on their way in it.
    messages: usize,
    /// When something happened in it last, RFC 3339; missing for a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_at: Option<String>,
}

fn id_of(shard: u16, id: SessionId) -> String {
    match id {
        SessionId::Chat(number) => format!("{shard}-chat-{number}"),
        SessionId::Replay(number) => format!("{shard}-replay-{number}"),
    }
}

fn read_id(text: &str) -> Option<(u16, SessionId)> {
    let mut parts = text.splitn(3, '-');
    let shard = parts.next()?.parse().ok()?;
    let (kind, number) = (parts.next()?, parts.next()?.parse().ok()?);
    match kind {
        "chat" => Some((shard, SessionId::Chat(number))),
        "replay" => Some((shard, SessionId::Replay(number))),
        _ => None,
    }
}

fn session(shard: u16, view: SessionView) -> Session {
    Session {
        id: id_of(shard, view.id),
        kind: match view.id {
            SessionId::Chat(_) => "chat",
            SessionId::Replay(_) => "replay",
        },
        from: view.from.to_string(),
        to: view.to.to_string(),
        state: match view.state {
            SessionState::Inviting => "inviting",
            SessionState::Live => "live",
            SessionState::Custody => "custody",
            SessionState::Ending => "ending",
        },
        conversation: view.conversation,
        messages: view.messages,
        active_at: view.active_at.map(written),
    }
}

/// Chats and replays under way.
#[utoipa::path(get, path = "/admin/v1/sessions", tag = "sessions", responses(
    (status = 200, description = "The sessions", body = Sessions),
))]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Result<Json<Sessions>, Problem> {
    let mut sessions = Vec::new();
    for (shard, answer) in (0..).zip(admin.ask_all(&Question::Sessions).await?) {
        let Answer::Sessions(views) = answer else {
            return Err(Problem::unexpected(&answer));
        };
        sessions.extend(views.into_iter().map(|view| session(shard, view)));
    }
    Ok(Json(Sessions { sessions }))
}

/// Ends a session with BYE. What has arrived is kept; what was to be replayed waits again.
#[utoipa::path(delete, path = "/admin/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "As the list names it")), responses(
    (status = 204, description = "It is ending"),
    (status = 404, description = "There is no such session", body = Problem),
))]
pub(super) async fn end(
    State(admin): State<Arc<Admin>>,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    let unknown = || Problem::not_found(format!("there is no session {id}"));
    let (shard, session) = read_id(&id).ok_or_else(unknown)?;
    if shard >= admin.parts()?.desk.shards() {
        return Err(unknown());
    }
    match admin.ask(shard, Question::EndSession(session)).await? {
        Answer::Done => Ok(StatusCode::NO_CONTENT),
        answer => Err(Problem::unexpected(&answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_its_shard_kind_and_number() {
        for id in [SessionId::Chat(7), SessionId::Replay(9)] {
            assert_eq!(read_id(&id_of(3, id)), Some((3, id)));
        }
        for wrong in ["", "3", "3-chat", "3-call-7", "x-chat-7", "3-chat-7-8"] {
            assert_eq!(read_id(wrong), None, "{wrong}");
        }
    }
}
