//! Plain TCP: a stream is a connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::net::TcpStream;

use super::{Boxed, Client, Connection, Contestant, Duplex, Handler, Setting, Stream, Use};
use crate::socket;

pub(super) struct Tcp;

impl Duplex for TcpStream {}

impl Contestant for Tcp {
    fn describe(&self) -> &'static str {
        "plain TCP, a connection for each stream"
    }

    fn serve(&self, addr: SocketAddr, _: Setting, handler: Handler) -> Boxed<'_, (SocketAddr, Vec<u8>)> {
        Box::pin(async move {
            let listener = socket::listen(addr)?;
            let addr = listener.local_addr()?;
            tokio::spawn(async move {
                while let Ok(socket) = socket::accept(&listener).await {
                    handler(Box::new(socket));
                }
            });
            Ok((addr, Vec::new()))
        })
    }

    fn client(&self, addr: SocketAddr, _: &Setting) -> io::Result<Box<dyn Client>> {
        Ok(Box::new(Dialer { addr }))
    }
}

struct Dialer {
    addr: SocketAddr,
}

impl Client for Dialer {
    fn connect(&self) -> Boxed<'_, Box<dyn Connection>> {
        Box::pin(async move {
            let first = Mutex::new(Some(socket::dial(self.addr).await?));
            Ok(Box::new(Dialed { addr: self.addr, first }) as Box<dyn Connection>)
        })
    }
}

struct Dialed {
    addr: SocketAddr,
    first: Mutex<Option<TcpStream>>,
}

impl Connection for Dialed {
    fn open(&self, _: Use) -> Boxed<'_, Stream> {
        let first = self.first.lock().ok().and_then(|mut first| first.take());
        Box::pin(async move {
            let socket = match first {
                Some(socket) => socket,
                None => socket::dial(self.addr).await?,
            };
            Ok::<Stream, io::Error>(Box::new(socket))
        })
    }
}
