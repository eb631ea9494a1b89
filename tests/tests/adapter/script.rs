//! One script, step by step, and the log of what it sees.

use std::fmt::Debug;
use std::io::{Read, Write};

use peermux_core::Config;
use peermux_core::wire::Priority;

use super::{Connected, Duplex, Face, ends};

/// What a call gave, without the system's words.
fn told<T: Debug>(log: &mut Vec<String>, what: &str, result: std::io::Result<T>) {
    log.push(match result {
        Ok(value) => format!("{what}: {value:?}"),
        Err(error) => format!("{what}: {:?}, {error}", error.kind()),
    });
}

pub fn run<D: Face, L: Face>() -> Vec<String> {
    let ends = ends::<D, L>(&Config::default());
    let mut log = Vec::new();
    let log = &mut log;
    let names = ["a/b", "", "a/b", "bad name"];
    let mut ours = Vec::new();
    for name in names {
        match ends.dialer.open_stream((!name.is_empty()).then_some(name), Priority::default()) {
            Ok(mut stream) => {
                told(log, "write", stream.write(format!("to {name:?}").as_bytes()));
                told(log, "flush", stream.flush());
                let theirs = ends.listener.accept_stream().expect("it opens");
                log.push(format!("accepted {:?}", theirs.protocol()));
                ours.push((stream, theirs));
            }
            Err(error) => log.push(format!("open {name:?}: {error}")),
        }
    }
    for (one, two) in &mut ours {
        let mut buffer = [0; 100];
        told(log, "read", two.read(&mut buffer));
        told(log, "finish", one.finish());
        told(log, "read", two.read(&mut buffer));
        told(log, "write", one.write(b"more"));
    }
    let mut ours = ours.into_iter();
    let (mut one, mut two) = ours.next().expect("the first");
    two.reset(7);
    told(log, "read of a reset stream", one.read(&mut [0; 9]));
    told(log, "write to a reset stream", two.write(b"x"));
    told(log, "flush of a reset stream", two.flush());
    let (mut one, two) = ours.next().expect("the second");
    two.refuse(8);
    told(log, "read of a refused stream", one.read(&mut [0; 9]));
    told(log, "finish of a refused stream", one.finish());
    let (mut one, two) = ours.next().expect("the third");
    drop(two);
    told(log, "read of a dropped stream", one.read(&mut [0; 9]));
    one.stop(9);
    told(log, "read of a dropped stream", one.read(&mut [0; 9]));

    let mut stream = ends.listener.open_stream(Some("back"), Priority::default()).expect("it is open");
    told(log, "flush", stream.flush());
    let mut theirs = ends.dialer.accept_stream().expect("it opens");
    ends.listener.close(3, "by the script");
    for _ in 0..2 {
        told(log, "read", theirs.read(&mut [0; 9]));
        told(log, "read", stream.read(&mut [0; 9]));
    }
    told(log, "finish", stream.finish());
    told(log, "write", theirs.write(b"x"));
    log.push(format!("accept: {}", ends.dialer.accept_stream().err().expect("it is closed")));
    log.push(format!("open: {}", ends.dialer.open_stream(None, Priority::default()).err().expect("it is closed")));
    log.push(format!("ended: {}", ends.dialer.closed()));
    log.push(format!("ended: {}", ends.listener.closed()));
    std::mem::take(log)
}
