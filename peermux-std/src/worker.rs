//! A thread that runs tasks: small state machines that wait for sockets, for timers, and for each other.
//!
//! One worker serves the sockets of all connections of the process. Each listener and each endpoint has one of its own, which runs the application's callbacks: these may take their
//! time, and no connection waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use mio::event::Source;
use mio::{Events, Interest, Poll, Registry, Token};

/// What a task does next.
pub(crate) enum Step {
    /// It runs again, after others.
    Again,
    /// It waits to be woken, or for a socket, at the latest until this time.
    Wait(Option<Instant>),
    /// It has ended, and is dropped.
    Done,
}

/// What a task is given when it runs.
pub(crate) struct Context<'a> {
    pub(crate) waker: &'a Waker,
    queue: &'a Queue,
    token: Token,
}

impl Context<'_> {
    /// Lets the task wait for one more socket.
    pub(crate) fn register(&self, source: &mut dyn Source) -> io::Result<()> {
        source.register(&self.queue.registry, self.token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Ends what [`Context::register`] began.
    pub(crate) fn deregister(&self, source: &mut dyn Source) -> io::Result<()> {
        source.deregister(&self.queue.registry)
    }
}

/// A task. It is called when it is woken.
type Run = dyn FnMut(&Context<'_>) -> Step + Send;

/// What a socket is ready for, as far as the system has said. The system says it once: a reader or writer clears the flag before it finds out that the socket would block.
#[derive(Debug)]
pub(crate) struct Readiness {
    pub(crate) read: AtomicBool,
    pub(crate) write: AtomicBool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { read: AtomicBool::new(true), write: AtomicBool::new(true) }
    }
}

/// The handle to a worker. When it is dropped, the thread ends and the tasks are dropped with it, unless they were let go on.
pub(crate) struct Worker {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.stops |= !state.ends;
        drop(state);
        self.queue.wake();
        // A callback of the application may drop the last handle, on the worker's own thread.
        if !self.is_current()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What the worker's thread and those who wake its tasks share.
pub(crate) struct Queue {
    state: Mutex<State>,
    registry: Registry,
    waker: mio::Waker,
}

#[derive(Default)]
struct State {
    tasks: BTreeMap<usize, Arc<Task>>,
    woken: Vec<Arc<Task>>,
    last: usize,
    /// The thread waits for the system, or is about to.
    sleeps: bool,
    /// The thread ends, at once or with the last task.
    stops: bool,
    ends: bool,
}

struct Task {
    key: usize,
    queue: Weak<Queue>,
    queued: AtomicBool,
    readiness: Arc<Readiness>,
    run: Mutex<Option<Box<Run>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, AcqRel) {
            return;
        }
        let Some(queue) = self.queue.upgrade() else { return };
        let mut state = queue.lock();
        state.woken.push(self);
        let sleeps = std::mem::take(&mut state.sleeps);
        drop(state);
        if sleeps {
            queue.wake();
        }
    }
}

/// The token of a worker's own waker. No task has it.
const WAKER: Token = Token(0);

impl Worker {
    /// Starts a worker whose thread has this name.
    ///
    /// # Errors
    /// Returns the system's error if it has no thread or no file descriptor to give.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        let queue = Arc::new(Queue { state: Mutex::default(), registry, waker });
        let thread = thread::Builder::new().name(name.into()).spawn({
            let queue = queue.clone();
            move || queue.run(poll)
        })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Lets the tasks go on, and the thread end with the last of them.
    pub(crate) fn detach(mut self) {
        self.thread = None;
        self.queue.lock().ends = true;
    }

    /// Returns whether the caller is the worker's own thread, as in a callback of the application.
    pub(crate) fn is_current(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }

