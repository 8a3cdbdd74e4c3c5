//! Where the operator's questions to the shards wait for their answers.
//!
//! A question goes into the lane of notices, which a shard always takes; its answer comes back by its
//! ticket. Who asks bounds how many are open at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::inbox::Lanes;
use super::port::Input;
use crate::participating::operator::{Answer, Question, Ticket};

/// The shard did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard did not answer in time")]
pub struct Unanswered;

/// The open questions of all shards.
#[derive(Debug)]
pub struct Desk {
    lanes: Arc<[Lanes]>,
    open: Mutex<HashMap<Ticket, oneshot::Sender<Answer>>>,
    last: AtomicU64,
}

/// A question that nobody waits for any more is forgotten.
struct Waiting<'d>(&'d Desk, Ticket);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.open().remove(&self.1);
    }
}

impl Desk {
    /// Without questions.
    pub fn new(lanes: Arc<[Lanes]>) -> Self {
        Self {
            lanes,
            open: Mutex::default(),
            last: AtomicU64::new(0),
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.lanes.len()).unwrap_or(u16::MAX)
    }

    /// How many entries wait in each lane of each shard's inbox: SIP of peers, their MSRP, notices,
    /// other shards.
    pub fn inbox_lengths(&self) -> [usize; 4] {
        let length =
            |lane: &tokio::sync::mpsc::Sender<Input>| lane.max_capacity() - lane.capacity();
        self.lanes.iter().fold([0; 4], |sum, lanes| {
            [
                sum[0] + length(&lanes.work),
                sum[1] + length(&lanes.media),
                sum[2] + length(&lanes.notices),
                sum[3] + length(&lanes.internal),
            ]
        })
    }

    /// Asks a shard, and waits at most `limit` for its answer.
    pub async fn ask(
        &self,
        shard: u16,
        question: Question,
        limit: Duration,
    ) -> Result<Answer, Unanswered> {
        let ticket = Ticket(self.last.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.open().insert(ticket, sender);
        let waiting = Waiting(self, ticket);
        let question = Box::new(question);
        let asked = async {
            let lanes = self.lanes.get(usize::from(shard)).ok_or(Unanswered)?;
            let input = Input::Operator { ticket, question };
            lanes.notices.send(input).await.map_err(|_| Unanswered)?;
            receiver.await.map_err(|_| Unanswered)
        };
        let answer = tokio::time::timeout(limit, asked).await;
        drop(waiting);
        answer.map_err(|_| Unanswered)?
    }

    /// Hands an answer to who waits for it, if anybody does.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        if let Some(sender) = self.open().remove(&ticket) {
            let _ = sender.send(answer);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Ticket, oneshot::Sender<Answer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::inbox::{Sizes, inbox};
    use std::future::poll_fn;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn an_answer_comes_back_by_its_ticket_and_silence_ends() {
        let (lanes, mut inbox) = inbox(Sizes {
            work: 1,
            notices: 4,
            internal: 1,
        });
        let desk = Desk::new([lanes].into());
        let shard = async {
            let mut taken = Vec::new();
            poll_fn(|context| inbox.poll_take(context, true, &mut taken)).await;
            for input in taken {
                if let Input::Operator { ticket, .. } = input {
                    desk.answer(ticket, Answer::Done);
                }
            }
        };
        let (answer, ()) = tokio::join!(desk.ask(0, Question::Census, LIMIT), shard);
        assert!(matches!(answer, Ok(Answer::Done)));
        let short = Duration::from_millis(1);
        let silence = desk.ask(0, Question::Census, short).await;
        assert!(matches!(silence, Err(Unanswered)));
        assert!(desk.open().is_empty());
        let nobody = desk.ask(7, Question::Census, LIMIT).await;
        assert!(matches!(nobody, Err(Unanswered)));
    }
}
