//! The system calls that neither tokio nor socket2 wraps: datagrams in batches, and the limit of
//! open files. Unsafe code stands here and in `store::files`, which calls the file system likewise.
//!
//! A batch costs one system call for up to [`BATCH`] datagrams, which is worth a quarter of the CPU
//! per message (measured with 1.27 kB requests).

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use socket2::SockAddr;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Messages in one system call at most.
pub const BATCH: usize = 64;
/// Datagrams in one call that sends, at most.
pub const SENT: usize = 256;
/// What nearly every datagram fits into: it is received where it stays.
const DIRECT: usize = 2048;
/// Where the rest of a longer one lands; together one octet more than UDP can carry.
const OVERFLOW: usize = 65_536 - DIRECT;
/// Buffers of datagrams that were dropped, kept for others at most.
const SPARE: usize = 256;
/// A datagram up to this long is copied out, so that it does not hold a whole buffer.
const SMALL: usize = 512;

/// What came in one datagram.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// From where.
    pub remote: SocketAddr,
    /// The octets; to be shared only once somebody wants them, since that has to be noted somewhere.
    pub octets: BytesMut,
    /// It was longer than any buffer; `octets` are only its beginning.
    pub truncated: bool,
}

/// Buffers for one socket's incoming batches. Pages of the overflow area are touched only by
/// datagrams that need them.
#[derive(Debug)]
pub struct ReceiveBuffers {
    direct: Vec<BytesMut>,
    /// For those that will be filled and handed on; at most [`SPARE`].
    spare: Vec<BytesMut>,
    overflow: Box<[u8]>,
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self {
            direct: (0..BATCH)
                .map(|_| BytesMut::with_capacity(DIRECT))
                .collect(),
            spare: Vec::new(),
            overflow: vec![0; BATCH * OVERFLOW].into_boxed_slice(),
        }
    }
}

impl ReceiveBuffers {
    /// Appends what waits in the socket to `out`, at most [`BATCH`] datagrams, without blocking.
    /// Returns how many slots of the batch were filled; below [`BATCH`] the socket was empty.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        out: &mut Vec<Datagram>,
    ) -> io::Result<usize> {
        let mut names: [MaybeUninit<libc::sockaddr_storage>; BATCH] =
            [const { MaybeUninit::uninit() }; BATCH];
        let mut pieces = [[empty_iovec(); 2]; BATCH];
        let mut headers = [empty_header(); BATCH];
        let overflow = self.overflow.chunks_exact_mut(OVERFLOW);
        for ((((buffer, rest), name), piece), header) in self
            .direct
            .iter_mut()
            .zip(overflow)
            .zip(&mut names)
            .zip(&mut pieces)
            .zip(&mut headers)
        {
            let spare = buffer.spare_capacity_mut();
            piece[0].iov_base = spare.as_mut_ptr().cast();
            piece[0].iov_len = spare.len().min(DIRECT);
            piece[1].iov_base = rest.as_mut_ptr().cast();
            piece[1].iov_len = rest.len();
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as u32;
            header.msg_hdr.msg_iov = piece.as_mut_ptr();
            header.msg_hdr.msg_iovlen = 2;
        }
        // SAFETY: every header points to a name and two pieces that live until after the call, and
        // every piece to writable memory of the given length that nothing else refers to.
        let filled = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        for (slot, (header, name)) in headers.iter().zip(&names).take(filled).enumerate() {
            let octets = self.take(slot, header.msg_len as usize);
            // SAFETY: the kernel filled `msg_namelen` octets of this slot's name.
            let remote = unsafe { address(name, header.msg_hdr.msg_namelen) };
            if let Some(remote) = remote {
                out.push(Datagram {
                    remote,
                    octets,
                    truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                });
            }
        }
        Ok(filled)
    }

    /// Takes the memory of a datagram back that nobody wants: under a flood most are looked at and dropped.
    pub fn take_back(&mut self, mut octets: BytesMut) {
        if self.spare.len() < SPARE && octets.capacity() == DIRECT {
            octets.clear();
            self.spare.push(octets);
        }
    }

    /// The first `length` octets of what the kernel wrote to `slot`, whose buffer becomes empty.
    fn take(&mut self, slot: usize, length: usize) -> BytesMut {
        let buffer = &mut self.direct[slot];
        let direct = length.min(DIRECT).min(buffer.capacity());
        // SAFETY: the kernel wrote the first `direct` octets, which are within the capacity.
        unsafe { buffer.set_len(direct) };
        if length <= SMALL {
            let octets = BytesMut::from(&buffer[..]);
            buffer.clear();
            return octets;
        }
        let spare = self.spare.pop();
        let fresh = spare.unwrap_or_else(|| BytesMut::with_capacity(DIRECT));
        let mut octets = mem::replace(buffer, fresh);
        let rest = (length - direct).min(OVERFLOW);
        let start = slot * OVERFLOW;
        octets.extend_from_slice(&self.overflow[start..start + rest]);
        octets
    }
}

