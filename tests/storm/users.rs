//! Those who go on with their lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use restante::clock::now;
use restante::demo::{Failure, Profile, Setup, Transport, UserAgent};

use crate::report::Report;
use crate::support::Stage;

/// Two who are there, one who comes and goes, and two who chat.
pub struct Callers {
    nora: UserAgent,
    olaf: UserAgent,
    petra: UserAgent,
    quinn: UserAgent,
    rosa: UserAgent,
}

/// Users who have been served before the storm, so that the process has what it needs anyway.
pub struct Calm(Callers);

impl Calm {
    /// They go.
    pub fn ends(self) -> Result<(), Failure> {
        self.0.leave()
    }
}

/// One round of everything.
pub fn warm_up(stage: &Stage) -> Result<Calm, Failure> {
    let callers = Callers::new(stage)?;
    let mut report = Report::default();
    for round in 0..5 {
        callers.messages(round)?;
        callers.chats(round)?;
        report.served += 1;
    }
    Ok(Calm(callers))
}

impl Callers {
    /// Half of them over TCP.
    pub fn new(stage: &Stage) -> Result<Self, Failure> {
        let agent = |user: &str, transport| stage.agent_with(user, transport, Profile::Rcs);
        Ok(Self {
            nora: agent("nora", Transport::Udp)?,
            olaf: agent("olaf", Transport::Tcp)?,
            petra: agent("petra", Transport::Udp)?,
            quinn: agent("quinn", Transport::Tcp)?,
            rosa: agent("rosa", Transport::Udp)?,
        })
    }

    /// They go on until the storm is over.
    pub fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        over: &'scope AtomicBool,
    ) -> [ScopedJoinHandle<'scope, Report>; 2] {
        [
            scope.spawn(|| lives(over, |round| self.messages(round))),
            scope.spawn(|| lives(over, |round| self.chats(round))),
        ]
    }

    /// Their devices go: the next ones are others, and a user has ten at most.
    pub fn leave(&self) -> Result<(), Failure> {
        self.olaf.unregisters()?;
        self.rosa.unregisters().map(|_| ())
    }

    /// A registration, a message to somebody who is there, and one to somebody who comes later: 5 requests.
    fn messages(&self, round: u64) -> Result<u64, Failure> {
        self.olaf.registers()?;
        let live = format!("live {round}");
        self.nora.sends_message("olaf", &live)?.expect_2xx()?;
        self.olaf.expect_text(&live)?;
        let later = format!("later {round}");
        self.nora
            .sends_message("petra", &later)?
            .expect_status(202)?;
        self.petra.registers()?;
        self.petra.expect_text(&later)?;
        self.petra.unregisters()?;
        Ok(5)
    }

    /// A chat over MSRP, with a word in each direction: 5 requests.
    fn chats(&self, round: u64) -> Result<u64, Failure> {
        self.rosa.registers()?;
        let call = self.quinn.invites("rosa")?;
        let setup = if round.is_multiple_of(2) {
            Setup::Active
        } else {
            Setup::Passive
        };
        let answered = self.rosa.expect_invite()?.answers(setup, "sendrecv")?;
        let chat = call.expect_accepted()?;
        chat.says("hello")?;
        answered.expect_text("hello")?;
        answered.says("yes?")?;
        chat.expect_text("yes?")?;
        chat.hangs_up()?;
        answered.expect_bye()?;
        Ok(5)
    }
}

/// A round of requests begins no sooner after the last one: the memory that is looked at shall be what the storm
/// takes, not what users take who do as much as they can.
const ROUND: Duration = Duration::from_millis(10);

fn lives(over: &AtomicBool, round: impl Fn(u64) -> Result<u64, Failure>) -> Report {
    let mut report = Report::default();
    let mut number = 100;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let next = now().instant + ROUND;
        match round(number) {
            Ok(requests) => report.served += requests,
            Err(failure) => {
                report.failed += 1;
                report.failures.push(failure.step().to_owned());
            }
        }
        thread::sleep(next.since(now().instant));
    }
    report
}
