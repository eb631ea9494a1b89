//! What adapters ask of stream sockets: one read, one write, and the options that make TCP prompt. Where a system has no such option, the call does nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
pub use std::os::fd::AsFd as AsSocket;
#[cfg(windows)]
pub use std::os::windows::io::AsSocket;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

#[cfg(unix)]
use crate::driver::ReadBuffer;

/// Reads once into `buffer`. Returns how many bytes were added, and whether they fill the buffer: otherwise the next read would block, or find the end.
///
/// # Errors
/// Returns the socket's error.
#[cfg(unix)]
pub fn read(socket: &impl AsSocket, buffer: &mut ReadBuffer) -> io::Result<(usize, bool)> {
    use rustix::buffer::spare_capacity;
    use rustix::net::{RecvFlags, recv};

    buffer.room_in_vec(|room| {
        let before = room.len();
        rustix::io::retry_on_intr(|| recv(socket, spare_capacity(room), RecvFlags::empty()))?;
        Ok((room.len() - before, room.len() == room.capacity()))
    })
}

/// Writes once, and returns how many bytes were taken. If there is `more`, bytes that do not fill a segment wait for it, as they would in a stream that is not cut into records.
///
/// # Errors
/// Returns the socket's error.
#[cfg(unix)]
pub fn write(socket: &impl AsSocket, bytes: &[u8], more: bool) -> io::Result<usize> {
    use rustix::net::{SendFlags, send};

    #[cfg(any(target_os = "linux", target_os = "android"))]
    let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let flags = {
        let _ = more;
        SendFlags::empty()
    };
    Ok(rustix::io::retry_on_intr(|| send(socket, bytes, flags))?)
}

/// Returns whether the socket takes more now.
#[cfg(unix)]
pub fn is_writable(socket: &impl AsSocket) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    !matches!(poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&Timespec::default())), Ok(0))
}

/// Limits how many bytes may wait in the system before the socket is not writable any more (TCP_NOTSENT_LOWAT), so that urgent data does not wait behind them.
///
/// # Errors
/// Returns the socket's error.
pub fn set_unsent_limit(socket: &impl AsSocket, bytes: usize) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return SockRef::from(socket).set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (socket, bytes);
        Ok(())
    }
}

/// Returns whether a segment is much shorter than what may wait unsent. One that is not, as on the loopback interface, must not wait to be filled: the socket would not become
/// writable meanwhile.
pub fn has_short_packets(socket: &impl AsSocket) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return SockRef::from(socket).tcp_mss().is_ok_and(|len| len <= 4096);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = socket;
        false
    }
}

/// Makes segments wait until they are full (TCP_CORK), or stops that. The flag of one write makes them wait for the next acknowledgement only.
///
/// # Errors
/// Returns the socket's error.
pub fn set_corked(socket: &impl AsSocket, corked: bool) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Ok(rustix::net::sockopt::set_tcp_cork(socket, corked)?);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = (socket, corked);
        Ok(())
    }
}

/// Ends the direction to the peer.
///
/// # Errors
/// Returns the socket's error.
pub fn shutdown(socket: &impl AsSocket) -> io::Result<()> {
    SockRef::from(socket).shutdown(std::net::Shutdown::Write)
}

/// Dialers that the system keeps until they are accepted. The 128 of [`std::net::TcpListener::bind`] are few: a burst of more costs some of them a second.
const BACKLOG: i32 = 1024;

/// Binds a listening socket as [`std::net::TcpListener::bind`] does, with room for a burst of dialers.
///
/// # Errors
/// Returns the socket's error.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a listener that has ended do not keep the port from the next one.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sends what is written at once (TCP_NODELAY): records are made full where that is worth it.
///
/// # Errors
/// Returns the socket's error.
pub fn set_nodelay(socket: &impl AsSocket) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}
