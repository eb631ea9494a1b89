//! What `handover.rs` is built of. Its model has a module of the same name with the types of a model checker.

pub(crate) use std::sync::atomic::Ordering::SeqCst;
pub(crate) use std::sync::atomic::{AtomicBool, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) fn clear_poison<T>(mutex: &Mutex<T>) {
    mutex.clear_poison();
}
