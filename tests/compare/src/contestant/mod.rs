//! Who is measured. Each contestant connects, serves and opens streams behind the same traits, so that every metric is written once.

mod h2;
mod peermux;
mod quinn;
mod sia;
mod tcp;
mod tls;
mod yamux;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// The future of a trait's method.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A stream of any contestant.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Lets what this side sends on the stream go before bulk data, where the contestant knows of priorities on this side.
    fn set_urgent(&mut self) {}
}

/// A stream of any contestant.
pub(crate) type Stream = Box<dyn Duplex>;

/// What a server does with each stream.
pub(crate) type Handler = Arc<dyn Fn(Stream) + Send + Sync>;

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Small requests, which should not wait.
    Urgent,
    /// As much as there is room for.
    Bulk,
}

/// What a server and a client are told when they start.
#[derive(Clone, Default)]
pub(crate) struct Setting {
    /// Whether early data is used and accepted, where there is such a thing.
    pub(crate) early: bool,
    /// Whether thousands of streams are open at once.
    pub(crate) many_streams: bool,
    /// What the server shows and the client expects, where that is made for each run: a certificate.
    pub(crate) identity: Vec<u8>,
}

/// A way to carry streams.
pub(crate) trait Contestant: Send + Sync {
    /// What it is, in a line.
    fn describe(&self) -> &'static str;

    /// Serves on `addr`: `handler` gets every stream that clients open. Gives the address and what [`Setting::identity`] must be at clients.
    fn serve(&self, addr: SocketAddr, setting: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)>;

    /// What connects to the server at `addr`.
    fn client(&self, addr: SocketAddr, setting: &Setting) -> io::Result<Box<dyn Client>>;

    /// Whether one direction of a stream can end before the other.
    fn half_close(&self) -> bool {
        true
    }
}

/// What connects to a server; made once, as an application would.
pub(crate) trait Client: Send + Sync {
    /// Makes a connection.
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>>;

    /// Connects with `request` as early data, and gives the time until the first answer, of as many bytes; `None` if there is no such thing.
    fn early<'a>(&'a self, _request: &'a [u8]) -> Option<Boxed<'a, Duration>> {
        None
    }
}

/// The client's side of a connection.
pub(crate) trait Connection: Send + Sync {
    /// Opens a stream. Where a stream is a connection of its own, the first one is that which was made already.
    fn open(&self, purpose: Use) -> Boxed<'_, Stream>;

    /// Ends the connection, in the way that does not wait for the peer where there is one.
    fn close(self: Box<Self>) -> Boxed<'static, ()> {
        drop(self);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The names of all contestants, in the order of the tables.
pub(crate) const NAMES: [&str; 12] = [
    "tcp",
    "tls-aes",
    "tls-chacha",
    "tls-aws",
    "yamux",
    "h2",
    "sia_mux",
    "quinn",
    "peermux-aes",
    "peermux-chacha",
    "peermux-aws",
    "peermux-rust",
];

/// The contestant with this name.
pub(crate) fn by_name(name: &str) -> Option<Box<dyn Contestant>> {
    Some(match name {
        "tcp" => Box::new(tcp::Tcp),
        "tls-aes" => Box::new(tls::Tls::ring_aes()),
        "tls-chacha" => Box::new(tls::Tls::ring_chacha()),
        "tls-aws" => Box::new(tls::Tls::aws_hybrid()),
        "yamux" => Box::new(yamux::Yamux),
        "h2" => Box::new(h2::H2),
        "sia_mux" => Box::new(sia::Sia),
        "quinn" => Box::new(quinn::Quinn),
        "peermux-aes" => Box::new(peermux::Peermux::aes()),
        "peermux-chacha" => Box::new(peermux::Peermux::chacha()),
        "peermux-aws" => Box::new(peermux::Peermux::aws()),
        "peermux-rust" => Box::new(peermux::Peermux::rust()),
        _ => return None,
    })
}
