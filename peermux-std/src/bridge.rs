//! A reader and a writer that block, behind calls that do not: two threads and a buffer for each.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use peermux_core::driver::ReadBuffer;

use crate::transport::{Duplex, read_into};
use crate::worker::{Direction, Readiness, lock};

/// The most bytes that a buffer holds.
const CAPACITY: usize = 64 * 1024;

/// Both buffers, on the side of the connection. When this is dropped, the threads end.
pub(crate) struct Bridge {
    input: Arc<Half>,
    output: Arc<Half>,
}

/// One direction.
struct Half {
    state: Mutex<State>,
    /// Where the thread waits.
    changed: Condvar,
    readiness: Arc<Readiness>,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The thread writes bytes that it has taken out of the buffer.
    writing: bool,
    /// The side that fills the buffer adds nothing more.
    finished: bool,
    /// The thread has ended, or is to end.
    ended: bool,
    error: Option<io::Error>,
}

impl Bridge {
    /// Starts the threads.
    pub(crate) fn start(
        read: impl Read + Send + 'static,
        write: impl Write + Send + 'static,
        readiness: &Arc<Readiness>,
    ) -> io::Result<Self> {
        let half = || {
            let (state, changed, readiness) = (Mutex::default(), Condvar::new(), readiness.clone());
            Arc::new(Half { state, changed, readiness })
        };
        let bridge = Self { input: half(), output: half() };
        let (input, output) = (bridge.input.clone(), bridge.output.clone());
        // If one thread starts and the other does not, the bridge is dropped, and both end.
        let thread = |name: &str| thread::Builder::new().name(name.into());
        thread("peermux-write").spawn(move || output.run(Direction::Write, |output| output.write_from(write)))?;
        thread("peermux-read").spawn(move || input.run(Direction::Read, |input| input.read_into(read)))?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.input.change(|state| state.ended = true);
        // What was written leaves.
        self.output.change(|state| state.finished = true);
    }
}

impl Duplex for Bridge {
    fn read(&mut self, buffer: &mut ReadBuffer) -> io::Result<(usize, bool)> {
        self.input.change(|state| match read_into(buffer, &mut state.bytes)? {
            (0, _) if state.finished => state.error.take().map_or(Ok((0, true)), Err),
            (0, _) => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        })
    }

    fn write(&mut self, bytes: &[u8], _: bool) -> io::Result<(usize, bool)> {
        self.output.change(|state| {
            if state.ended {
                return Err(state.error.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
            }
            let len = bytes.len().min(CAPACITY - state.bytes.len());
            state.bytes.extend(&bytes[..len]);
            if len > 0 { Ok((len, true)) } else { Err(io::ErrorKind::WouldBlock.into()) }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.change(|state| match state.error.take() {
            Some(error) => Err(error),
            None if state.bytes.is_empty() && !state.writing => Ok(()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        })
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.output.change(|state| {
            state.finished = true;
            if state.ended { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        })
    }
}

impl Half {
    /// Changes the state, and has the thread look at it.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut lock(&self.state));
        self.changed.notify_all();
        result
    }

    fn wait_while(&self, is_waiting: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(lock(&self.state), |state| is_waiting(state)).unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn run(&self, direction: Direction, act: impl FnOnce(&Self) -> io::Result<()>) {
        // The reader and the writer are foreign code.
        let end = End(self, direction);
        if let Err(error) = act(self) {
            lock(&self.state).error = Some(error);
        }
        drop(end);
    }

    fn read_into(&self, mut read: impl Read) -> io::Result<()> {
        let mut buffer = vec![0; CAPACITY / 4];
        loop {
            let len = match read.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut state = self.wait_while(|state| state.bytes.len() + len > CAPACITY && !state.ended);
            if state.ended {
                return Ok(());
            }
            state.bytes.extend(&buffer[..len]);
            drop(state);
            self.readiness.report(Direction::Read);
        }
    }

    /// Drops `write` at the end, so that its peer sees the end.
    fn write_from(&self, mut write: impl Write) -> io::Result<()> {
        loop {
            let mut state = self.wait_while(|state| state.bytes.is_empty() && !state.finished);
            if state.bytes.is_empty() {
                return Ok(());
            }
            let bytes = std::mem::take(&mut state.bytes);
            state.writing = true;
            drop(state);
            let (front, back) = bytes.as_slices();
            write.write_all(front)?;
            write.write_all(back)?;
            write.flush()?;
            lock(&self.state).writing = false;
            self.readiness.report(Direction::Write);
        }
    }
}

/// Reports the end of a thread, also if that is a panic.
struct End<'a>(&'a Half, Direction);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let Self(half, direction) = self;
        half.change(|state| {
            if thread::panicking() {
                state.error = Some(io::Error::other("the reader or the writer of the transport panicked"));
            }
            (state.finished, state.ended) = (true, true);
        });
        half.readiness.report(*direction);
    }
}
