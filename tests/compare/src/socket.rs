//! Sockets, all alike: TCP_NODELAY and cubic.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The congestion control of every TCP socket; quinn's is of the same name.
const CONGESTION_CONTROL: &[u8] = b"cubic";

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Room for datagrams in the kernel, in bytes, each way.
const DATAGRAM_BUFFER: usize = 2 << 20;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match socket.set_tcp_congestion(CONGESTION_CONTROL) {
        // Some systems let only root choose; all contestants have the system's then.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        set => set,
    }
}

/// The congestion control that sockets have in the end.
pub(crate) fn congestion_control() -> io::Result<String> {
    let socket = TcpSocket::new_v4()?;
    prepare(SockRef::from(&socket))?;
    let name = SockRef::from(&socket).tcp_congestion()?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// Listens on `addr`. Accepted sockets have what the listening one was given.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    prepare(SockRef::from(&socket))?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Accepts, and makes sure of what the socket should have.
pub(crate) async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (socket, _) = listener.accept().await?;
    prepare(SockRef::from(&socket))?;
    Ok(socket)
}

/// Connects to `addr`.
pub(crate) async fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    prepare(SockRef::from(&socket))?;
    tokio::time::timeout(PATIENCE, socket.connect(addr)).await.map_err(io::Error::from)?
}

/// A socket for datagrams.
pub(crate) fn datagrams(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(DATAGRAM_BUFFER)?;
    socket.set_send_buffer_size(DATAGRAM_BUFFER)?;
    socket.bind(&addr.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
