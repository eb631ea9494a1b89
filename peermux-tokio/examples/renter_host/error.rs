//! One error for the whole example: a sentence that names what failed, where and with whom.

use std::{fmt, io};

/// What went wrong, and whether trying again may help.
#[derive(Debug)]
pub struct Error {
    text: String,
    /// The connection broke or stood still: another one may succeed.
    retry: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that the same attempt would meet again.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), retry: false }
    }

    /// An error of the connection, which a new connection may not meet.
    pub fn lost(text: impl Into<String>) -> Self {
        Self { text: text.into(), retry: true }
    }

    pub fn may_retry(&self) -> bool {
        self.retry
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// Puts in front of an error what was being done when it came.
pub trait Context<T> {
    /// For files and the like: the same attempt would fail again.
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;

    /// For connections: an I/O error may go away with a new one.
    fn on_link(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(format!("{}: {}", doing(), say(&e))))
    }

    fn on_link(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::lost(format!("{}: {}", doing(), say(&e))))
    }
}

impl<T> Context<T> for Result<T> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error { text: format!("{}: {}", doing(), e.text), retry: e.retry })
    }

    fn on_link(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.context(doing)
    }
}

/// An I/O error in words: without the "(os error 2)" that helps nobody.
fn say(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_string(),
        None => text,
    }
}
