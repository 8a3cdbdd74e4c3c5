//! Errors as RFC 9457 problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::participating::operator::{Answer, Failure};
use crate::shard::operator_desk::Unanswered;
use crate::store::request::Refusal;

/// A problem (RFC 9457 §3). `type` is a relative reference below `/admin/v1/problems/`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Problem {
    /// What kind of problem; the same for all of its kind.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in a few words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong this time, and what is allowed.
    detail: String,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        kind: &str,
        title: &str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("/admin/v1/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
        }
    }

    /// A field of the request is wrong.
    pub(super) fn invalid(field: &str, detail: impl Into<String>) -> Self {
        let field = Some(field.to_owned()).filter(|field| !field.is_empty() && field != ".");
        Self {
            field,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "invalid",
                "The request is not valid",
                detail,
            )
        }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        let status = StatusCode::NOT_FOUND;
        Self::new(status, "not-found", "There is no such thing", detail)
    }

    pub(super) fn conflict(kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, title, detail)
    }

    pub(super) fn unavailable(kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
    }

    /// An answer of another kind than the question: our fault.
    pub(super) fn unexpected(answer: &Answer) -> Self {
        if let Answer::Failed(failure) = answer {
            return (*failure).into();
        }
        tracing::error!("a question was answered with something else");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "internal", "Our fault", "see the server's log")
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let form = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, form);
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750 §3.
            let challenge = HeaderValue::from_static("Bearer realm=\"restante\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl From<Unanswered> for Problem {
    fn from(_: Unanswered) -> Self {
        let detail = "the shard that was asked did not answer in time; try again";
        Self::unavailable("unanswered", "A shard does not answer", detail)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unknown => {
                Self::not_found("there is no such message, binding or session, or no more")
            }
            Failure::Unreachable => Self::conflict(
                "no-device",
                "The user cannot be reached",
                "no device of the user is registered; messages leave when one registers",
            ),
            Failure::UnderWay => Self::conflict(
                "under-way",
                "The message is being delivered",
                "a device is being given the message; try again when the attempt is over",
            ),
            Failure::Busy => Self::unavailable(
                "busy",
                "Too much is under way",
                "the store has no room for another request; try again",
            ),
            Failure::Store(Refusal::Damaged) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                "The record is damaged on disk",
                "it was set aside in the folder for damage and reported in the log",
            ),
            Failure::Store(Refusal::TooLarge) => {
                Self::invalid("", "the account has more than 64 KiB, with its rules")
            }
            Failure::Store(Refusal::Unknown) => Failure::Unknown.into(),
            Failure::Store(refusal) => {
                Self::unavailable("store", "The store refuses", refusal.to_string())
            }
        }
    }
}
