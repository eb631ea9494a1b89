//! The handshake, one side's part at a time.

use std::sync::{Arc, LazyLock};

use peermux_core::crypto::StaticSecret;
use peermux_core::time::Instant;
use peermux_core::wire::QUANTUM;
use peermux_core::{Config, Connection, ExpectedPeer, Identity, Role, Transmit};

use super::drain_events;
use crate::{initiator_key, responder_key, rng};

/// The static keys, which an application makes once for all connections.
static INITIATOR: LazyLock<StaticSecret> = LazyLock::new(initiator_key);
static RESPONDER: LazyLock<StaticSecret> = LazyLock::new(responder_key);

/// A way to begin a connection.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Whether the dialer knows the other's key: IK, or the fallback.
    pub known: bool,
    /// Whether the dialer shows a key.
    pub authenticated: bool,
}

impl Handshake {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { known: true, authenticated: true },
        Self { known: true, authenticated: false },
        Self { known: false, authenticated: true },
        Self { known: false, authenticated: false },
    ];

    /// Its name in the tables.
    pub fn name(self) -> String {
        let mode = if self.known { "IK" } else { "fallback" };
        let who = if self.authenticated { "authenticated" } else { "anonymous" };
        format!("{mode}, {who}")
    }

    /// Makes two connections and lets them finish their handshake: M1, M2, flight 3. What a side does runs within `by`, which may measure it.
    pub fn run(self, config: &Arc<Config>, mut by: impl FnMut(Role, &mut dyn FnMut())) -> (Connection, Connection) {
        let now = Instant::ZERO;
        let mut wire = [0; 2 * QUANTUM];
        let mut len = 0;
        let mut initiator = None;
        let mut responder = None;
        by(Role::Initiator, &mut || {
            let identity = if self.authenticated { Identity::Static(INITIATOR.clone()) } else { Identity::Anonymous };
            let remote = if self.known { ExpectedPeer::Key(RESPONDER.public_key()) } else { ExpectedPeer::Any };
            let made = Connection::initiator(config.clone(), identity, remote, now, &mut rng(1));
            let connection = initiator.insert(made.expect("the configuration is valid"));
            len = transmit(connection, &mut wire);
        });
        by(Role::Responder, &mut || {
            let made = Connection::responder(config.clone(), RESPONDER.clone().into(), now, &mut rng(2));
            let connection = responder.insert(made.expect("the configuration is valid"));
            receive(connection, &mut wire[..len]);
            len = transmit(connection, &mut wire);
        });
        let mut initiator = initiator.expect("it was made");
        let mut responder = responder.expect("it was made");
        by(Role::Initiator, &mut || {
            receive(&mut initiator, &mut wire[..len]);
            len = transmit(&mut initiator, &mut wire);
        });
        by(Role::Responder, &mut || receive(&mut responder, &mut wire[..len]));
        assert!(initiator.is_established() && responder.is_established(), "{self:?}");
        (initiator, responder)
    }
}

fn transmit(connection: &mut Connection, wire: &mut [u8]) -> usize {
    let Ok(Transmit::Bytes(len)) = connection.poll_transmit(Instant::ZERO, wire) else {
        panic!("there is nothing to send");
    };
    len
}

fn receive(connection: &mut Connection, wire: &mut [u8]) {
    assert_eq!(connection.handle_slice(Instant::ZERO, wire), wire.len());
    drain_events(connection);
}
