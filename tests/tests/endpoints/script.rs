//! One script for two endpoints, step by step, and the log of what it sees.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;

use peermux_core::crypto::PublicKey;
use peermux_core::endpoint::EndpointLimits;
use peermux_core::wire::Priority;
use peermux_tests::{initiator_key, responder_key};

use super::{Accepting, Link, Node, bind, heard, limited};
use crate::adapter::{Connected, Duplex, eventually};

fn told<T: std::fmt::Debug>(what: &str, result: io::Result<T>) -> String {
    match result {
        Ok(value) => format!("{what}: {value:?}"),
        Err(error) => format!("{what}: {:?}, {error}", error.kind()),
    }
}

pub fn run<A: Node, B: Node>() -> Vec<String> {
    let host: A = limited(responder_key(), EndpointLimits { max_queued_streams: 2, ..EndpointLimits::default() });
    let renter: B = bind(initiator_key());
    let who = |key: PublicKey| {
        ["host", "renter", "?"][[host.key(), renter.key(), key].iter().position(|known| *known == key).unwrap_or(2)]
    };
    let mut log = Vec::new();

    let acceptor = host.register("a/b").expect("it is free");
    for name in ["a/b", "", "bad name", &"x".repeat(64), &"x".repeat(65)] {
        log.push(match host.register(name) {
            Ok(acceptor) => format!("registered {:?}", acceptor.protocol()),
            Err(error) => format!("register {name:?}: {error}"),
        });
    }
    log.push(told("own key", renter.connect(host.address(), renter.key()).map(drop)));
    log.push(format!("before: {:?} {:?}", renter.connection(&host.key()).is_some(), host.connections().len()));
    let connection = renter.connect(host.address(), host.key()).expect("it listens");
    log.push(format!("connected to the {}", who(connection.peer_key())));
    eventually("the other side has it too", || host.connections().len() == 1);
    let again = renter.connect("127.0.0.1:1".parse().expect("an address"), host.key()).expect("it is there");
    let back = host.connect("127.0.0.1:1".parse().expect("an address"), renter.key()).expect("it is there");
    log.push(format!("the same: {}, {}", again.binding() == connection.binding(), back.binding() == again.binding()));

    for name in ["c/d", "", "bad name"] {
        match connection.open_stream((!name.is_empty()).then_some(name), Priority::default()) {
            Ok(mut stream) => {
                stream.write_all(b"x").expect("there is room");
                log.push(told(&format!("unknown {name:?}"), heard(&mut stream)));
            }
            Err(error) => log.push(format!("open {name:?}: {error}")),
        }
    }
    let mut streams = Vec::new();
    for number in 0..3 {
        let mut stream = connection.open_stream(Some("a/b"), Priority::default()).expect("it is open");
        stream.write_all(&[number]).expect("there is room");
        let _ = stream.flush();
        streams.push(stream);
    }
    log.push(told("one too many", streams.remove(2).read(&mut [0; 1])));
    let (mut accepted, from) = acceptor.accept().expect("it waits");
    log.push(format!("accepted {:?} of the {}", accepted.protocol(), who(from.peer_key())));
    drop(acceptor);
    log.push(told("one that nobody took", streams.remove(1).read(&mut [0; 1])));
    let mut stream = streams.remove(0);
    log.push(told("finish", stream.finish()));
    log.push(told("read", heard(&mut accepted)));
    let acceptor = host.register("a/b").expect("it is free again");

    let draining = host.clone();
    let draining = thread::spawn(move || draining.drain());
    eventually("the other side hears of it", || renter.connections().is_empty());
    log.push(format!("open: {}", connection.open_stream(Some("a/b"), Priority::default()).err().expect("it drains")));
    log.push(told("connect", host.connect(renter.address(), renter.key()).map(drop)));
    eventually("nobody listens", || TcpStream::connect(host.address()).is_err());
    log.push(told(
        "connect",
        renter.connect(host.address(), host.key()).map(drop).map_err(|error| error.kind().into()),
    ));
    log.push(told("write", accepted.write_all(b"answer").and_then(|()| accepted.finish())));
    log.push(told("read", heard(&mut stream)));
    drop((accepted, stream));
    draining.join().expect("no panic");
    log.push(format!("ended: {}, {}", connection.closed(), from.closed()));
    log.push(format!("accept: {:?}", acceptor.accept().is_some()));
    log.push(format!("after: {} {}", host.connections().len(), renter.connections().len()));
    log
}
