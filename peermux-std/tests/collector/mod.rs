//! A subscriber that keeps all that it is told as text.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Clones collect together.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    /// The fields of each span, by its id.
    spans: HashMap<u64, Fields>,
    /// The span of each event, and what it says.
    events: Vec<(u64, String)>,
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spans that have `text` among their fields, in the order of their beginning.
    pub fn spans(&self, text: &str) -> Vec<u64> {
        let collected = self.lock();
        let mut ids: Vec<_> =
            collected.spans.iter().filter(|(_, fields)| fields.0.contains(text)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// What the events of `span` say, one after the other.
    pub fn events(&self, span: u64) -> Vec<String> {
        self.lock().events.iter().filter(|(of, _)| *of == span).map(|(_, event)| event.clone()).collect()
    }

    /// Everything.
    pub fn text(&self) -> String {
        let collected = self.lock();
        let spans = collected.spans.values().map(|fields| &fields.0);
        let all: Vec<_> = spans.chain(collected.events.iter().map(|(_, event)| event)).map(String::as_str).collect();
        all.join("\n")
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "peermux"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(span.metadata().name().into());
        span.record(&mut fields);
        let mut collected = self.lock();
        let id = collected.spans.len() as u64 + 1;
        collected.spans.insert(id, fields);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        values.record(self.lock().spans.get_mut(&span.into_u64()).expect("it was made"));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        let span = event.parent().map_or(0, Id::into_u64);
        self.lock().events.push((span, fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
