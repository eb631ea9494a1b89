//! Threads that run tasks: futures that wait for sockets, timers and each other.
//!
//! One worker serves the transports of all connections. Each listener and each endpoint has a
//! worker of its own for the application's callbacks, which may block.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::{Events, Interest, Registry, Token};
use peermux_core::driver::Ready;

/// What a worker runs.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Locks `mutex`. A panic of another thread that held the lock leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The earliest time that the future that is being polled here has passed to [`wake_at`].
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has the future that is being polled polled again at `deadline`, or earlier.
pub(crate) fn wake_at(deadline: Instant) {
    DEADLINE.set(Some(DEADLINE.get().map_or(deadline, |earlier| earlier.min(deadline))));
}

/// Waits for `pause`.
pub(crate) async fn sleep(pause: Duration) {
    let end = Instant::now() + pause;
    poll_fn(|_| {
        wake_at(end);
        if Instant::now() < end { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

/// Polls `future`. Returns also the time at which it is to be polled again at the latest.
pub(crate) fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> (Poll<F::Output>, Option<Instant>) {
    // A callback of the application may wait for something by itself.
    let outer = DEADLINE.take();
    let poll = future.poll(&mut Context::from_waker(waker));
    (poll, DEADLINE.replace(outer))
}

/// A handle to a worker. Clones are handles to the same worker.
#[derive(Clone)]
pub(crate) struct Worker(Arc<Shared>);

/// What the thread, its tasks' wakers, its sources and its handles share.
struct Shared {
    queue: Mutex<Queue>,
    sources: Mutex<HashMap<Token, Arc<Readiness>>>,
    /// The last key of a task or token of a source.
    last: AtomicUsize,
    registry: Registry,
    /// Ends the thread's wait for events.
    waker: mio::Waker,
}

#[derive(Default)]
struct Queue {
    new: Vec<(usize, Task)>,
    /// The tasks to poll.
    woken: Vec<usize>,
    /// The thread waits for events, or is about to.
    asleep: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The worker drops its tasks.
    Now,
    WithLastTask,
}

/// The token of [`Shared::waker`].
const WAKER: Token = Token(0);

impl Worker {
    /// Starts a worker whose thread has this name.
    ///
    /// # Errors
    /// Returns the system's error if it has no thread or no descriptor to give.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        let (queue, sources) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { queue, sources, last: AtomicUsize::new(WAKER.0), registry, waker });
        let worker = Self(shared.clone());
        let running = Loop { shared, tasks: HashMap::new(), timers: BTreeSet::new() };
        thread::Builder::new().name(name.into()).spawn(move || running.run(poll))?;
        Ok(worker)
    }

    /// Returns the worker that serves the transports of all connections. It starts with the first
    /// call, and never ends.
    ///
    /// # Errors
    /// See [`Worker::start`]. The next call tries again.
    pub(crate) fn of_transports() -> io::Result<Self> {
        static WORKER: Mutex<Option<Worker>> = Mutex::new(None);
        let mut worker = lock(&WORKER);
        if let Some(worker) = &*worker {
            return Ok(worker.clone());
        }
        Ok(worker.insert(Self::start("peermux-sockets")?).clone())
    }

    /// Runs `task`. A worker that has ended drops it.
    pub(crate) fn spawn(&self, task: Task) {
        let key = self.0.last.fetch_add(1, Relaxed) + 1;
        let ended = self.0.act(|queue| {
            if queue.end == Some(End::Now) {
                return Some(task);
            }
            queue.new.push((key, task));
            None
        });
        drop(ended);
    }

    /// Drops all tasks, and ends the thread. Does not wait for a task that is being polled.
    pub(crate) fn stop(&self) {
        self.0.act(|queue| queue.end = Some(End::Now));
    }

    /// Ends the thread when it has no task any more.
    pub(crate) fn finish(&self) {
        self.0.act(|queue| _ = queue.end.get_or_insert(End::WithLastTask));
    }
}

impl Shared {
    /// Gives the thread something to do.
    fn act<R>(&self, act: impl FnOnce(&mut Queue) -> R) -> R {
        let mut queue = lock(&self.queue);
        let result = act(&mut queue);
        let was_asleep = take(&mut queue.asleep);
        drop(queue);
        if was_asleep {
            // This fails only if the system has no memory: the thread then goes on with the next event.
            let _ = self.waker.wake();
        }
        result
    }
}

/// The waker of a task.
struct TaskWaker {
    key: usize,
    /// The task is to be polled.
    woken: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, SeqCst) {
            self.shared.act(|queue| queue.woken.push(self.key));
        }
    }
}

/// What the thread of a worker owns.
struct Loop {
    shared: Arc<Shared>,
    tasks: HashMap<usize, Running>,
    timers: BTreeSet<(Instant, usize)>,
}

struct Running {
    task: Task,
    state: Arc<TaskWaker>,
    waker: Waker,
    /// When it wants to be polled, and the timer that is set for that. Most tasks move their timer
    /// on before it expires: the timer stays then, and is set anew when it expires.
    deadline: Option<Instant>,
    timer: Option<Instant>,
}

impl Loop {
    fn run(mut self, mut poll: mio::Poll) {
        let mut events = Events::with_capacity(256);
        while let Some(timeout) = self.timeout() {
            match poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // What the system lacks now it may have later.
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
            lock(&self.shared.queue).asleep = false;
            for event in &events {
                let source = lock(&self.shared.sources).get(&event.token()).cloned();
                source.into_iter().for_each(|source| source.set(event));
            }
            self.wake_expired();
            let (new, woken) = {
                let mut queue = lock(&self.shared.queue);
                (take(&mut queue.new), take(&mut queue.woken))
            };
            let new: Vec<_> = new.into_iter().map(|(key, task)| self.add(key, task)).collect();
            new.into_iter().chain(woken).for_each(|key| self.poll(key));
        }
        self.tasks.drain().for_each(|(_, running)| end(running));
    }

    /// Returns how long to wait for events; `None` if the worker ends.
    fn timeout(&self) -> Option<Option<Duration>> {
        let mut queue = lock(&self.shared.queue);
        let is_idle = queue.new.is_empty() && queue.woken.is_empty();
        if queue.end == Some(End::Now) || queue.end.is_some() && self.tasks.is_empty() && is_idle {
            queue.end = Some(End::Now);
            let new = take(&mut queue.new);
            drop(queue);
            drop(new);
            return None;
        }
        queue.asleep = is_idle;
        drop(queue);
        if !is_idle {
            return Some(Some(Duration::ZERO));
        }
        let first = self.timers.first();
        Some(first.map(|(first, _)| first.saturating_duration_since(Instant::now())))
    }

    fn add(&mut self, key: usize, task: Task) -> usize {
        let state = Arc::new(TaskWaker { key, woken: AtomicBool::new(true), shared: self.shared.clone() });
        let waker = state.clone().into();
        self.tasks.insert(key, Running { task, state, waker, deadline: None, timer: None });
        key
    }

    fn poll(&mut self, key: usize) {
        let Some(running) = self.tasks.get_mut(&key) else { return };
        // A wake from now on has the task polled once more.
        running.state.woken.store(false, SeqCst);
        let polled = catch_unwind(AssertUnwindSafe(|| poll(running.task.as_mut(), &running.waker)));
        if let Ok((Poll::Pending, deadline)) = polled {
            running.deadline = deadline;
            self.set_timer(key);
        // A panic ends its own task only.
        } else if let Some(running) = self.tasks.remove(&key) {
            running.timer.into_iter().for_each(|timer| _ = self.timers.remove(&(timer, key)));
            end(running);
        }
    }

    /// Sets the timer of a task, if there is none that is early enough.
    fn set_timer(&mut self, key: usize) {
        let Some(running) = self.tasks.get_mut(&key) else { return };
        let Some(deadline) = running.deadline else { return };
        if running.timer.is_some_and(|timer| timer <= deadline) {
            return;
        }
        running.timer.into_iter().for_each(|timer| _ = self.timers.remove(&(timer, key)));
        running.timer = Some(deadline);
        self.timers.insert((deadline, key));
    }

    fn wake_expired(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((_, key)) = self.timers.first().copied().filter(|(timer, _)| *timer <= now) {
            self.timers.pop_first();
            let Some(running) = self.tasks.get_mut(&key) else { continue };
            running.timer = None;
            if running.deadline.is_some_and(|deadline| deadline <= now) {
                running.waker.wake_by_ref();
            } else {
                self.set_timer(key);
            }
        }
    }
}

/// Drops a task. Its destructors may run foreign code.
fn end(running: Running) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(running)));
}

