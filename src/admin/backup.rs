//! The whole store, streamed: as a backup, and as JSON lines. What was acknowledged before the request is
//! in it, whatever happens meanwhile. The disk is read on a thread of its own, as fast as the client reads.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::sync::mpsc;

use super::problem::Problem;
use super::state::Admin;
use crate::clock;
use crate::store::archive::Archive;

/// Pieces that were read and wait for the client; of a quarter of a mebibyte at most.
const AHEAD: usize = 4;

type Emit<'a> = &'a mut dyn FnMut(Bytes) -> io::Result<()>;

/// Everything in the store as a `tar` of its segments, which unpacks to the data folder of a server. Without
/// `nonce.key` and `admin.token`, which a server makes anew.
#[utoipa::path(get, path = "/admin/v1/backup", tag = "server", responses(
    (status = 200, description = "The files; one that is not whole has no end", body = Vec<u8>,
        content_type = "application/x-tar"),
    (status = 503, description = "Another backup or export is under way", body = Problem),
))]
pub(super) async fn backup(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let now = clock::now().wall;
    stream(&admin, "application/x-tar", move |archive, emit| {
        archive.pack(now, emit)
    })
}

/// Everything in the store as JSON lines: a line with the number of the form, documents, bindings, messages in
/// order, and a line that counts them. It holds what proves users, as hashes.
#[utoipa::path(get, path = "/admin/v1/export", tag = "server", responses(
    (status = 200, description = "A line for each thing; the last has `type` `end`", body = String,
        content_type = "application/x-ndjson"),
    (status = 503, description = "Another backup or export is under way", body = Problem),
))]
pub(super) async fn export(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    stream(&admin, "application/x-ndjson", |archive, emit| {
        archive.export(emit).map(drop)
    })
}

fn stream(
    admin: &Admin,
    form: &'static str,
    job: impl FnOnce(&Archive, Emit<'_>) -> io::Result<()> + Send + 'static,
) -> Result<Response, Problem> {
    let place = Arc::clone(&admin.streams).try_acquire_owned();
    let place = place.map_err(|_| {
        let detail = "another backup or export is under way; try again when it has ended";
        Problem::unavailable("busy", "Too much is under way", detail)
    })?;
    let archive = admin.parts()?.store.archive();
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut emit = |octets| {
            let sent = sender.blocking_send(Ok(octets));
            sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
        };
        if let Err(error) = job(&archive, &mut emit) {
            tracing::warn!(%error, "a copy of the store broke off");
            // The client sees that the answer is not whole.
            let _ = sender.blocking_send(Err(error));
        }
        drop(place);
    });
    let pieces = unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, form),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
