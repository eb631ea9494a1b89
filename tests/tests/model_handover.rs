//! The hand-over of a connection's work between its task and helpers (`peermux-core/src/driver/handover.rs`), in all interleavings of two and three threads.
#![allow(missing_docs, reason = "a test")]

use std::sync::Arc;
use std::task::{Wake, Waker};

use handover::{Handover, Work};
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

/// The types of the model checker, in place of those of the standard library.
mod sync {
    use std::ops::{Deref, DerefMut};
    use std::sync::{LockResult, TryLockError, TryLockResult};

    pub(crate) use loom::sync::atomic::Ordering::SeqCst;
    use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
    pub(crate) use loom::sync::atomic::{AtomicBool, fence};

    /// A mutex whose flag the checker sees. That of loom does not let another thread fail in `try_lock` in the midst of a critical section.
    #[derive(Default)]
    pub(crate) struct Mutex<T> {
        is_locked: AtomicBool,
        data: std::sync::Mutex<T>,
    }

    pub(crate) struct MutexGuard<'a, T> {
        is_locked: &'a AtomicBool,
        /// `None` while the guard is dropped.
        data: Option<std::sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            loop {
                if let Ok(guard) = self.try_lock() {
                    return Ok(guard);
                }
                loom::thread::yield_now();
            }
        }

        pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
            // The orderings that the standard library promises, and no stronger ones.
            match self.is_locked.compare_exchange(false, true, Acquire, Relaxed) {
                Ok(_) => {
                    let data = Some(self.data.try_lock().expect("the flag says that it is free"));
                    Ok(MutexGuard { is_locked: &self.is_locked, data })
                }
                Err(_) => Err(TryLockError::WouldBlock),
            }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.data.as_ref().expect("it is not dropped yet")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.data.as_mut().expect("it is not dropped yet")
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.data = None;
            self.is_locked.store(false, Release);
        }
    }

    /// No thread of a model panics.
    pub(crate) fn clear_poison<T>(_: &Mutex<T>) {}
}

#[path = "../../peermux-core/src/driver/handover.rs"]
#[expect(dead_code, reason = "the model does not end the owner")]
mod handover;

/// Work that helpers have left to the owner.
#[derive(Default)]
struct Left(usize);

impl Work for Left {
    fn panicked(&mut self) {}
}

/// The owner's task.
#[derive(Default)]
struct Task {
    is_woken: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        // The checker may order a plain store before an earlier exchange.
        self.is_woken.swap(true, SeqCst);
    }
}

struct Owner<'a> {
    handover: &'a Handover<Left>,
    task: Arc<Task>,
    /// The last poll has found a helper at work.
    waits: bool,
}

impl<'a> Owner<'a> {
    /// The task is spawned, and so is to be polled.
    fn new(handover: &'a Handover<Left>) -> Self {
        let task = Task { is_woken: AtomicBool::new(true) };
        Self { handover, task: Arc::new(task), waits: true }
    }

    /// Polls if the task is woken. Returns whether it was.
    fn poll(&mut self) -> bool {
        if !self.task.is_woken.swap(false, SeqCst) {
            return false;
        }
        let work = self.handover.enter(&Waker::from(self.task.clone()));
        self.waits = work.is_none();
        if let Some(mut work) = work {
            work.0 = 0;
        }
        true
    }
}

/// Runs `helpers` beside an owner that is polled twice meanwhile, if it is woken. When the helpers have left, the owner is polled as long as it is woken, and no more. Then
/// it must have come to the work, and there must be nothing in it.
fn check<const N: usize>(helpers: [fn(&Handover<Left>); N]) {
    let mut model = loom::model::Builder::new();
    // All interleavings of two threads. Of three, those in which a thread is interrupted three times at most, or as LOOM_MAX_PREEMPTIONS says: all would take minutes.
    if N > 1 && model.preemption_bound.is_none() {
        model.preemption_bound = Some(3);
    }
    model.check(move || {
        let handover = Arc::new(Handover::<Left>::default());
        let helpers = helpers.map(|help| {
            let handover = handover.clone();
            thread::spawn(move || help(&handover))
        });
        let mut owner = Owner::new(&handover);
        owner.poll();
        owner.poll();
        for helper in helpers {
            helper.join().expect("no thread panics");
        }
        while owner.poll() {}
        assert!(!owner.waits, "the owner has found a helper at work, and is not woken");
        assert_eq!(handover.lock().0, 0, "a helper has left something, and the owner is not woken");
    });
}

/// Does what there is to do, and leaves nothing.
fn does_all(handover: &Handover<Left>) {
    let helper = handover.help();
    drop(helper.enter());
}

/// Leaves something, unless it finds another at work.
fn leaves_some(handover: &Handover<Left>) {
    let helper = handover.help();
    if let Some(mut work) = helper.enter() {
        work.0 += 1;
        helper.call();
    }
}

#[test]
fn an_owner_that_finds_a_helper_at_work_is_woken_when_it_leaves() {
    check([does_all]);
}

#[test]
fn an_owner_that_finds_one_of_two_helpers_at_work_is_woken_when_it_leaves() {
    check([does_all, does_all]);
}

#[test]
fn an_owner_that_is_called_finds_what_a_helper_has_left() {
    check([leaves_some]);
}

#[test]
fn an_owner_that_is_called_finds_what_one_of_two_helpers_has_left() {
    check([leaves_some, does_all]);
}
