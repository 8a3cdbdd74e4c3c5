//! The way to the log thread. A job that may wait for company does not wake the thread while it rests
//! until a deadline: at the deadline it sees the job anyway, and a wake-up costs more than the job.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SendError, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use super::log::LogJob;

/// A sending end.
#[derive(Clone)]
pub(super) struct LogSender {
    jobs: Sender<LogJob>,
    thread: Arc<OnceLock<Thread>>,
}

/// The log thread's end.
pub(super) struct LogQueue {
    jobs: Receiver<LogJob>,
    thread: Arc<OnceLock<Thread>>,
}

/// Both ends.
pub(super) fn log_queue() -> (LogSender, LogQueue) {
    let (sender, receiver) = mpsc::channel();
    let thread = Arc::new(OnceLock::new());
    let ends = (sender, receiver);
    (
        LogSender {
            jobs: ends.0,
            thread: thread.clone(),
        },
        LogQueue {
            jobs: ends.1,
            thread,
        },
    )
}

impl LogSender {
    /// Hands a job over; an error when the log thread has ended.
    pub(super) fn send(&self, job: LogJob) -> Result<(), SendError<LogJob>> {
        let may_wait = job.may_wait();
        self.jobs.send(job)?;
        if let Some(thread) = self.thread.get().filter(|_| !may_wait) {
            thread.unpark();
        }
        Ok(())
    }
}

impl LogQueue {
    /// Says that the calling thread is the log thread.
    pub(super) fn attend(&self) {
        // Only asked once.
        let _ = self.thread.set(thread::current());
    }

    /// The next job, whatever it is; none if none comes in this time.
    pub(super) fn receive(&self, within: Duration) -> Result<LogJob, RecvTimeoutError> {
        self.jobs.recv_timeout(within)
    }

    /// Rests so long, or until a job comes that cannot wait; perhaps less.
    pub(super) fn rest(&self, span: Duration) {
        if !span.is_zero() {
            thread::park_timeout(span);
        }
    }

    /// A job that is there already.
    pub(super) fn take(&self) -> Result<LogJob, TryRecvError> {
        self.jobs.try_recv()
    }
}
