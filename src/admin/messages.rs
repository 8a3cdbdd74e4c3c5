//! What waits for a user: list, show, retry, cancel.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::export::body_of;
use super::extract::{Asked, Body, Named};
use super::problem::Problem;
use super::state::Admin;
use super::times::{read, written};
use super::users::Page;
use crate::clock;
use crate::identity::Identity;
use crate::imdn::Dispositions;
use crate::participating::operator::{
    Answer, FullMessage, MessageState, MessageView, Question, Reason, StandingWord,
};
use crate::store::request::{MessageKind, Seq};

/// A page of what waits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Messages {
    messages: Vec<Message>,
    /// `after` of the next page; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Where a message stands, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Standing {
    /// `waiting`, `running`, `parked` (tried again later), `declined` (not before the next registration).
    state: &'static str,
    /// `no-device`, `no-capable-device`, `in-line`, `offered`, `refused`.
    reason: &'static str,
    /// Attempts of its conversation since the last registration or delivery.
    attempts: usize,
    /// When it is offered next without anything else happening, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<String>,
}

/// A waiting message as a list shows it.
#[derive(Debug, Serialize, ToSchema)]
struct Message {
    /// Its place in the order of everything taken into custody; names it.
    seq: u64,
    /// imdn.Message-ID.
    message_id: String,
    /// Who wrote it.
    author: String,
    /// Conversation-ID.
    conversation: String,
    /// `pager`, `large`, `chat`, `notification`.
    kind: &'static str,
    /// Octets of its body.
    size: u64,
    /// When it expires, RFC 3339.
    expires_at: String,
    #[serde(flatten)]
    state: Standing,
}

/// A waiting message with everything but its body.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeMessage {
    #[serde(flatten)]
    message: Message,
    /// `bob@im.test`.
    recipient: String,
    /// `From` as the recipient will see it.
    from: String,
    /// `To` as the author wrote it.
    to: String,
    /// When custody began, RFC 3339.
    accepted_at: String,
    /// Contribution-ID.
    contribution: String,
    /// InReplyTo-Contribution-ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_reply_to: Option<String>,
    /// Content-Type of the body.
    content_type: String,
    /// Notifications the author asked for.
    dispositions: Vec<&'static str>,
    /// Further header fields for the recipient.
    headers: Vec<Header>,
}

/// A header field.
#[derive(Debug, Serialize, ToSchema)]
struct Header {
    name: String,
    value: String,
}

pub(super) fn kind(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Pager => "pager",
        MessageKind::Large => "large",
        MessageKind::Chat => "chat",
        MessageKind::Notification => "notification",
    }
}

impl From<MessageState> for Standing {
    fn from(state: MessageState) -> Self {
        Self {
            state: match state.standing {
                StandingWord::Waiting => "waiting",
                StandingWord::Running => "running",
                StandingWord::Parked => "parked",
                StandingWord::Declined => "declined",
            },
            reason: match state.reason {
                Reason::NoDevice => "no-device",
                Reason::NoCapableDevice => "no-capable-device",
                Reason::InLine => "in-line",
                Reason::Offered => "offered",
                Reason::Refused => "refused",
            },
            attempts: state.attempts,
            next_attempt: state.next_attempt.map(written),
        }
    }
}

impl From<MessageView> for Message {
    fn from(view: MessageView) -> Self {
        let held = view.held;
        Self {
            seq: held.seq.0,
            message_id: held.message_id.into(),
            author: held.conversation.author.to_string(),
            conversation: held.conversation.conversation.into(),
            kind: kind(held.kind),
            size: held.length,
            expires_at: written(held.expires_at),
            state: view.state.into(),
        }
    }
}

