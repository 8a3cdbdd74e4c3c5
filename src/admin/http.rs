//! The listener: HTTP/1.1 on a thread and a runtime of its own, so that no operator can hold up a shard.
//! Connections, heads, bodies and requests are bounded by `[admin]`.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::state::Admin;
use super::{accounts, routes};

/// A connection, whatever it does, ends after this: a peer that does not read holds nothing for ever.
const CONNECTION: Duration = Duration::from_secs(600);
/// Octets of a request's head, and of the buffer for it.
const HEAD: usize = 16 * 1024;
/// Pause after the system refused a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The running interface. Dropping it ends it.
pub struct AdminThread {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the admin interface panicked");
        }
    }
}

/// Serves on these sockets, which must be non-blocking. Must not be called from a runtime.
pub fn start(admin: Arc<Admin>, sockets: Vec<TcpListener>) -> io::Result<AdminThread> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = watch::channel(false);
    let serve = async move |mut stopped: watch::Receiver<bool>| {
        let places = Arc::new(Semaphore::new(admin.config.admin.max_connections as usize));
        let router = routes::router(Arc::clone(&admin));
        for socket in sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => {
                    let (admin, places) = (Arc::clone(&admin), Arc::clone(&places));
                    tokio::spawn(accept(admin, socket, places, router.clone()));
                }
                Err(error) => tracing::error!(%error, "the admin interface does not listen"),
            }
        }
        tokio::spawn(accounts::resume_deleting(admin));
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(serve(stopped));
            runtime.shutdown_background();
        })?;
    let thread = Some(thread);
    Ok(AdminThread { stop, thread })
}

async fn accept(
    admin: Arc<Admin>,
    socket: tokio::net::TcpListener,
    places: Arc<Semaphore>,
    router: axum::Router,
) {
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection to the admin interface");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            admin.refused_connections.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (head, router) = (admin.config.admin.header_timeout.duration(), router.clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CONNECTION, serve(stream, head, router)).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, head: Duration, router: axum::Router) {
    let _ = stream.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin interface broke");
    }
}
