//! TCP's congestion window, as far as a link without losses shows it: slow start.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The first window of a TCP connection (RFC 6928).
const FIRST_WINDOW: usize = 10 * 1448;

/// How many bytes a window lets out.
pub enum Room {
    /// Within the first window, which TCP sends whatever the path looks like.
    Few(usize),
    Many(usize),
}

/// The congestion window of one direction of one connection.
pub struct Window {
    state: Mutex<WindowState>,
    changed: Notify,
}

struct WindowState {
    window: usize,
    largest: usize,
    on_its_way: usize,
    /// Acknowledgements on their way back, in the order of their arrival.
    acknowledged: VecDeque<(Instant, usize)>,
}

impl Window {
    pub fn new(largest: usize) -> Self {
        let state = WindowState { window: FIRST_WINDOW, largest, on_its_way: 0, acknowledged: VecDeque::new() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub fn sent(&self, n: usize) {
        lock(&self.state).on_its_way += n;
    }

    pub fn delivered(&self, n: usize, acknowledged_at: Instant) {
        lock(&self.state).acknowledged.push_back((acknowledged_at, n));
        self.changed.notify_one();
    }

    /// Waits until something may be sent, and says how much.
    pub async fn room(&self) -> Room {
        loop {
            let next = {
                let mut state = lock(&self.state);
                let now = Instant::now();
                while let Some(&(at, n)) = state.acknowledged.front()
                    && at <= now
                {
                    state.acknowledged.pop_front();
                    state.on_its_way -= n;
                    state.window = (state.window + n).min(state.largest);
                }
                if state.on_its_way < FIRST_WINDOW {
                    return Room::Few(FIRST_WINDOW - state.on_its_way);
                }
                if state.on_its_way < state.window {
                    return Room::Many(state.window - state.on_its_way);
                }
                state.acknowledged.front().map(|&(at, _)| at)
            };
            match next {
                Some(at) => sleep_until(at).await,
                None => self.changed.notified().await,
            }
        }
    }
}

/// A lock that a panic elsewhere does not spoil.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
