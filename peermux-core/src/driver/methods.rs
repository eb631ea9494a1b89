//! What the connections of all adapters have in common, written once.

/// The methods of an adapter's `Connection` that do not wait. It has a field `handle` that points to a [`Handle`](crate::driver::Handle).
#[doc(hidden)]
#[macro_export]
macro_rules! connection_methods {
    ($connection:ty) => {
        impl $connection {
            /// Returns the transport's address on this side, if it has one.
            pub fn local_addr(&self) -> Option<SocketAddr> {
                self.handle.addresses().local
            }

            /// Returns the transport's address on the peer's side, if it has one.
            pub fn remote_addr(&self) -> Option<SocketAddr> {
                self.handle.addresses().remote
            }

            /// Returns what the handshake has proved of the peer. Before a connection with early data is
            /// [confirmed](Self::handshake_confirmed), that is what the peer claims.
            pub fn peer(&self) -> &PeerInfo {
                self.handle.peer()
            }

            /// Returns the peer's static key.
            pub fn peer_key(&self) -> PublicKey {
                self.handle.peer().key
            }

            /// Returns what the connection has done so far, and what it holds now.
            pub fn stats(&self) -> Stats {
                self.driver().look($crate::Connection::stats)
            }

            /// Returns the smoothed round-trip time; zero before the first measurement.
            pub fn rtt(&self) -> Duration {
                self.driver().look($crate::Connection::round_trip)
            }

            /// Fills `out` with keying material for the application, as RFC 5705 does: both sides get the same bytes
            /// for the same `label` and `context` (section 5 of the specification). Returns `None` if `label` is longer
            /// than 255 bytes, or if `out` is empty or longer than 16,320.
            pub fn export_keying_material(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
                self.driver().look(|connection| connection.export(label, context, out))
            }

            /// Returns the channel binding: the handshake's hash, the same on both sides, and of no other connection.
            pub fn channel_binding(&self) -> [u8; 64] {
                self.driver().channel_binding()
            }

            /// Closes the connection with a code of the application and a reason, of which at most 256 bytes are sent.
            /// What is queued is dropped: use [`drain`](Self::drain) to let it finish.
            ///
            /// This returns at once. [`closed`](Self::closed) waits for the end. A program that exits then waits for
            /// [`transport_closed`](Self::transport_closed), or the peer may not learn the reason.
            pub fn close(&self, code: u64, reason: &str) {
                self.driver().with(|connection| connection.close(Code::Application(code), reason));
            }

            /// Opens no more streams, asks the peer to open none, and closes the connection once all open streams have
            /// ended and are dropped. Streams that the peer has opened are among these, so accept them to the last.
            ///
            /// This returns at once. [`closed`](Self::closed) waits for the end.
            pub fn drain(&self) {
                self.handle.drain();
            }

            /// Returns why the connection ended, if it has.
            pub fn close_reason(&self) -> Option<ConnectionError> {
                self.driver().look(|connection| connection.error().cloned())
            }

            /// Returns the shared state machine, for everything that this adapter does not show.
            pub fn driver(&self) -> &Arc<Driver> {
                self.handle.driver()
            }
        }
    };
}
