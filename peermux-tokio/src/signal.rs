//! Tasks that wait for the same thing.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use tokio::sync::Notify;
use tokio::task::coop;

/// Where tasks wait for the same thing, of which only one waker is kept: a waker that wakes all of them.
///
/// A future that is held and not polled any more keeps nothing from the others.
#[derive(Default)]
pub(crate) struct Signal(Notify);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_waiters();
    }
}

impl Signal {
    /// Polls until `poll` is ready. What wakes the waker wakes all who wait here.
    pub(crate) async fn wait<T>(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
        // Whoever asks again and again for what is there lets others have their turn.
        coop::consume_budget().await;
        let waker = Waker::from(self.clone());
        loop {
            let mut woken = pin!(self.0.notified());
            // From here on no wake is missed.
            woken.as_mut().enable();
            if let Poll::Ready(value) = poll(&waker) {
                return value;
            }
            woken.await;
        }
    }
}
