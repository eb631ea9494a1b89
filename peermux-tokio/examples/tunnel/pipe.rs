//! Joins a TCP connection and a stream: bytes, ends of one direction, and failures.

use std::fmt;
use std::io;

use peermux_tokio::{ConnectionError, ErrorCode, ReadError, ReadHalf, Stream, WriteError, WriteHalf};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::codes;

/// The most that is read or written at once.
const CHUNK: usize = 32 * 1024;

/// Why the two did not end in good order.
#[derive(Debug)]
pub enum Broken {
    /// The other side reset the stream.
    Reset(ErrorCode),
    /// The TCP connection at this side broke.
    Tcp(io::Error),
    /// The peermux connection is gone.
    Connection(ConnectionError),
    /// The stream was used wrongly.
    Stream(&'static str),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(code) => f.write_str(&codes::explain(*code)),
            Self::Tcp(error) => write!(f, "the TCP connection broke: {error}"),
            Self::Connection(error) => write!(f, "the peermux connection was lost: {error}"),
            Self::Stream(what) => write!(f, "the stream failed: {what}"),
        }
    }
}

/// Carries bytes both ways until both directions have ended. An end of one direction is passed on and leaves the other alone; a failure ends both, with a RESET
/// to the other side and an RST to this one, so that nobody takes it for an end.
pub async fn join(mut tcp: TcpStream, stream: Stream) -> Result<(), Broken> {
    prepare(&tcp);
    let (mut reader, mut writer) = stream.into_split();
    let (mut tcp_reader, mut tcp_writer) = tcp.split();
    let done = tokio::try_join!(to_stream(&mut tcp_reader, &mut writer), to_tcp(&mut reader, &mut tcp_writer));
    match done {
        Ok(_) => Ok(()),
        Err(broken) => {
            writer.reset(codes::BROKEN);
            reader.stop(codes::BROKEN);
            abort(tcp);
            Err(broken)
        }
    }
}

/// Small writes leave at once, and a peer that has vanished is noticed some day.
fn prepare(tcp: &TcpStream) {
    // Both only make things better.
    let _ = tcp.set_nodelay(true);
    let _ = SockRef::from(tcp).set_keepalive(true);
}

/// Closes with an RST.
pub fn abort(tcp: TcpStream) {
    let _ = SockRef::from(&tcp).set_linger(Some(std::time::Duration::ZERO));
}

async fn to_stream(tcp: &mut (impl AsyncRead + Unpin), stream: &mut WriteHalf) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tcp.read(&mut buffer).await.map_err(Broken::Tcp)?;
        let written = match read {
            0 => stream.shutdown().await,
            read => stream.write_all(&buffer[..read]).await,
        };
        match written.map_err(|error| write_error(&error)) {
            Ok(()) if read == 0 => return Ok(()),
            Ok(()) => {}
            // The other side's TCP connection takes nothing more; what it still sends may be of use, and a RESET follows if there is nothing.
            Err(None) => return Ok(()),
            Err(Some(broken)) => return Err(broken),
        }
    }
}

async fn to_tcp(stream: &mut ReadHalf, tcp: &mut (impl AsyncWrite + Unpin)) -> Result<(), Broken> {
    loop {
        let written = match stream.read_chunk(CHUNK).await {
            Ok(Some(chunk)) => tcp.write_all(&chunk).await,
            // If that fails, there is nobody to tell.
            Ok(None) => {
                let _ = tcp.shutdown().await;
                return Ok(());
            }
            Err(ReadError::Reset(code)) => return Err(Broken::Reset(code)),
            Err(ReadError::Connection(error)) => return Err(Broken::Connection(error)),
            Err(_) => return Err(Broken::Stream("read")),
        };
        if written.is_err() {
            // What this side's TCP connection has sent before it broke still goes to the other.
            stream.stop(codes::BROKEN);
            return Ok(());
        }
    }
}

/// `None` if the other side only wants nothing more.
fn write_error(error: &io::Error) -> Option<Broken> {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(WriteError::Stopped(_)) => None,
        Some(WriteError::Connection(error)) => Some(Broken::Connection(error.clone())),
        _ => Some(Broken::Stream("write")),
    }
}
