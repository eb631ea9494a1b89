//! Two drivers and nothing between them: what one writes, the other has read at once.

use std::sync::{Arc, Mutex};
use std::task::Waker;

use peermux_core::driver::{Driver, ReadBuffer, WakeWriter, WriteAction, WriteBuffer};
use peermux_core::time::Instant;

use crate::{Pair, PairBuilder};

/// Two connections, each behind a driver.
pub struct Drivers {
    /// The side that dialled.
    pub initiator: Arc<Driver>,
    /// The side that accepted.
    pub responder: Arc<Driver>,
    inputs: [ReadBuffer; 2],
}

impl Drivers {
    /// The two connections that `builder` describes; nothing has been sent.
    pub fn new(builder: PairBuilder) -> Self {
        let Pair { initiator, responder, .. } = builder.build();
        Self {
            initiator: Driver::new(initiator.conn),
            responder: Driver::with_strike_register(
                responder.conn,
                responder.register.map(|register| Arc::new(Mutex::new(register))),
            ),
            inputs: [ReadBuffer::default(), ReadBuffer::default()],
        }
    }

    /// Lets the initiator say all that it has to say; whether that was anything.
    pub fn initiator_speaks(&mut self) -> bool {
        pass(&self.initiator, &self.responder, &mut self.inputs[0])
    }

    /// Lets the responder say all that it has to say; whether that was anything.
    pub fn responder_speaks(&mut self) -> bool {
        pass(&self.responder, &self.initiator, &mut self.inputs[1])
    }

    /// Lets each side in turn say all that it has to say, until neither has anything.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let said = self.initiator_speaks();
            if !(self.responder_speaks() || said) {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

/// Lets `from` say what it has to say; whether that was anything.
fn pass(from: &Driver, to: &Driver, input: &mut ReadBuffer) -> bool {
    let mut said = false;
    let mut buffer = WriteBuffer::default();
    while let WriteAction::Send(_) = from.poll_transmit(Instant::ZERO, &mut buffer, Waker::noop()) {
        said = true;
        let mut rest = buffer.bytes();
        while !rest.is_empty() {
            input.room_in_vec(|room| {
                let len = rest.len().min(room.capacity() - room.len());
                room.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
            });
            to.handle_input(Instant::ZERO, input, WakeWriter::Yes);
        }
    }
    said
}