    pub(crate) const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The worker that serves the sockets of all connections. It starts with the first, and never ends.
    ///
    /// # Errors
    /// As for [`Worker::start`]. The next call tries again.
    pub(crate) fn of_sockets() -> io::Result<Arc<Queue>> {
        static WORKER: Mutex<Option<Worker>> = Mutex::new(None);
        let mut worker = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Self::start("peermux-sockets")?);
        }
        worker.as_ref().map(|worker| worker.queue.clone()).ok_or_else(|| io::ErrorKind::Other.into())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread.
    fn wake(&self) {
        // It fails only if the system has no memory; the thread then wakes with the next event.
        let _ = self.waker.wake();
    }

    /// Adds a task. `source` is what it waits for, and sets `readiness`. The task runs when the returned waker is woken.
    ///
    /// # Errors
    /// Returns the system's error if `source` cannot be registered.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        readiness: Arc<Readiness>,
        source: Option<&mut dyn Source>,
        run: impl FnMut(&Context<'_>) -> Step + Send + 'static,
    ) -> io::Result<Waker> {
        let mut state = self.lock();
        state.last += 1;
        let key = state.last;
        if let Some(source) = source {
            source.register(&self.registry, Token(key), Interest::READABLE | Interest::WRITABLE)?;
        }
        let run = Mutex::new(Some(Box::new(run) as Box<Run>));
        let task = Arc::new(Task { key, queue: Arc::downgrade(self), queued: AtomicBool::new(false), readiness, run });
        if !state.stops {
            state.tasks.insert(key, task.clone());
        }
        drop(state);
        Ok(task.into())
    }

    fn run(&self, mut poll: Poll) {
        let mut events = Events::with_capacity(256);
        let mut timers = Timers::default();
        loop {
            let pause = {
                let mut state = self.lock();
                if state.stops || state.ends && state.tasks.is_empty() {
                    state.stops = true;
                    break;
                }
                state.sleeps = state.woken.is_empty();
                if state.sleeps { timers.pause() } else { Some(std::time::Duration::ZERO) }
            };
            // An error, EINTR as a rule, leaves no events.
            let is_polled = poll.poll(&mut events, pause).is_ok();
            let woken = {
                let mut state = self.lock();
                state.sleeps = false;
                let ready = events.iter().filter(|_| is_polled).filter_map(|event| {
                    let task = state.tasks.get(&event.token().0)?;
                    task.readiness.read.fetch_or(event.is_readable() || event.is_read_closed(), AcqRel);
                    task.readiness.write.fetch_or(event.is_writable() || event.is_write_closed(), AcqRel);
                    Some(task.clone())
                });
                let expired =
                    timers.expired(Instant::now()).into_iter().filter_map(|key| state.tasks.get(&key).cloned());
                let more: Vec<_> = ready.chain(expired).filter(|task| !task.queued.swap(true, AcqRel)).collect();
                state.woken.extend(more);
                std::mem::take(&mut state.woken)
            };
            for task in woken {
                self.step(&task, &mut timers);
            }
        }
        let tasks = std::mem::take(&mut self.lock().tasks);
        tasks.into_values().for_each(|task| end(&task));
    }

    fn step(&self, task: &Arc<Task>, timers: &mut Timers) {
        // From here on a wake runs the task again.
        task.queued.store(false, Release);
        let mut run = task.run.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(act) = run.as_mut() else { return };
        let waker = Waker::from(task.clone());
        let context = Context { waker: &waker, queue: self, token: Token(task.key) };
        match catch_unwind(AssertUnwindSafe(|| act(&context))) {
            Ok(Step::Again) => task.clone().wake(),
            Ok(Step::Wait(until)) => timers.set(task.key, until),
            // A callback that panics ends its own task only.
            Ok(Step::Done) | Err(_) => {
                drop(run);
                end(task);
                timers.set(task.key, None);
                let former = self.lock().tasks.remove(&task.key);
                drop(former);
            }
        }
    }
}

/// Drops what the task runs, under no lock but its own.
fn end(task: &Task) {
    let run = task.run.lock().unwrap_or_else(PoisonError::into_inner).take();
    let _ = catch_unwind(AssertUnwindSafe(|| drop(run)));
}

/// When which task is to run. Most timers move on before they expire: one that is moved on stays where it is, and its task is run too early once.
#[derive(Default)]
struct Timers {
    queue: BTreeSet<(Instant, usize)>,
    of: BTreeMap<usize, Instant>,
}

impl Timers {
    fn set(&mut self, key: usize, until: Option<Instant>) {
        match (self.of.get(&key).copied(), until) {
            (Some(armed), Some(until)) if armed <= until => {}
            (None, None) => {}
            (armed, until) => {
                if let Some(armed) = armed {
                    self.queue.remove(&(armed, key));
                    self.of.remove(&key);
                }
                if let Some(until) = until {
                    self.queue.insert((until, key));
                    self.of.insert(key, until);
                }
            }
        }
    }

    /// How long until the first expires.
    fn pause(&self) -> Option<std::time::Duration> {
        self.queue.first().map(|(first, _)| first.saturating_duration_since(Instant::now()))
    }

    fn expired(&mut self, now: Instant) -> Vec<usize> {
        let later = self.queue.split_off(&(now, usize::MAX));
        let expired = std::mem::replace(&mut self.queue, later);
        expired.into_iter().map(|(_, key)| key).inspect(|key| _ = self.of.remove(key)).collect()
    }
}
