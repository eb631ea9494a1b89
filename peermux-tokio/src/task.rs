//! The task of a connection: it runs the link, and waits for the transport and the timers.
//!
//! One task reads and writes: what arrives is often answered at once, by credit or by the application, and two tasks would wake each other for it.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use peermux_core::driver::Turn;
use peermux_core::time::Instant;
use peermux_core::trace::instrument;
use tokio::task::coop;
use tokio::time::Sleep;

use crate::transport::{Clock, Shared, Transport};

/// Starts the task of a connection over `transport`.
pub(crate) fn start(shared: &Shared, transport: Transport) {
    shared.link.begin(transport);
    tokio::spawn(instrument(Task(shared.clone()).run()));
}

/// A task that is dropped before its end, as when its runtime shuts down, ends the connection: others may wait for it in other runtimes.
struct Task(Shared);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.link.end(self.0.clock.now(), "the runtime of the connection has shut down");
    }
}

impl Task {
    async fn run(self) {
        let sleep = pin!(tokio::time::sleep_until(tokio::time::Instant::now()));
        let mut alarm = Alarm { sleep, is_new: true, is_set: false };
        poll_fn(|cx| self.poll(cx, &mut alarm)).await;
    }

    /// Ready once the connection is over.
    fn poll(&self, cx: &mut Context<'_>, alarm: &mut Alarm<'_>) -> Poll<()> {
        let Shared { link, clock } = &self.0;
        loop {
            match link.poll(cx.waker(), || clock.now()) {
                Turn::Over => return Poll::Ready(()),
                Turn::Yield => {
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                    return Poll::Pending;
                }
                Turn::Wait(Some(timer)) if alarm.rings(cx, *clock, timer) => link.handle_timeout(clock.now()),
                Turn::Wait(_) => return Poll::Pending,
            }
        }
    }
}

/// The time of the first alarm, at the latest: each time that an alarm is earlier than all others, Tokio wakes the thread that waits for the system. So a connection that ends soon
/// does not set it twice, for its handshake and for its end.
const FIRST_ALARM: Duration = Duration::from_secs(2);

/// The alarm clock of the task.
struct Alarm<'a> {
    sleep: Pin<&'a mut Sleep>,
    /// It is set for the first time.
    is_new: bool,
    /// It will wake the task.
    is_set: bool,
}

impl Alarm<'_> {
    /// Returns whether it is time for `timer`; if not, the task is woken when it is. Timers move on with whatever is sent and received. So an alarm that is set too early is left alone,
    /// and set anew when it goes off.
    fn rings(&mut self, cx: &mut Context<'_>, clock: Clock, timer: Instant) -> bool {
        let Some(deadline) = clock.at(timer) else { return false };
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
            self.is_set = false;
        }
        if self.is_set && !self.sleep.is_elapsed() {
            return false;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if clock.now() >= timer {
                return true;
            }
            let first = if std::mem::take(&mut self.is_new) { self.sleep.deadline() + FIRST_ALARM } else { deadline };
            self.sleep.as_mut().reset(deadline.min(first));
        }
        // Out of budget, Tokio has not looked at it.
        self.is_set = coop::has_budget_remaining();
        false
    }
}
