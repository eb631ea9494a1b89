//! The decision of the application about a peer.

use alloc::string::String;
use alloc::sync::Arc;

use crate::code::Code;
use crate::connection::Connection;

/// The decision of the application about a peer whose key is authenticated.
///
/// Callbacks of the adapters return any type that converts into an `Approval`. `true` accepts the peer. `false` refuses it with [`Code::REFUSED`] and no reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The peer is accepted.
    Accept,
    /// The peer is refused. A responder sends code and reason to the peer. An initiator that refuses falls silent, and the peer learns neither
    /// ([spec](crate::spec) section 7).
    Refuse {
        /// The code, of the application as a rule.
        code: Code,
        /// The reason. At most 256 bytes of it are sent.
        reason: Arc<str>,
    },
}

impl Approval {
    /// Refuses the peer with a code of the application and a reason, of which at most 256 bytes are sent.
    pub fn refuse(code: u64, reason: impl Into<Arc<str>>) -> Self {
        Self::Refuse { code: Code::Application(code), reason: reason.into() }
    }
}

impl From<bool> for Approval {
    fn from(accepts: bool) -> Self {
        if accepts { Self::Accept } else { Self::Refuse { code: Code::REFUSED, reason: String::new().into() } }
    }
}

impl Connection {
    /// Applies `approval`: calls [`Connection::accept_peer`] or [`Connection::refuse_peer`].
    pub fn decide_peer(&mut self, approval: &Approval) {
        match approval {
            Approval::Accept => self.accept_peer(),
            Approval::Refuse { code, reason } => self.refuse_peer(*code, reason),
        }
    }
}