/// A direction of a source, as a bit of [`Readiness`].
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Direction {
    Read = 1,
    Write = 2,
}

impl Direction {
    const fn bit(self) -> u8 {
        self as u8
    }

    /// The bit that says that the direction has ended, and that no event follows.
    const fn ended(self) -> u8 {
        self.bit() << 2
    }
}

/// What a source can do now without blocking, as far as is known. The system reports each change
/// once, so what an event has reported stays until a call has found that the source would block.
pub(crate) struct Readiness {
    bits: AtomicU8,
    /// The bits that each event sets, whatever it reports.
    always: u8,
    waiting: Mutex<Option<Waker>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new(0)
    }
}

/// Both directions.
const BOTH: u8 = Direction::Read.bit() | Direction::Write.bit();

impl Readiness {
    /// Both directions are tried before anything is known.
    const fn new(always: u8) -> Self {
        Self { bits: AtomicU8::new(BOTH), always, waiting: Mutex::new(None) }
    }

    fn set(&self, event: &Event) {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        self.set_bits(
            self.always
                | bit(event.is_readable(), Direction::Read.bit())
                | bit(event.is_writable(), Direction::Write.bit())
                | bit(event.is_read_closed() || event.is_error(), Direction::Read.ended())
                | bit(event.is_write_closed() || event.is_error(), Direction::Write.ended()),
        );
    }

