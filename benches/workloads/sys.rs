//! The system calls that std lacks: which CPUs a thread may use, and waiting for several sockets.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The CPUs this thread may use.
pub fn cpus() -> Vec<usize> {
    // SAFETY: a set of CPUs is plain bits, for which zero is legal.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most the given length into the set; 0 names the calling thread.
    let told = unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) };
    assert_eq!(told, 0, "{}", io::Error::last_os_error());
    (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the number is below the size of the set.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

/// From now on this thread, and what it starts, uses these CPUs only.
pub fn stay_on(cpus: &[usize]) {
    // SAFETY: a set of CPUs is plain bits, for which zero is legal.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus {
        // SAFETY: the number came from `cpus`, so it is below the size of the set.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the kernel reads the set, which has the given length; 0 names the calling thread.
    let told = unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) };
    assert_eq!(told, 0, "{}", io::Error::last_os_error());
}

/// What is waited for at a socket.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'s> {
    pub socket: BorrowedFd<'s>,
    /// Room to write, besides something to read.
    pub to_write: bool,
}

impl<'s> Wish<'s> {
    /// Something to read.
    pub fn to_read(socket: BorrowedFd<'s>) -> Self {
        let to_write = false;
        Self { socket, to_write }
    }
}

/// Waits until one of them is ready, or for so long.
pub fn wait(wishes: &[Wish<'_>], patience: Duration) {
    let mut all: Vec<libc::pollfd> = (wishes.iter())
        .map(|wish| libc::pollfd {
            fd: wish.socket.as_raw_fd(),
            events: libc::POLLIN | if wish.to_write { libc::POLLOUT } else { 0 },
            revents: 0,
        })
        .collect();
    let patience = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the array lives until after the call and has the given length.
    unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, patience) };
}
