//! A video player: reads one file from its start at the video's bit rate, and notices when it has to wait.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::job::Reader;
use crate::link::{Link, Urgency};
use crate::rpc::FileEntry;

/// As much as is asked for at once.
const SEGMENT: usize = 256 * 1024;
/// Playing (again) begins with so much in hand.
const STARTS_WITH: Duration = Duration::from_millis(200);
/// No more than so much is read ahead.
const READS_AHEAD: Duration = Duration::from_millis(500);

/// How it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Played {
    /// From the click to the first byte.
    pub first_byte: Duration,
    /// From the click to the first picture.
    pub started: Duration,
    pub stalls: u32,
    pub stalled: Duration,
}

/// Plays the file at `rate` bytes per second.
pub async fn play(link: &Link, video: &FileEntry, rate: f64, on_first_byte: impl FnOnce()) -> Result<Played> {
    let mut on_first_byte = Some(on_first_byte);
    let mut reader = Reader::new(link, Urgency::Video);
    let mut screen = Screen::new(Instant::now(), rate, video.length as f64);
    let mut segments = video
        .sectors()
        .flat_map(|(root, _, length)| {
            (0..length).step_by(SEGMENT).map(move |offset| (root, offset, SEGMENT.min(length - offset)))
        })
        .peekable();
    loop {
        let (asked, bytes) = reader.asked();
        let ahead = screen.ahead(Instant::now()) + bytes as f64;
        let wants_more = asked < reader.most() && ahead < READS_AHEAD.as_secs_f64() * rate;
        if wants_more && let Some((root, offset, length)) = segments.next() {
            reader.ask(root, offset, length).await?;
        } else if asked > 0 {
            reader
                .receive(|n| {
                    if let Some(tell) = on_first_byte.take() {
                        tell();
                    }
                    screen.receive(Instant::now(), n as f64);
                })
                .await?;
        } else if segments.peek().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        } else {
            break;
        }
    }
    reader.done().await?;
    Ok(screen.played)
}

/// Where the playing stands. It is worked out from what arrived when, so it needs no clock of its own.
struct Screen {
    clicked: Instant,
    rate: f64,
    length: f64,
    received: f64,
    shown: f64,
    /// When `shown` was true.
    at: Instant,
    state: State,
    played: Played,
}

#[derive(PartialEq)]
enum State {
    Starting,
    Playing,
    Stalled { since: Instant },
}

impl Screen {
    fn new(clicked: Instant, rate: f64, length: f64) -> Self {
        Self {
            clicked,
            rate,
            length,
            received: 0.0,
            shown: 0.0,
            at: clicked,
            state: State::Starting,
            played: Played::default(),
        }
    }

    /// How many bytes are in hand.
    fn ahead(&mut self, now: Instant) -> f64 {
        self.show(now);
        self.received - self.shown
    }

    fn show(&mut self, now: Instant) {
        if self.state == State::Playing {
            let wanted = self.shown + self.rate * (now - self.at).as_secs_f64();
            if wanted > self.received && self.received < self.length {
                let last_picture = self.at + Duration::from_secs_f64((self.received - self.shown) / self.rate);
                self.state = State::Stalled { since: last_picture };
                self.played.stalls += 1;
            }
            self.shown = wanted.min(self.received);
        }
        self.at = now;
    }

    fn receive(&mut self, now: Instant, n: f64) {
        self.show(now);
        if self.received == 0.0 {
            self.played.first_byte = now - self.clicked;
        }
        self.received += n;
        let enough = (STARTS_WITH.as_secs_f64() * self.rate).min(self.length - self.shown);
        if self.received - self.shown < enough {
            return;
        }
        match self.state {
            State::Playing => return,
            State::Starting => self.played.started = now - self.clicked,
            State::Stalled { since } => self.played.stalled += now - since,
        }
        self.state = State::Playing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_segment_is_one_stall_of_the_right_length() {
        let clicked = Instant::now();
        let ms = Duration::from_millis;
        let mut screen = Screen::new(clicked, 1000.0, 2000.0);
        screen.receive(clicked + ms(50), 500.0);
        // The picture stands still from 550 ms on.
        screen.receive(clicked + ms(800), 100.0);
        screen.receive(clicked + ms(900), 1400.0);
        assert_eq!(screen.ahead(clicked + ms(900)), 1500.0);
        let played = screen.played;
        assert_eq!((played.first_byte, played.started, played.stalls), (ms(50), ms(50), 1));
        assert_eq!(played.stalled.as_millis(), 350);
    }
}
