//! Waiting messages as files: one as a MIME message, a whole queue as JSON lines. Both are streamed piece
//! by piece, so that a large body is never in memory as a whole.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::stream::{Stream, iter, once, unfold};

use super::extract::Named;
use super::messages::{WholeMessage, kind, page_of, whole};
use super::problem::Problem;
use super::state::Admin;
use super::times::written;
use crate::identity::Identity;
use crate::participating::operator::{Answer, FullMessage, Question};
use crate::store::request::Seq;

/// Octets of a body that are in memory at a time; three octets are four of base64, so nothing is left over.
const PIECE: usize = 3 * 64 * 1024;
/// Messages of a queue that are listed at a time.
const PAGE: usize = 100;

/// What breaks a stream off: the client sees that the answer is not whole.
type Broken = std::io::Error;

fn broken(problem: &Problem) -> Broken {
    Broken::other(problem.status().to_string())
}

/// The octets of a body, piece by piece.
pub(super) fn body_of(
    admin: Arc<Admin>,
    user: Identity,
    seq: Seq,
    length: u64,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    unfold(0_u64, move |offset| {
        let (admin, user) = (Arc::clone(&admin), user.clone());
        async move {
            if offset >= length {
                return None;
            }
            let piece = piece(&admin, &user, seq, offset).await;
            let next = piece
                .as_ref()
                .map_or(length, |piece| offset + piece.len() as u64);
            Some((piece, next))
        }
    })
}

/// One piece; short only at the end of the body.
async fn piece(admin: &Admin, user: &Identity, seq: Seq, offset: u64) -> Result<Bytes, Broken> {
    let question = Question::Body {
        user: user.clone(),
        seq,
        offset,
        length: PIECE,
    };
    match admin.ask_user(user, question).await {
        Ok(Answer::Body(octets)) if !octets.is_empty() => Ok(octets),
        Ok(Answer::Body(_)) => Err(Broken::other("the body is shorter than its message says")),
        Ok(answer) => Err(broken(&Problem::unexpected(&answer))),
        Err(problem) => Err(broken(&problem)),
    }
}

/// A message as a file: its header fields, an empty line, the body octet for octet.
#[utoipa::path(get, path = "/admin/v1/users/{user}/messages/{seq}/export", tag = "messages", params(
    ("user" = String, Path, description = "`bob` or `bob@im.test`"),
    ("seq" = u64, Path, description = "As the list names it"),
), responses(
    (status = 200, description = "The message", body = Vec<u8>, content_type = "message/rfc822"),
    (status = 404, description = "There is no such user or message", body = Problem),
))]
pub(super) async fn one(
    State(admin): State<Arc<Admin>>,
    Named((user, seq)): Named<(String, u64)>,
) -> Result<Response, Problem> {
    let user = admin.known(&user)?;
    let full = whole(&admin, &user, seq).await?;
    let head = Bytes::from(head_of(seq, &full));
    let disposition = format!("attachment; filename=\"{seq}.eml\"");
    let headers = [
        (header::CONTENT_TYPE, "message/rfc822".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let body = body_of(admin, user, Seq(seq), full.length);
    let octets = once(async move { Ok::<_, Broken>(head) }).chain(body);
    Ok((headers, Body::from_stream(octets)).into_response())
}

/// The head of the file. Values came over SIP, where a line end cannot be in one; none is let through.
fn head_of(seq: u64, full: &FullMessage) -> String {
    let message = &full.message;
    let mut head = String::new();
    let mut field = |name: &str, value: &str| {
        let value: String = value
            .chars()
            .filter(|letter| !letter.is_control())
            .collect();
        // Writing to a string cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    };
    field("From", &message.from);
    field("To", &message.to);
    field("Date", &written(message.accepted_at));
    field("Message-ID", &format!("<{}>", message.message_id));
    field("Expires", &written(message.expires_at));
    field("Conversation-ID", &message.conversation);
    field("Contribution-ID", &message.contribution);
    if let Some(earlier) = &message.in_reply_to {
        field("InReplyTo-Contribution-ID", earlier);
    }
    field("X-Restante-Seq", &seq.to_string());
    field("X-Restante-Kind", kind(message.kind));
    field("X-Restante-Author", message.author.as_str());
    field("X-Restante-Recipient", message.recipient.as_str());
    for (name, value) in &message.headers {
        field(name, value);
    }
    field("MIME-Version", "1.0");
    field("Content-Length", &full.length.to_string());
    field("Content-Type", &message.content_type);
    head.push_str("\r\n");
    head
}

/// A user's whole queue, oldest first: a line of JSON for each message, its body in base64.
#[utoipa::path(get, path = "/admin/v1/users/{user}/export", tag = "messages",
    params(("user" = String, Path, description = "`bob` or `bob@im.test`")), responses(
    (status = 200, description = "A line for each message: the fields of a message, and `body`",
        body = String, content_type = "application/x-ndjson"),
    (status = 404, description = "There is no such user", body = Problem),
))]
pub(super) async fn all(
    State(admin): State<Arc<Admin>>,
    Named(user): Named<String>,
) -> Result<Response, Problem> {
    let user = admin.known(&user)?;
    let lines = seqs(Arc::clone(&admin), user.clone())
        .flat_map(move |seq| line(Arc::clone(&admin), user.clone(), seq));
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// What waits, page by page.
fn seqs(admin: Arc<Admin>, user: Identity) -> impl Stream<Item = Result<Seq, Broken>> + Send {
    let first = (VecDeque::new(), None, true);
    unfold(first, move |(mut page, mut after, mut more)| {
        let (admin, user) = (Arc::clone(&admin), user.clone());
        async move {
            if page.is_empty() && more {
                match page_of(&admin, &user, after, PAGE).await {
                    Ok((views, is_more)) => {
                        more = is_more && !views.is_empty();
                        page = views.into_iter().map(|view| view.held.seq).collect();
                    }
                    Err(problem) => {
                        return Some((Err(broken(&problem)), (VecDeque::new(), after, false)));
                    }
                }
            }
            let seq = page.pop_front()?;
            after = Some(seq);
            Some((Ok(seq), (page, after, more)))
        }
    })
}

/// One line; nothing for a message that has left meanwhile.
fn line(
    admin: Arc<Admin>,
    user: Identity,
    seq: Result<Seq, Broken>,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    let found = async move {
        let seq = match seq {
            Ok(seq) => seq,
            Err(error) => return iter(vec![Err(error)]).boxed(),
        };
        let Ok(full) = whole(&admin, &user, seq.0).await else {
            return iter(Vec::new()).boxed();
        };
        let length = full.length;
        let text = serde_json::to_string(&WholeMessage::new(seq.0, full)).unwrap_or_default();
        let open = text.strip_suffix('}').unwrap_or_default();
        let begin = Bytes::from(format!("{open},\"body\":\""));
        let body = body_of(admin, user, seq, length)
            .map(|piece| piece.map(|octets| Bytes::from(STANDARD.encode(octets))));
        let end = Bytes::from_static(b"\"}\n");
        iter([Ok(begin)]).chain(body).chain(iter([Ok(end)])).boxed()
    };
    once(found).flatten()
}
