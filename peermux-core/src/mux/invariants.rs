//! What must hold of all streams together.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::windows::LEAST_WINDOW;
use super::{Mux, PeerStreams, Stream};

/// From so many streams on, not every call is looked at.
const MANY: usize = 64;

/// How often the invariants were to be checked.
#[derive(Debug, Default)]
pub(super) struct Checks(AtomicU32);

impl Mux {
    /// Every invariant that spans several structs; for tests, since it looks at all streams.
    pub(crate) fn assert_invariants(&self) {
        // Looking at all streams after every call would make tests with thousands of them crawl.
        if self.streams.len() > MANY && !self.checks.0.fetch_add(1, Relaxed).is_multiple_of(self.streams.len() as u32) {
            return;
        }
        let streams = || self.streams.iter().map(|(_, stream)| &**stream);
        let sum = |part: fn(&Stream) -> usize| streams().map(part).sum::<usize>();
        let count = |is: fn(&Stream) -> bool| streams().filter(|stream| is(stream)).count();

        assert_eq!(self.queued, sum(|stream| stream.send.queue.len()), "queued bytes");
        assert_eq!(self.ready, sum(|stream| stream.counted_ready as usize), "ready bytes");
        assert_eq!(self.credit_in.unread(), sum(|stream| stream.recv.queue.len()) as u64, "unread bytes");
        let unopened = count(|stream| stream.wire().is_none() && stream.send.is_open());
        assert_eq!(self.unopened, unopened, "streams that are to be opened");
        assert_eq!(self.held, count(|stream| stream.held), "streams that are held");
        let open_here = count(|stream| stream.opened_here && stream.wire().is_some()) as u64;
        assert_eq!(self.open_here, open_here, "streams of this side");
        let PeerStreams { opened, closed, cooling, granted, .. } = self.peer_streams;
        assert_eq!(opened - closed - cooling, count(|stream| !stream.opened_here) as u64, "streams of the peer");
        assert!(opened <= granted, "streams granted");
        for entries in [self.control.len(), self.riders.len(), self.room.len(), self.restrained.len()] {
            assert!(entries <= self.streams.len(), "streams that have gone are in a queue");
        }
        self.assert_windows();
    }

    /// All windows together, those of streams that may be opened included, are the receive window at most; and what is counted of them is what they are.
    fn assert_windows(&self) {
        let (mut births, mut growth, mut in_all) = (0, 0, 0);
        for credit in self.streams.iter().filter(|(_, stream)| stream.wire().is_some()).map(|(_, it)| &it.recv.credit) {
            births += credit.first_window() - LEAST_WINDOW;
            growth += credit.window() - credit.first_window();
            in_all += credit.window();
        }
        let PeerStreams { opened, granted, .. } = self.peer_streams;
        for number in opened..granted {
            let window = self.peer_streams.windows.of(number);
            births += window - LEAST_WINDOW;
            in_all += window;
        }
        assert_eq!(self.division.in_use(), (births, growth), "windows that are counted");
        assert!(in_all <= self.limits.receive_window, "{in_all} bytes of windows");
    }
}
