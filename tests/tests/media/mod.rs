//! The std adapter over other transports than TCP, behind the face of adapters. The sockets of a test are where both
//! ends meet, and what some of the transports run over.
#![allow(unreachable_pub, missing_docs, reason = "as the module adapter")]

pub mod tls;

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Condvar, Mutex};
use std::thread;

use peermux_core::wire::Priority;
use peermux_core::{Config, Remote};
use peermux_std::{Connection, Transport, accept_socket, connect_socket};
use peermux_tests::{initiator_key, responder_key};

use crate::adapter::{Face, Listening};

/// A transport between two ends that are connected already.
pub trait Medium: 'static {
    fn dial(socket: TcpStream) -> Transport;
    fn accept(socket: TcpStream) -> Transport;
}

pub struct Over<M>(PhantomData<M>);

type Outcome = Result<Connection, (Option<SocketAddr>, io::Error)>;

pub struct Accepting(Mutex<Receiver<Outcome>>);

impl<M: Medium> Face for Over<M> {
    type Listener = Accepting;
    type Connection = Connection;

    fn listen(socket: TcpListener, config: Config) -> Accepting {
        let (outcome, outcomes) = channel();
        // It ends with the process.
        thread::spawn(move || {
            for dialer in socket.incoming() {
                let (dialer, config, outcome) = (dialer.expect("it listens"), config.clone(), outcome.clone());
                thread::spawn(move || {
                    let accepted = accept_socket(M::accept(dialer), responder_key(), config, |_| true);
                    let _ = outcome.send(accepted.map_err(|error| (None, error)));
                });
            }
        });
        Accepting(Mutex::new(outcomes))
    }

    fn dial(socket: TcpStream, remote: Remote, config: Config) -> io::Result<Connection> {
        connect_socket(M::dial(socket), initiator_key(), remote, config, |_| false)
    }
}

impl Listening for Accepting {
    type Connection = Connection;

    fn outcome(&self) -> Outcome {
        self.0.lock().expect("no panic").recv().expect("it listens")
    }
}

/// Ends that wait for the other side, by the address of the one who dialled.
static WAITING: Mutex<Option<HashMap<SocketAddr, Transport>>> = Mutex::new(None);
static ARRIVED: Condvar = Condvar::new();

fn give(socket: &TcpStream, end: Transport) {
    let address = socket.local_addr().expect("it is connected");
    WAITING.lock().expect("no panic").get_or_insert_default().insert(address, end);
    ARRIVED.notify_all();
}

fn take(socket: &TcpStream) -> Transport {
    let address = socket.peer_addr().expect("it is connected");
    let mut waiting = WAITING.lock().expect("no panic");
    loop {
        if let Some(end) = waiting.get_or_insert_default().remove(&address) {
            return end;
        }
        waiting = ARRIVED.wait(waiting).expect("no panic");
    }
}

#[cfg(unix)]
pub struct Unix;

#[cfg(unix)]
impl Medium for Unix {
    fn dial(socket: TcpStream) -> Transport {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("there are sockets");
        give(&socket, far.into());
        near.into()
    }

    fn accept(socket: TcpStream) -> Transport {
        take(&socket)
    }
}

/// Two pipes, which block.
pub struct Pipes;

impl Medium for Pipes {
    fn dial(socket: TcpStream) -> Transport {
        let (read, far_write) = io::pipe().expect("there are pipes");
        let (far_read, write) = io::pipe().expect("there are pipes");
        give(&socket, Transport::from_pair(far_read, far_write).expect("there are threads"));
        Transport::from_pair(read, write).expect("there are threads")
    }

    fn accept(socket: TcpStream) -> Transport {
        take(&socket)
    }
}

/// A source of events of the crate `mio`.
pub struct Source;

impl Medium for Source {
    fn dial(socket: TcpStream) -> Transport {
        socket.set_nonblocking(true).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        Transport::from_source(mio::net::TcpStream::from_std(socket))
    }

    fn accept(socket: TcpStream) -> Transport {
        Self::dial(socket)
    }
}

/// A stream of another connection.
pub struct Inner;

impl Medium for Inner {
    fn dial(socket: TcpStream) -> Transport {
        let remote = Remote::Key(responder_key().public_key());
        let outer = connect_socket(socket, initiator_key(), remote, Config::default(), |_| false).expect("it answers");
        outer.open_stream(Some("inner"), Priority::default()).expect("it is open").into()
    }

    fn accept(socket: TcpStream) -> Transport {
        let outer = accept_socket(socket, responder_key(), Config::default(), |_| true).expect("it dials");
        outer.accept_stream().expect("it opens").into()
    }
}