impl WholeMessage {
    pub(super) fn new(seq: u64, full: FullMessage) -> Self {
        let message = full.message;
        let header = |(name, value)| Header { name, value };
        Self {
            message: Message {
                seq,
                message_id: message.message_id,
                author: message.author.to_string(),
                conversation: message.conversation,
                kind: kind(message.kind),
                size: full.length,
                expires_at: written(message.expires_at),
                state: full.state.into(),
            },
            recipient: message.recipient.to_string(),
            from: message.from,
            to: message.to,
            accepted_at: written(message.accepted_at),
            contribution: message.contribution,
            in_reply_to: message.in_reply_to,
            content_type: message.content_type,
            dispositions: words(message.dispositions),
            headers: message.headers.into_iter().map(header).collect(),
        }
    }
}

/// The words of RFC 5438 §6.3.
fn words(dispositions: Dispositions) -> Vec<&'static str> {
    let all = [
        (Dispositions::POSITIVE, "positive-delivery"),
        (Dispositions::NEGATIVE, "negative-delivery"),
        (Dispositions::PROCESSING, "processing"),
        (Dispositions::DISPLAY, "display"),
    ];
    let asked = all.into_iter();
    let asked = asked.filter(|(disposition, _)| dispositions.contains(*disposition));
    asked.map(|(_, word)| word).collect()
}

/// A page of what waits for a user, oldest first.
#[utoipa::path(get, path = "/admin/v1/users/{user}/messages", tag = "messages",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`"), Page), responses(
    (status = 200, description = "A page of messages", body = Messages),
    (status = 400, description = "A parameter is wrong", body = Problem),
    (status = 404, description = "There is no such user", body = Problem),
))]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
    Asked(page): Asked<Page>,
) -> Result<Json<Messages>, Problem> {
    let user = admin.known(&user)?;
    let limit = page.limit()?;
    let after = page.after.as_deref().map(str::parse).transpose();
    let after = after.map_err(|_| Problem::invalid("after", "allowed: a number"))?;
    let (views, more) = page_of(&admin, &user, after.map(Seq), limit).await?;
    let messages: Vec<Message> = views.into_iter().map(Message::from).collect();
    let next = messages.last().filter(|_| more);
    let next = next.map(|message| message.seq.to_string());
    Ok(Json(Messages { messages, next }))
}

/// A page of what waits, and whether there is more.
pub(super) async fn page_of(
    admin: &Admin,
    user: &Identity,
    after: Option<Seq>,
    limit: usize,
) -> Result<(Vec<MessageView>, bool), Problem> {
    let question = Question::Messages {
        user: user.clone(),
        after,
        limit,
    };
    match admin.ask_user(user, question).await? {
        Answer::Messages(views, more) => Ok((views, more)),
        answer => Err(Problem::unexpected(&answer)),
    }
}

/// One message in full.
pub(super) async fn whole(
    admin: &Admin,
    user: &Identity,
    seq: u64,
) -> Result<FullMessage, Problem> {
    let question = Question::Message(user.clone(), Seq(seq));
    match admin.ask_user(user, question).await? {
        Answer::Message(full) => Ok(*full),
        answer => Err(Problem::unexpected(&answer)),
    }
}

/// One waiting message with its header fields.
#[utoipa::path(get, path = "/admin/v1/users/{user}/messages/{seq}", tag = "messages", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("seq" = u64, Path, description = "As the list names it"),
), responses(
    (status = 200, description = "The message", body = WholeMessage),
    (status = 404, description = "There is no such user or message", body = Problem),
))]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Named((user, seq)): Named<(String, u64)>,
) -> Result<Json<WholeMessage>, Problem> {
    let user = admin.known(&user)?;
    let full = whole(&admin, &user, seq).await?;
    Ok(Json(WholeMessage::new(seq, full)))
}

