//! Every 2xx by which the server takes a message into custody leaves after the sync that covers the message:
//! the system calls of the real server, traced by strace.

mod support;

#[path = "crash/dice.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod dice;
#[path = "crash/faults.rs"]
#[allow(dead_code, reason = "each test file uses a part of it")]
mod faults;
#[path = "crash/trace.rs"]
mod trace;

use std::path::Path;

use faults::{Action, BODY, LOG, Order, SYNC, Shim};
use restante::demo::{
    Failure, Profile, ServerProcess, Settings, Transcript, Transport, UserAgent, fresh,
};
use support::{BINARY, Configuration};
use trace::Acknowledgement;

/// Messages of each kind.
const EACH: usize = 20;

#[test]
fn every_message_is_synced_before_it_is_acknowledged() {
    let (trace, all) = traced(false).expect("the server serves");
    let calls = trace::read(&trace);
    assert_eq!(all.len(), 2 * EACH + 2);
    for one in &all {
        trace::judge(&calls, one).unwrap_or_else(|early| panic!("{early}"));
    }
    // The judge sees it if there is no sync.
    let syncless: String = trace
        .lines()
        .filter(|line| !line.contains("fdatasync"))
        .map(|line| format!("{line}\n"))
        .collect();
    let calls = trace::read(&syncless);
    all.iter().for_each(|one| assert_too_early(&calls, one));
}

#[test]
fn a_server_that_does_not_sync_is_found_out() {
    let (trace, all) = traced(true).expect("the server serves");
    let calls = trace::read(&trace);
    all.iter().for_each(|one| assert_too_early(&calls, one));
}

fn assert_too_early(calls: &[trace::Call], one: &Acknowledgement) {
    match trace::judge(calls, one) {
        Err(why) => assert!(why.ends_with("answered before it was synced"), "{why}"),
        Ok(()) => panic!("{} counts as synced", one.mark),
    }
}

/// Pager, chat and large messages to somebody who is away: the trace, and what was acknowledged.
fn traced(forgets_to_sync: bool) -> Result<(String, Vec<Acknowledgement>), Failure> {
    let folder = tempfile::tempdir()?;
    let (data, output) = (folder.path().join("data"), folder.path().join("trace"));
    // Detached, so that the server keeps its place as our child.
    let strace = format!(
        "strace -D -f -s 400000 -o {output:?} -e trace=recvfrom,recvmsg,recvmmsg,read,\
         pwrite64,fdatasync,fsync,sendto,sendmsg,sendmmsg,write,writev"
    );
    let (shim, program) = Shim::wrap(Path::new(BINARY), folder.path(), &data, &strace)?;
    let text = Configuration::open().text(folder.path(), 2);
    let mut server = ServerProcess::start(&program, folder.path(), &text)?;
    if forgets_to_sync {
        shim.arm(&Order {
            lasts: u64::MAX,
            ..Order::at(Action::Forget, 1, SYNC, LOG | BODY)
        });
    }
    let agent = UserAgent::new(Settings {
        user: "alice".to_owned(),
        domain: "im.test".to_owned(),
        password: None,
        transport: Transport::Udp,
        profile: Profile::Rcs,
        server: server.sip_address(Transport::Udp)?,
        transcript: Transcript::new(),
    })?;
    let mut all = Vec::new();
    for number in 0..EACH {
        all.push(pages(&agent, number)?);
    }
    let chat = agent.opens_chat("bob")?;
    for number in 0..EACH {
        let mark = fresh("chat");
        let envelope = agent.envelope("bob", &format!("{mark} {number}"));
        all.push(says(&chat.msrp, &mark, &envelope.to_octets())?);
    }
    for _ in 0..2 {
        let mark = fresh("large");
        let envelope = agent.envelope("bob", &mark.repeat(4_500));
        all.push(says(&chat.msrp, &mark, &envelope.to_octets())?);
    }
    chat.hangs_up()?;
    let pid = server.pid();
    server.terminate()?;
    server.wait()?;
    whole_trace(&output, pid).map(|trace| (trace, all))
}

fn pages(agent: &UserAgent, number: usize) -> Result<Acknowledgement, Failure> {
    let mark = fresh("pager");
    let sent = agent.sends_message("bob", &format!("{mark} {number}"))?;
    let call = sent.request().header_or_empty("Call-ID").to_owned();
    sent.expect_status(202)?;
    Ok(Acknowledgement {
        mark,
        answer: vec!["SIP/2.0 202".to_owned(), call],
    })
}

fn says(
    session: &restante::demo::MsrpSession,
    mark: &str,
    octets: &[u8],
) -> Result<Acknowledgement, Failure> {
    let sent = session.sending("message/cpim", octets).send()?;
    sent.expect_status(200)?;
    Ok(Acknowledgement {
        mark: mark.to_owned(),
        answer: vec![format!("MSRP {} 200", sent.transactions()[0])],
    })
}

/// Strace writes on for a moment after the server's end.
fn whole_trace(output: &Path, pid: u32) -> Result<String, Failure> {
    let pid = pid.to_string();
    let is_end = |line: &str| {
        let words = line.split_once(' ');
        words.is_some_and(|(of, what)| of == pid && what.trim() == "+++ exited with 0 +++")
    };
    for _ in 0..200 {
        let trace = String::from_utf8_lossy(&std::fs::read(output)?).into_owned();
        if trace.lines().any(is_end) {
            return Ok(trace);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Err(Failure::plain("strace does not end"))
}