    fn set_bits(&self, bits: u8) {
        self.bits.fetch_or(bits, SeqCst);
        let waiting = lock(&self.waiting).take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Reports that `direction` is ready.
    pub(crate) fn report(&self, direction: Direction) {
        self.set_bits(direction.bit());
    }

    fn is(&self, direction: Direction) -> bool {
        self.bits.load(SeqCst) & (direction.bit() | direction.ended()) != 0
    }

    /// Returns what the source is ready for. If that is nothing, `waker` is woken at the next change.
    pub(crate) fn poll(&self, waker: &Waker, read: bool, write: bool) -> Ready {
        let former = lock(&self.waiting).replace(waker.clone());
        drop(former);
        Ready { read: read && self.is(Direction::Read), write: write && self.is(Direction::Write) }
    }

    /// Calls `act` if `direction` is ready. `act` returns also whether it may succeed again at once.
    pub(crate) fn try_io<R>(
        &self,
        direction: Direction,
        mut act: impl FnMut() -> io::Result<(R, bool)>,
    ) -> io::Result<R> {
        while self.is(direction) {
            // An event that comes during the call sets the bit again.
            self.bits.fetch_and(!direction.bit(), SeqCst);
            match act() {
                Ok((result, false)) => return Ok(result),
                Ok((result, true)) => {
                    self.bits.fetch_or(direction.bit(), SeqCst);
                    return Ok(result);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.bits.fetch_and(!direction.ended(), SeqCst);
                }
                Err(error) => {
                    self.bits.fetch_or(direction.bit(), SeqCst);
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// A source of events that a worker watches.
pub(crate) struct Watched<S: Source> {
    source: S,
    readiness: Arc<Readiness>,
    token: Token,
    worker: Worker,
}

impl<S: Source> Watched<S> {
    /// Watches a socket.
    pub(crate) fn socket(worker: &Worker, source: S) -> io::Result<Self> {
        Self::new(worker, source, Interest::READABLE | Interest::WRITABLE, 0)
    }

    pub(crate) fn listener(worker: &Worker, source: S) -> io::Result<Self> {
        Self::new(worker, source, Interest::READABLE, 0)
    }

    /// Watches a source that may have to write before it can read, and to read before it can write.
    pub(crate) fn entangled(worker: &Worker, source: S) -> io::Result<Self> {
        Self::new(worker, source, Interest::READABLE | Interest::WRITABLE, BOTH)
    }

    fn new(worker: &Worker, mut source: S, interest: Interest, always: u8) -> io::Result<Self> {
        let shared = &worker.0;
        let token = Token(shared.last.fetch_add(1, Relaxed) + 1);
        let readiness = Arc::new(Readiness::new(always));
        lock(&shared.sources).insert(token, readiness.clone());
        if let Err(error) = shared.registry.register(&mut source, token, interest) {
            lock(&shared.sources).remove(&token);
            return Err(error);
        }
        Ok(Self { source, readiness, token, worker: worker.clone() })
    }

    pub(crate) const fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }
}

impl<S: Source> Drop for Watched<S> {
    fn drop(&mut self) {
        let shared = &self.worker.0;
        let _ = shared.registry.deregister(&mut self.source);
        let former = lock(&shared.sources).remove(&self.token);
        drop(former);
    }
}

impl<S: Source> Deref for Watched<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.source
    }
}

impl<S: Source> DerefMut for Watched<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.source
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    fn worker() -> Worker {
        Worker::start("test").expect("there is a thread")
    }

    fn results<T>() -> (Sender<T>, impl Fn(usize) -> Vec<T>) {
        let (send, receive): (_, Receiver<T>) = channel();
        let take = move |count| {
            let next = |_| receive.recv_timeout(Duration::from_secs(10)).expect("it comes");
            (0..count).map(next).collect()
        };
        (send, take)
    }

    #[test]
    fn timers_expire_in_order_and_can_move() {
        let (worker, (send, take)) = (worker(), results());
        for pause in [80, 20, 50, 0, 65, 35] {
            let send = send.clone();
            worker.spawn(Box::pin(async move {
                sleep(Duration::from_millis(pause)).await;
                send.send(pause).expect("it is received");
            }));
        }
        assert_eq!(take(6), [0, 20, 35, 50, 65, 80]);
        // A timer that moves forward, one that moves back, and one that is not needed any more.
        let begin = Instant::now();
        for deadlines in [[60, 30], [30, 60], [30, 0]] {
            let (send, mut polls) = (send.clone(), 0);
            worker.spawn(Box::pin(poll_fn(move |cx| {
                if polls < 2 {
                    wake_at(begin + Duration::from_millis(deadlines[polls]));
                    polls += 1;
                    if polls == 1 {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                send.send(deadlines[1]).expect("it is received");
                Poll::Ready(())
            })));
        }
        assert_eq!(take(3), [0, 30, 60]);
        assert!(begin.elapsed() >= Duration::from_millis(60));
    }

    #[test]
    fn no_wake_is_lost_while_a_task_runs() {
        let (worker, (send, take)) = (worker(), results());
        let (waker, polls) = (Arc::new(Mutex::new(None::<Waker>)), Arc::new(AtomicUsize::new(0)));
        let (given, count) = (waker.clone(), polls.clone());
        worker.spawn(Box::pin(poll_fn(move |cx| {
            *lock(&given) = Some(cx.waker().clone());
            // Other threads wake the task in any part of this.
            let seen = count.load(SeqCst);
            if seen < 20_000 {
                return Poll::Pending;
            }
            send.send(()).expect("it is received");
            Poll::Ready(())
        })));
        while lock(&waker).is_none() {
            thread::yield_now();
        }
        let waking: Vec<_> = (0..4)
            .map(|_| {
                let (waker, polls) = (waker.clone(), polls.clone());
                thread::spawn(move || {
                    for _ in 0..5_000 {
                        polls.fetch_add(1, SeqCst);
                        let waker = lock(&waker).clone();
                        waker.expect("it was given").wake();
                    }
                })
            })
            .collect();
        waking.into_iter().for_each(|thread| thread.join().expect("no panic"));
        take(1);
    }

    #[test]
    fn a_panic_ends_its_own_task_only() {
        struct PanicsOnDrop;

        impl Drop for PanicsOnDrop {
            fn drop(&mut self) {
                panic!("a test");
            }
        }

        let (worker, (send, take)) = (worker(), results());
        worker.spawn(Box::pin(async { panic!("a test") }));
        let held = PanicsOnDrop;
        worker.spawn(Box::pin(async move { drop(held) }));
        let ended = send.clone();
        worker.spawn(Box::pin(async move {
            sleep(Duration::from_millis(10)).await;
            ended.send(1).expect("it is received");
        }));
        assert_eq!(take(1), [1]);
    }

    #[test]
    fn a_worker_that_ends_drops_its_tasks_or_waits_for_the_last() {
        struct Told(Sender<&'static str>, &'static str);

        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(self.1).expect("it is received");
            }
        }

        let (send, take) = results();
        let stopped = worker();
        let told = Told(send.clone(), "stopped");
        stopped.spawn(Box::pin(async move {
            pending::<()>().await;
            drop(told);
        }));
        stopped.stop();
        assert_eq!(take(1), ["stopped"]);
        let told = Told(send.clone(), "too late");
        stopped.spawn(Box::pin(async move { drop(told) }));
        assert_eq!(take(1), ["too late"]);

        let finishing = worker();
        let told = Told(send, "finished");
        finishing.spawn(Box::pin(async move {
            sleep(Duration::from_millis(30)).await;
            drop(told);
        }));
        finishing.finish();
        assert_eq!(take(1), ["finished"]);
    }

    #[test]
    fn readiness_that_comes_during_a_call_is_kept() {
        let readiness = Readiness::default();
        let would_block = || io::Error::from(io::ErrorKind::WouldBlock);
        assert_eq!(readiness.try_io(Direction::Read, || Ok((1, true))).ok(), Some(1));
        let mut calls = 0;
        let result = readiness.try_io(Direction::Read, || {
            calls += 1;
            if calls == 1 {
                // What arrives now is not seen by this call, but by the next one.
                readiness.report(Direction::Read);
                return Err::<(i32, bool), _>(would_block());
            }
            Ok((2, false))
        });
        assert_eq!((result.ok(), calls), (Some(2), 2));
        // The last call has found everything.
        let result = readiness.try_io::<()>(Direction::Read, || unreachable!("it would block"));
        assert_eq!(result.expect_err("it would block").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(readiness.poll(Waker::noop(), true, true), Ready { read: false, write: true });
    }
}
