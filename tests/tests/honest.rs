//! Two honest peers whose applications write, read, finish, stop, reset and drop at every possible moment, as fast as they can: the connection is never closed for it
//! (`docs/spec.md` sections 11.2 and 18.2).

use std::time::Duration;

use peermux_core::code::ErrorCode;
use peermux_core::error::{ReadError, WriteError};
use peermux_core::wire::Priority;
use peermux_core::{Config, Role, StreamId};
use peermux_tests::{Pair, PairBuilder, rng};

/// Exchanges in all.
fn exchanges() -> u64 {
    if std::env::var_os("PEERMUX_LONG").is_some() { 1_000_000 } else { 24_000 }
}

/// How an application treats its streams.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// Anything at any moment.
    Wild,
    /// A client that reads the answer and drops the stream without finishing its own half; a server that reads the request, answers, finishes and drops.
    Careless,
    /// Half of the requests are cancelled right after they were written.
    Cancels,
    /// The server refuses everything.
    Refuses,
    /// Each side asks for another priority all the time.
    Fickle,
}

/// Streams of one side that its application holds.
struct App {
    role: Role,
    held: Vec<StreamId>,
    opened: u64,
}

fn act(pair: &mut Pair, app: &mut App, index: usize, habit: Habit, dice: &mut impl FnMut(u64) -> u64) {
    let (role, id) = (app.role, app.held[index]);
    let conn = &mut pair.side(role).conn;
    let mut buffer = [0; 4096];
    let drop_it = match habit {
        Habit::Wild => match dice(12) {
            0..=2 => matches!(conn.send_stream(id).write(&buffer[..dice(3_000) as usize]), Err(WriteError::Stopped(_))),
            3..=5 => matches!(conn.recv_stream(id).read(&mut buffer), Ok(0) | Err(ReadError::Reset(_))),
            6 => conn.send_stream(id).finish().is_err(),
            7 => {
                conn.recv_stream(id).stop(ErrorCode::Application(1));
                false
            }
            8 => {
                conn.send_stream(id).reset(ErrorCode::Application(2));
                false
            }
            9 => {
                conn.recv_stream(id)
                    .request_priority(Priority::from_urgency(dice(8) as u8).with_incremental(dice(2) == 0));
                false
            }
            10 => {
                conn.refuse(id, ErrorCode::REFUSED);
                true
            }
            _ => true,
        },
        Habit::Careless if role == Role::Initiator => {
            !matches!(conn.recv_stream(id).read(&mut buffer), Err(ReadError::Blocked) | Ok(1..))
        }
        Habit::Careless => match conn.recv_stream(id).read(&mut buffer) {
            Err(ReadError::Blocked) => false,
            _ => {
                let _ = conn.send_stream(id).write(&buffer[..100]);
                let _ = conn.send_stream(id).finish();
                true
            }
        },
        Habit::Cancels if role == Role::Initiator && index.is_multiple_of(2) => true,
        Habit::Cancels => match conn.recv_stream(id).read(&mut buffer) {
            Err(ReadError::Blocked) => false,
            Ok(1..) if role == Role::Responder => {
                let _ = conn.send_stream(id).write(&buffer[..100]);
                let _ = conn.send_stream(id).finish();
                false
            }
            Ok(1..) => false,
            _ => true,
        },
        Habit::Refuses if role == Role::Responder => {
            conn.refuse(id, ErrorCode::UNKNOWN_PROTOCOL);
            true
        }
        Habit::Refuses => !matches!(conn.recv_stream(id).read(&mut buffer), Err(ReadError::Blocked)),
        Habit::Fickle => {
            conn.recv_stream(id).request_priority(Priority::from_urgency(dice(8) as u8).with_incremental(dice(2) == 0));
            let _ = conn.send_stream(id).write(b"x");
            let _ = conn.recv_stream(id).read(&mut buffer);
            // One stream in a while ends, or nothing would be opened any more.
            dice(200) == 0
        }
    };
    if drop_it {
        let id = app.held.swap_remove(index);
        conn.release(id);
    }
}

fn run(habit: Habit, latency: Duration, config: &Config, exchanges: u64, seed: u64) {
    let mut pair = PairBuilder {
        initiator_config: config.clone(),
        responder_config: config.clone(),
        latency,
        seed,
        ..PairBuilder::default()
    }
    .establish();
    let mut random = rng(seed);
    let mut dice = move |sides: u64| random.uniform(0, sides);
    let mut apps = [Role::Initiator, Role::Responder].map(|role| App { role, held: Vec::new(), opened: 0 });
    let at_once = config.max_streams.min(200) as usize;
    while apps[0].opened + apps[1].opened < exchanges {
        for app in &mut apps {
            let opens = app.role == Role::Initiator || matches!(habit, Habit::Wild | Habit::Fickle);
            while opens && app.held.len() < at_once {
                let conn = &mut pair.side(app.role).conn;
                let id = conn
                    .open_stream(
                        Some("test/honest"),
                        Priority::from_urgency(dice(8) as u8).with_incremental(dice(2) == 0),
                    )
                    .expect("it opens");
                let _ = conn.send_stream(id).write(&[1; 16]);
                app.held.push(id);
                app.opened += 1;
            }
            while let Some(id) = pair.side(app.role).conn.accept_stream() {
                app.held.push(id);
            }
            for _ in 0..app.held.len().div_ceil(2) {
                if !app.held.is_empty() {
                    let index = dice(app.held.len() as u64) as usize;
                    act(&mut pair, app, index, habit, &mut dice);
                }
            }
        }
        pair.step(pair.now + Duration::from_secs(1));
        for side in [&mut pair.initiator, &mut pair.responder] {
            assert_eq!(side.conn.close_reason(), None, "{habit:?}, {latency:?}, seed {seed}");
            side.trace.clear();
            side.events.clear();
        }
    }
    // Once all let go, nothing is left behind.
    for app in &mut apps {
        app.held.drain(..).for_each(|id| pair.side(app.role).conn.release(id));
    }
    for _ in 0..100 {
        pair.run_for(Duration::from_millis(500));
        for side in [&mut pair.initiator, &mut pair.responder] {
            while let Some(id) = side.conn.accept_stream() {
                side.conn.release(id);
            }
        }
        if pair.initiator.conn.stream_count() + pair.responder.conn.stream_count() == 0 {
            break;
        }
    }
    for side in [&pair.initiator, &pair.responder] {
        assert_eq!(side.conn.close_reason(), None, "{habit:?}, {latency:?}, seed {seed}");
        assert_eq!((side.conn.stream_count(), side.conn.queued(), side.conn.unread()), (0, 0, 0), "{habit:?}");
    }
}

#[test]
fn no_application_can_make_an_honest_connection_close() {
    let small = Config { keep_alive_interval: None, max_streams: 16, ..Config::default() };
    let usual = Config { keep_alive_interval: None, ..Config::default() };
    let habits = [Habit::Wild, Habit::Careless, Habit::Cancels, Habit::Refuses, Habit::Fickle];
    let latencies = [Duration::ZERO, Duration::from_millis(20)];
    let each = exchanges() / (habits.len() * latencies.len() * 2) as u64;
    let mut seed = 1;
    for habit in habits {
        for latency in latencies {
            for config in [&small, &usual] {
                run(habit, latency, config, each, seed);
                seed += 1;
            }
        }
    }
}
