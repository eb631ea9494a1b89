//! Tables of protocol names: [spec](crate::spec) section 9.8.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::wire::{MAX_NAMES, Name};

/// The names of one direction, in the order of their entry.
#[derive(Debug, Default)]
pub(super) struct Names {
    entered: Vec<Arc<str>>,
}

impl Names {
    /// The peer names a protocol. `Err` is a breach of the table's rules.
    pub(super) fn resolve(&mut self, name: Name<'_>) -> Result<Option<Arc<str>>, &'static str> {
        match name {
            Name::None => Ok(None),
            Name::Literal(name) => Ok(Some(Arc::from(name))),
            Name::Index(index) => usize::try_from(index)
                .ok()
                .and_then(|index| self.entered.get(index).cloned())
                .map(Some)
                .ok_or("a name's index that nothing was entered at"),
            Name::Entered(_) if self.entered.len() >= MAX_NAMES => Err("a name entered into a full table"),
            Name::Entered(name) => {
                let name: Arc<str> = Arc::from(name);
                self.entered.push(name.clone());
                Ok(Some(name))
            }
        }
    }

    /// One shared copy of `name`, if it was entered before.
    pub(super) fn shared(&self, name: &str) -> Option<Arc<str>> {
        self.entered.iter().find(|entered| &***entered == name).cloned()
    }

    /// How to name `name` to the peer. Follow it with [`Names::sent`] once it is written.
    pub(super) fn refer<'a>(&self, name: Option<&'a str>) -> Name<'a> {
        let Some(name) = name else { return Name::None };
        match self.entered.iter().position(|entered| &**entered == name) {
            Some(index) => Name::Index(index as u64),
            None if self.entered.len() < MAX_NAMES => Name::Entered(name),
            None => Name::Literal(name),
        }
    }

    /// What [`Names::refer`] said of `name` was written.
    pub(super) fn sent(&mut self, name: Option<&Arc<str>>) {
        if let Some(name) = name
            && matches!(self.refer(Some(name)), Name::Entered(_))
        {
            self.entered.push(name.clone());
        }
    }
}
