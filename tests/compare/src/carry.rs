//! A link that takes time and has a rate: one thread carries packets between two TUN interfaces.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::process::setpriority_process;
use rustix::thread::set_current_timer_slack;
use tun_rs::SyncDevice;

use crate::metric::Rate;
use crate::process::keep_to_network;

/// The header of Ethernet, in bytes. TUN packets have none, but take their time as if they had.
const ETHERNET: usize = 14;

/// What the kernel says before each packet, in bytes: virtio's header, which tells of packets that go as one.
const VIRTIO: usize = 10;

/// Packets that are taken from one end before the other has its turn.
const TURN: usize = 64;

/// One way.
struct Way {
    from: usize,
    delay: Duration,
    rate: Option<Rate>,
    /// When the last bit of all packets so far has left the sender's end.
    free: Instant,
    /// Packets, and when they arrive.
    packets: VecDeque<(Instant, Vec<u8>)>,
}

impl Way {
    /// A packet leaves after those before it, unless the queue is full: a queue holds what leaves in a round trip.
    fn push(&mut self, now: Instant, packet: &[u8]) {
        if self.free.saturating_duration_since(now) > 2 * self.delay {
            return;
        }
        let takes = self.rate.map_or(Duration::ZERO, |rate| rate.time_for(on_the_wire(packet)));
        self.free = self.free.max(now) + takes;
        self.packets.push_back((self.free + self.delay, packet.to_vec()));
    }

    /// A packet that has arrived.
    fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.due().filter(|due| *due <= now)?;
        self.packets.pop_front().map(|(_, packet)| packet)
    }

    fn due(&self) -> Option<Instant> {
        self.packets.front().map(|(due, _)| *due)
    }
}

/// The bytes that a packet is on a wire; those of several, if it is what several go as.
fn on_the_wire(packet: &[u8]) -> usize {
    let field = |at| packet.get(at..at + 2).map_or(0, |bytes| usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])));
    let (headers, segment) = (field(2), field(4));
    let len = packet.len().saturating_sub(VIRTIO);
    let packets = if segment == 0 { 1 } else { len.saturating_sub(headers).div_ceil(segment).max(1) };
    len + ETHERNET + (packets - 1) * (headers + ETHERNET)
}

/// Carries packets between the devices, with half of `round_trip` each way, until a device is gone.
pub(crate) fn carry(devices: [SyncDevice; 2], round_trip: Duration, rate: Option<Rate>) -> io::Result<()> {
    for device in &devices {
        device.set_nonblocking(true)?;
    }
    let way = |from| Way { from, delay: round_trip / 2, rate, free: Instant::now(), packets: VecDeque::new() };
    let mut ways = [way(0), way(1)];
    thread::spawn(move || {
        // All of these make it more exact, and none is needed.
        let _ = keep_to_network();
        let _ = setpriority_process(None, -20);
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let mut buffer = vec![0; 1 << 16];
        // Without a device there is nothing to carry, and nobody to tell.
        while step(&devices, &mut ways, &mut buffer).is_ok() {}
    });
    Ok(())
}

/// Takes what has been sent, delivers what has arrived, and waits for either.
fn step(devices: &[SyncDevice; 2], ways: &mut [Way; 2], buffer: &mut [u8]) -> io::Result<()> {
    let mut busy = false;
    for way in ways.iter_mut() {
        for _ in 0..TURN {
            match read(&devices[way.from], &mut *buffer) {
                Ok(len) => way.push(Instant::now(), &buffer[..len]),
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
            busy = true;
        }
        let now = Instant::now();
        while let Some(packet) = way.pop(now) {
            // A packet may be lost, as on any link.
            let _ = write(&devices[1 - way.from], &packet);
            busy = true;
        }
    }
    if busy {
        return Ok(());
    }
    let next = ways.iter().filter_map(Way::due).min();
    let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
    let wait = wait.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut readable = devices.each_ref().map(|device| PollFd::new(device, PollFlags::IN));
    match poll(&mut readable, wait.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