/// The order to take one message apart into datagrams of so many octets (`UDP_SEGMENT`), as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct SegmentOrder {
    header: libc::cmsghdr,
    octets: u16,
    _up_to_its_end: [u8; 6],
}

impl SegmentOrder {
    fn new(octets: usize) -> Self {
        let length = mem::size_of::<libc::cmsghdr>() + mem::size_of::<u16>();
        // SAFETY: a header of zeroes is one; with some C libraries it has padding that has no name here.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = length as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        Self {
            header,
            octets: octets as u16,
            _up_to_its_end: [0; 6],
        }
    }
}

/// Sends the first of `datagrams`, at most [`SENT`], without blocking; returns how many the kernel took.
/// `run` says how many of the first of them go as one message, all but the last of one length. An error is about
/// the first message.
pub fn send(
    socket: BorrowedFd<'_>,
    datagrams: &[(SocketAddr, Bytes)],
    run: impl Fn(&[(SocketAddr, Bytes)]) -> usize,
) -> io::Result<usize> {
    let datagrams = &datagrams[..datagrams.len().min(SENT)];
    let mut pieces = [empty_iovec(); SENT];
    for ((_, octets), piece) in datagrams.iter().zip(&mut pieces) {
        piece.iov_base = octets.as_ptr().cast_mut().cast();
        piece.iov_len = octets.len();
    }
    let mut names: SmallVec<[SockAddr; BATCH]> = SmallVec::new();
    let mut orders: SmallVec<[SegmentOrder; BATCH]> = SmallVec::new();
    let mut runs: SmallVec<[usize; BATCH]> = SmallVec::new();
    let mut rest = datagrams;
    while let Some((remote, octets)) = rest.first().filter(|_| runs.len() < BATCH) {
        let length = run(rest).clamp(1, rest.len());
        names.push(SockAddr::from(*remote));
        orders.push(SegmentOrder::new(octets.len()));
        runs.push(length);
        rest = &rest[length..];
    }
    let mut headers = [empty_header(); BATCH];
    let mut first = 0;
    for (((header, name), order), length) in
        (headers.iter_mut().zip(&names).zip(&mut orders)).zip(&runs)
    {
        header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = name.len();
        header.msg_hdr.msg_iov = pieces[first..].as_mut_ptr();
        header.msg_hdr.msg_iovlen = *length as _;
        if *length > 1 {
            header.msg_hdr.msg_control = ptr::from_mut(order).cast();
            header.msg_hdr.msg_controllen = mem::size_of::<SegmentOrder>() as _;
        }
        first += length;
    }
    // SAFETY: the first `runs.len()` headers point to a name, to as many pieces as they say, all of them
    // within `pieces`, and where they say so to an order, which live until after the call; the kernel only reads
    // through them.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            runs.len() as libc::c_uint,
            libc::MSG_DONTWAIT as _,
        )
    };
    let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    Ok(runs.iter().take(sent).sum())
}

/// Appends what waits in a stream's socket to `buffer`, as much as it has room for, without blocking.
pub fn receive_stream(socket: BorrowedFd<'_>, buffer: &mut BytesMut) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    // SAFETY: `spare` is writable memory of its length that nothing else refers to.
    let read = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            spare.as_mut_ptr().cast(),
            spare.len(),
            libc::MSG_DONTWAIT,
        )
    };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel wrote so many octets behind the old end, within the capacity.
    unsafe { buffer.set_len(buffer.len() + read) };
    Ok(read)
}

/// Octets of memory this process has; `None` where the system does not say.
pub fn resident_memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// Asks the system for small pages alone: of a huge one (2 MiB) that is touched at one place, all of it
/// is memory of the process.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: takes numbers.
    match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the number of files this process may open to what the system allows it; returns that.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the result.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid value that the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

const fn empty_iovec() -> libc::iovec {
    libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: a header is plain integers and pointers; all zero is its valid empty value.
    unsafe { mem::zeroed() }
}

