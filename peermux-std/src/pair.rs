//! A reader and a writer that block, and the two threads that serve them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread;

use peermux_core::driver::Ready;

/// Bytes that wait in each direction, at most.
const LIMIT: usize = 64 * 1024;

/// Both ends of the two threads. Dropping it ends them.
pub(crate) struct Pair {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Woken when a thread may have something to do.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    input_end: Option<io::Result<()>>,
    output: Vec<u8>,
    /// The writer holds bytes that are not yet written.
    writing: bool,
    output_error: Option<io::Error>,
    /// Nothing is written behind what is there.
    shut: bool,
    /// The connection is over.
    dropped: bool,
    owner: Option<Waker>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        (state.dropped, state.shut) = (true, true);
        let owner = state.owner.take();
        drop(state);
        self.shared.changed.notify_all();
        drop(owner);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `act` on the state, and wakes the owner.
    fn tell(&self, act: impl FnOnce(&mut State)) {
        let owner = {
            let mut state = self.lock();
            act(&mut state);
            state.owner.take()
        };
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    fn read(&self, mut reader: impl Read) {
        let mut buffer = vec![0; LIMIT];
        loop {
            let end = match reader.read(&mut buffer) {
                Ok(0) => Ok(()),
                Ok(len) => {
                    let mut state = self.lock();
                    while state.input.len() >= LIMIT && !state.dropped {
                        state = self.wait(state);
                    }
                    if state.dropped {
                        return;
                    }
                    drop(state);
                    self.tell(|state| state.input.extend(&buffer[..len]));
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            return self.tell(|state| state.input_end = Some(end));
        }
    }

    fn write(&self, mut writer: impl Write) {
        loop {
            let bytes = {
                let mut state = self.lock();
                while state.output.is_empty() && !state.shut {
                    state = self.wait(state);
                }
                if state.output.is_empty() {
                    return;
                }
                state.writing = true;
                std::mem::take(&mut state.output)
            };
            let result = writer.write_all(&bytes).and_then(|()| writer.flush());
            let failed = result.is_err();
            self.tell(|state| {
                state.writing = false;
                state.output_error = result.err();
            });
            if failed {
                return;
            }
        }
    }
}

impl Pair {
    pub(crate) fn start(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> io::Result<Self> {
        let pair = Self { shared: Arc::default() };
        let (reading, writing) = (pair.shared.clone(), pair.shared.clone());
        thread::Builder::new().name("peermux-write".into()).spawn(move || {
            writing.write(writer);
        })?;
        thread::Builder::new().name("peermux-read".into()).spawn(move || reading.read(reader))?;
        Ok(pair)
    }

    pub(crate) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        if state.input.is_empty() {
            return match state.input_end.take() {
                None => Err(io::ErrorKind::WouldBlock.into()),
                Some(end) => {
                    state.input_end = Some(Ok(()));
                    end.map(|()| 0)
                }
            };
        }
        let len = state.input.read(room)?;
        drop(state);
        self.shared.changed.notify_all();
        Ok(len)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        if let Some(error) = state.output_error.take() {
            return Err(error);
        }
        let len = bytes.len().min(LIMIT.saturating_sub(state.output.len()));
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.output.extend_from_slice(&bytes[..len]);
        drop(state);
        self.shared.changed.notify_all();
        Ok(len)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut state = self.shared.lock();
        match state.output_error.take() {
            Some(error) => Err(error),
            None if state.writing || !state.output.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(()),
        }
    }

    /// Ends the direction to the peer behind what is there: the writer is dropped.
    pub(crate) fn shutdown(&mut self) {
        self.shared.lock().shut = true;
        self.shared.changed.notify_all();
    }

    pub(crate) fn poll_ready(&mut self, waker: &Waker, read: bool, write: bool) -> Ready {
        let mut state = self.shared.lock();
        let ready = Ready {
            read: read && (!state.input.is_empty() || state.input_end.is_some()),
            write: write && (state.output_error.is_some() || !state.writing && state.output.is_empty()),
        };
        let former = state.owner.replace(waker.clone());
        drop(state);
        drop(former);
        ready
    }
}
