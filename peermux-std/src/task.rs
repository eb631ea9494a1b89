//! The task of a connection: it runs the link, and waits for the transport and the timers.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use peermux_core::driver::{Driver, Link, Now, Turn};
use peermux_core::time::Instant as Moment;
use peermux_core::trace::instrument;

use crate::transport::Io;
use crate::worker::{Task, wake_at};

/// The clock of a connection: the time since the connection began.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Moment {
        Moment::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns `None` if the moment is later than this clock can represent.
    fn at(self, moment: Moment) -> Option<Instant> {
        self.0.checked_add(moment.saturating_since(Moment::ZERO))
    }

    /// Returns the time for a connection that is created now.
    pub(crate) fn with_wall_clock(self) -> Now {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Now { instant: self.now(), unix_millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// What the handles, the streams and the task of a connection share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) link: Arc<Link<Io>>,
    pub(crate) clock: Clock,
}

impl Shared {
    pub(crate) fn new(driver: &Arc<Driver>, clock: Clock) -> Self {
        Self { link: Link::new(driver.clone()), clock }
    }
}

/// Returns the task of a connection over `io`.
pub(crate) fn serve(shared: &Shared, io: Io) -> Task {
    shared.link.begin(io);
    let serving = Serving(shared.clone());
    Box::pin(instrument(async move { poll_fn(|cx| serving.poll(cx)).await }))
}

/// If this is dropped before its end, as by a panic, the connection fails: others may wait for it.
struct Serving(Shared);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.link.end(self.0.clock.now(), "the task of the connection has panicked");
    }
}

impl Serving {
    /// Ready once the connection is over.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Shared { link, clock } = &self.0;
        loop {
            match link.poll(cx.waker(), || clock.now()) {
                Turn::Over => return Poll::Ready(()),
                Turn::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Turn::Wait(Some(timer)) if timer <= clock.now() => link.handle_timeout(clock.now()),
                Turn::Wait(timer) => {
                    timer.and_then(|timer| clock.at(timer)).into_iter().for_each(wake_at);
                    return Poll::Pending;
                }
            }
        }
    }
}
