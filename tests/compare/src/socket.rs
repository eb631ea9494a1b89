//! Sockets, all alike: TCP_NODELAY and cubic.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The congestion control of every TCP socket; quinn's is of the same name.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Room for datagrams in the kernel, in bytes, each way.
const DATAGRAM_BUFFER: usize = 2 << 20;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

fn prepare(socket: &TcpSocket) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_congestion(CONGESTION_CONTROL.as_bytes())
}

/// Listens on `addr`. Accepted sockets have what the listening one was given.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    prepare(&socket)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Accepts, and makes sure of what the socket should have.
pub(crate) async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_congestion(CONGESTION_CONTROL.as_bytes())?;
    Ok(socket)
}

/// Connects to `addr`.
pub(crate) async fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    prepare(&socket)?;
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
