//! What the story is about: the files, the video, the link.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::report::megabytes;
use crate::rpc::SECTOR;
use crate::store::blocking;
use crate::transfer::{Local, OnBytes};
use crate::{cli, gossip, relay};

/// The click on the video comes when the transfers are in full swing.
pub const CLICK_AFTER: Duration = Duration::from_millis(300);
/// How much of the video there is.
const VIDEO: Duration = Duration::from_secs(4);

/// What is to be done, the same for each way.
pub struct Plan {
    pub uploads: Vec<Local>,
    /// Stored on the host before the story begins.
    pub archive: Local,
    pub video: Local,
    /// Bytes per second.
    pub video_rate: f64,
    pub jobs: usize,
    pub path: Option<relay::Path>,
}

/// Makes or reads the files.
pub async fn prepare(demo: cli::Demo, dir: &Path) -> Result<Plan> {
    let mut made = Made { dir: dir.into(), seed: 0 };
    let mut uploads = Vec::new();
    if demo.files.is_empty() {
        for number in 1..=6 {
            let length = usize::from(demo.size) * (1 << 20) / 6;
            uploads.push(made.file(&format!("photos-{number}.bin"), length).await?);
        }
    }
    for path in &demo.files {
        uploads.push(Local::scan(path, silent()).await?);
    }
    for (i, local) in uploads.iter().enumerate() {
        if uploads[..i].iter().any(|other| other.entry.name == local.entry.name) {
            return Err(Error::new(format!("two of the files are called {:?}", local.entry.name)));
        }
    }
    let uploaded: u64 = uploads.iter().map(|local| local.entry.length).sum();
    let archive = (uploaded as usize / 3).clamp(SECTOR, 64 * SECTOR);
    let video = ((VIDEO.as_secs_f64() * demo.video_rate) as usize).min(64 * SECTOR);
    Ok(Plan {
        uploads,
        archive: made.file("archive-of-last-year.bin", archive).await?,
        video: made.file("video.bin", video).await?,
        video_rate: demo.video_rate,
        jobs: demo.jobs.into(),
        path: (!demo.direct).then_some(relay::Path { round_trip: demo.rtt, rate: demo.rate }),
    })
}

/// Says what is going to happen.
pub fn introduce(plan: &Plan) {
    let all = |locals: &[Local]| locals.iter().map(|local| local.entry.length).sum::<u64>();
    say!("A renter and its host, three times the same story:");
    say!(
        "- {} files ({}) go up, and each comes back down once the host has all of it;",
        plan.uploads.len(),
        megabytes(all(&plan.uploads)),
    );
    say!("- an archive ({}) that the host has had for a while comes down;", megabytes(plan.archive.entry.length));
    say!(
        "- {} ms in, somebody plays a video ({} at {:.0} Mbit/s) from the host;",
        CLICK_AFTER.as_millis(),
        megabytes(plan.video.entry.length),
        plan.video_rate * 8e-6,
    );
    say!("- every {} ms each side has a word of gossip for the other.", gossip::INTERVAL.as_millis());
    say!("A file is moved in sectors of {} MiB, up to {} at once each way.", SECTOR >> 20, plan.jobs);
    match plan.path {
        Some(path) => {
            say!(
                "Between them: {:.1} ms round trip, {:.0} Mbit/s each way.",
                path.round_trip.as_secs_f64() * 1e3,
                path.rate * 8e-6
            );
            let down = all(&plan.uploads) + plan.archive.entry.length + plan.video.entry.length;
            say!("No way can be faster than {:.2} s.", down as f64 / path.rate);
            if plan.video_rate > path.rate {
                say!("The video needs more than the link has: it cannot play without stalls.");
            }
        }
        None => say!("Between them: loopback, nothing else."),
    }
}

/// Makes files of bytes that do not compress, the same ones every time.
struct Made {
    dir: PathBuf,
    seed: u64,
}

impl Made {
    async fn file(&mut self, name: &str, length: usize) -> Result<Local> {
        self.seed += 1;
        let (path, seed) = (self.dir.join(name), self.seed);
        let made = path.clone();
        blocking(move || std::fs::write(&made, noise(seed, length)).context(|| format!("writing {}", made.display())))
            .await?;
        Local::scan(&path, silent()).await
    }
}

/// SplitMix64.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed << 32;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// For those who do not watch.
pub fn silent() -> OnBytes {
    Arc::new(|_| {})
}