/// The address the kernel wrote; `None` if it is neither IPv4 nor IPv6.
///
/// # Safety
/// The first `length` octets of `name` must have been written by the kernel.
unsafe fn address(
    name: &MaybeUninit<libc::sockaddr_storage>,
    length: libc::socklen_t,
) -> Option<SocketAddr> {
    let length = length as usize;
    let storage = name.as_ptr();
    if length < mem::size_of::<libc::sockaddr_in>() {
        return None;
    }
    // SAFETY: the caller wrote at least a `sockaddr_in`, which begins with the family, and a
    // `sockaddr_storage` is aligned for every kind of address.
    unsafe {
        match i32::from((*storage.cast::<libc::sockaddr_in>()).sin_family) {
            libc::AF_INET => {
                let v4 = &*storage.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if length >= mem::size_of::<libc::sockaddr_in6>() => {
                let v6 = &*storage.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::segments;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn pair(host: &str) -> (UdpSocket, UdpSocket) {
        let bind = || UdpSocket::bind((host, 0)).expect("a loopback socket");
        (bind(), bind())
    }

    fn exchange(host: &str, lengths: &[usize]) -> (SocketAddr, Vec<Datagram>) {
        let (sender, receiver) = pair(host);
        let to = receiver
            .local_addr()
            .expect("a bound socket has an address");
        let datagrams: Vec<_> = (lengths.iter().enumerate())
            .map(|(index, length)| (to, Bytes::from(vec![index as u8; *length])))
            .collect();
        assert_eq!(
            send(sender.as_fd(), &datagrams, |_| 1).expect("sent"),
            lengths.len()
        );
        let mut buffers = ReceiveBuffers::default();
        let mut got = Vec::new();
        let filled = buffers.receive(receiver.as_fd(), &mut got);
        assert_eq!(filled.expect("received"), lengths.len());
        (sender.local_addr().expect("bound"), got)
    }

    #[test]
    fn datagrams_of_every_length_arrive_whole() {
        let lengths = [0, 1, 512, 513, 2047, 2048, 2049, 9000, 65_507];
        let (from, got) = exchange("127.0.0.1", &lengths);
        for (index, (datagram, length)) in got.iter().zip(lengths).enumerate() {
            assert_eq!(datagram.remote, from);
            assert!(!datagram.truncated);
            assert_eq!(datagram.octets, vec![index as u8; length]);
        }
    }

    #[test]
    fn ipv6_addresses_are_read() {
        let (from, got) = exchange("::1", &[700]);
        assert_eq!(got[0].remote, from);
    }

    #[test]
    fn buffers_are_reused_over_many_batches() {
        let (sender, receiver) = pair("127.0.0.1");
        let to = receiver.local_addr().expect("bound");
        let mut buffers = ReceiveBuffers::default();
        for round in 0..50_u8 {
            let length = 100 + usize::from(round) * 60;
            let datagrams = vec![(to, Bytes::from(vec![round; length])); 10];
            let sent = send(sender.as_fd(), &datagrams, segments::run);
            assert_eq!(sent.expect("sent"), 10);
            let mut got = Vec::new();
            buffers
                .receive(receiver.as_fd(), &mut got)
                .expect("received");
            assert_eq!(got.len(), 10);
            assert!(
                got.iter()
                    .all(|datagram| datagram.octets == vec![round; length])
            );
        }
    }

    #[test]
    fn what_goes_as_one_arrives_as_the_datagrams_it_was_made_of() {
        let (sender, receiver) = pair("127.0.0.1");
        let to = receiver.local_addr().expect("bound");
        let lengths = [900; 20].into_iter().chain([899, 30, 30, 1300, 1300, 7]);
        let datagrams: Vec<_> = (0..)
            .zip(lengths)
            .map(|(index, length)| (to, Bytes::from(vec![index; length])))
            .collect();
        let runs = std::cell::Cell::new(0);
        let counted = |rest: &[(SocketAddr, Bytes)]| {
            runs.set(runs.get() + 1);
            segments::run(rest)
        };
        let sent = send(sender.as_fd(), &datagrams, counted).expect("sent");
        assert_eq!((sent, runs.get()), (datagrams.len(), 3));
        let mut got = Vec::new();
        let filled = ReceiveBuffers::default().receive(receiver.as_fd(), &mut got);
        assert_eq!(filled.expect("received"), datagrams.len());
        let octets = |all: &[Datagram]| all.iter().map(|it| it.octets.clone()).collect::<Vec<_>>();
        let expected: Vec<_> = datagrams.into_iter().map(|(_, octets)| octets).collect();
        assert_eq!(octets(&got), expected);
    }

    #[test]
    fn the_memory_of_a_dropped_datagram_serves_again() {
        let (sender, receiver) = pair("127.0.0.1");
        let to = receiver.local_addr().expect("bound");
        let mut buffers = ReceiveBuffers::default();
        let receive = |buffers: &mut ReceiveBuffers, length: usize| {
            let datagrams = [(to, Bytes::from(vec![1; length]))];
            assert_eq!(send(sender.as_fd(), &datagrams, |_| 1).expect("sent"), 1);
            let mut got = Vec::new();
            let filled = buffers.receive(receiver.as_fd(), &mut got);
            assert_eq!(filled.expect("received"), 1);
            got.pop().expect("one").octets
        };
        let octets = receive(&mut buffers, 1200);
        let place = octets.as_ptr();
        buffers.take_back(octets);
        // A short one was copied, a long one has another size.
        for length in [300, 5000] {
            let octets = receive(&mut buffers, length);
            buffers.take_back(octets);
        }
        let spare: Vec<_> = buffers.spare.iter().map(|it| it.as_ptr()).collect();
        assert_eq!(spare, []);
        assert!(buffers.direct.iter().any(|it| it.as_ptr() == place));
        assert_eq!(receive(&mut buffers, 1200), vec![1; 1200]);
    }

    #[test]
    fn an_empty_socket_would_block() {
        let (_, receiver) = pair("127.0.0.1");
        let error = ReceiveBuffers::default()
            .receive(receiver.as_fd(), &mut Vec::new())
            .expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_maximum() {
        let raised = raise_open_files().expect("allowed");
        assert_eq!(raise_open_files().expect("allowed"), raised);
    }
}
