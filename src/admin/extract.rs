//! What a request carries, read so that a mistake is a problem which names the field.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let octets = Bytes::from_request(request, state).await;
        let octets = octets.map_err(|rejection| unreadable(&rejection))?;
        let mut reader = serde_json::Deserializer::from_slice(&octets);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = error.path().to_string();
            Problem::invalid(&field, error.into_inner().to_string())
        })?;
        let end = reader.end();
        end.map_err(|error| Problem::invalid("", error.to_string()))?;
        Ok(Self(value))
    }
}

fn unreadable(rejection: &BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The body is too large",
            "see admin.max_body_size",
        ),
        _ => Problem::invalid("", rejection.body_text()),
    }
}

/// The parameters in the path.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let named = Path::<T>::from_request_parts(parts, state).await;
        let Path(named) = named.map_err(|error| Problem::not_found(error.body_text()))?;
        Ok(Self(named))
    }
}

/// The parameters behind the question mark.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let asked = Query::<T>::from_request_parts(parts, state).await;
        let Query(asked) = asked.map_err(|error| Problem::invalid("query", error.body_text()))?;
        Ok(Self(asked))
    }
}