/// The octets of a message's body as the author sent them.
#[utoipa::path(get, path = "/admin/v1/users/{user}/messages/{seq}/body", tag = "messages", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("seq" = u64, Path, description = "As the list names it"),
), responses(
    (status = 200, description = "The octets; X-Content-Type is the message's own type",
        body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 404, description = "There is no such user or message", body = Problem),
))]
pub(super) async fn body(
    State(admin): State<Arc<Admin>>,
    Named((user, seq)): Named<(String, u64)>,
) -> Result<Response, Problem> {
    let user = admin.known(&user)?;
    let full = whole(&admin, &user, seq).await?;
    let own_type = header::HeaderValue::from_str(&full.message.content_type);
    let own_type = own_type.unwrap_or(header::HeaderValue::from_static("unknown"));
    // Never shown as what the author says it is: it may be a page with a script.
    let headers = [
        (
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/octet-stream"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            header::HeaderValue::from_static("nosniff"),
        ),
        (header::HeaderName::from_static("x-content-type"), own_type),
        (header::CONTENT_LENGTH, full.length.into()),
    ];
    let octets = axum::body::Body::from_stream(body_of(admin, user, Seq(seq), full.length));
    Ok((headers, octets).into_response())
}

/// Offers the message's conversation to the user's devices now.
#[utoipa::path(post, path = "/admin/v1/users/{user}/messages/{seq}/retry", tag = "messages", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("seq" = u64, Path, description = "As the list names it"),
), responses(
    (status = 202, description = "It is offered"),
    (status = 404, description = "There is no such user or message", body = Problem),
    (status = 409, description = "The user has no device", body = Problem),
))]
pub(super) async fn retry(
    State(admin): State<Arc<Admin>>,
    Named((user, seq)): Named<(String, u64)>,
) -> Result<StatusCode, Problem> {
    let user = admin.known(&user)?;
    let question = Question::Retry(user.clone(), Seq(seq));
    match admin.ask_user(&user, question).await? {
        Answer::Done => Ok(StatusCode::ACCEPTED),
        answer => Err(Problem::unexpected(&answer)),
    }
}

/// When a message shall expire.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Redate {
    /// RFC 3339, in the future.
    expires_at: String,
}

/// Gives a message another time to expire at; durable when this answers.
#[utoipa::path(patch, path = "/admin/v1/users/{user}/messages/{seq}", tag = "messages", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("seq" = u64, Path, description = "As the list names it"),
), request_body = Redate, responses(
    (status = 200, description = "The message", body = WholeMessage),
    (status = 400, description = "The time cannot be read or is over", body = Problem),
    (status = 404, description = "There is no such user or message", body = Problem),
    (status = 503, description = "The store refuses", body = Problem),
))]
pub(super) async fn redate(
    State(admin): State<Arc<Admin>>,
    Named((user, seq)): Named<(String, u64)>,
    Body(wanted): Body<Redate>,
) -> Result<Json<WholeMessage>, Problem> {
    let user = admin.known(&user)?;
    let at = read(&wanted.expires_at).filter(|at| *at > clock::now().wall);
    let at = at.ok_or_else(|| {
        let detail = "allowed: a time in the future such as 2026-12-24T18:00:00Z";
        Problem::invalid("expires_at", detail)
    })?;
    let question = Question::Redate(user.clone(), Seq(seq), at);
    match admin.ask_user(&user, question).await? {
        Answer::Done => {}
        answer => return Err(Problem::unexpected(&answer)),
    }
    let full = whole(&admin, &user, seq).await?;
    Ok(Json(WholeMessage::new(seq, full)))
}

/// Cancels a message. Its author hears `failed`, if he asked to hear.
#[utoipa::path(delete, path = "/admin/v1/users/{user}/messages/{seq}", tag = "messages", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("seq" = u64, Path, description = "As the list names it"),
), responses(
    (status = 202, description = "It is not delivered any more; it leaves the store once the author is told"),
    (status = 404, description = "There is no such user or message", body = Problem),
    (status = 409, description = "A device is being given it", body = Problem),
))]
pub(super) async fn cancel(
    State(admin): State<Arc<Admin>>,
    Named((user, seq)): Named<(String, u64)>,
) -> Result<StatusCode, Problem> {
    let user = admin.known(&user)?;
    cancel_one(&admin, &user, Seq(seq)).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn cancel_one(admin: &Admin, user: &Identity, seq: Seq) -> Result<(), Problem> {
    match admin
        .ask_user(user, Question::Cancel(user.clone(), seq))
        .await?
    {
        Answer::Done => Ok(()),
        answer => Err(Problem::unexpected(&answer)),
    }
}
