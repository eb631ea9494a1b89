//! The sizes of records (`docs/spec.md` section 8.2): what is announced, for what, and that it is kept.
//!
//! The reference model holds what each application wrote and what of it stands in records, and so knows what may be announced.

use peermux_core::code::ErrorCode;
use peermux_core::wire::{Priority, QUANTUM};
use peermux_core::{Config, Role};
use peermux_tests::sim::{Cut, Opening, SPY, Setup, World};
use peermux_tests::{Pair, PairBuilder};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u8, usize),
    Reset(u8),
    Read(u8, usize),
    Send(u8),
    Back,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<u8>(), prop_oneof![0..12usize, 1360..1420usize, 2750..2830usize, 0..40_000usize]).prop_map(|(at, len)| Step::Write(at, len)),
        1 => any::<u8>().prop_map(Step::Reset),
        2 => (any::<u8>(), 0..20_000usize).prop_map(|(at, len)| Step::Read(at, len)),
        4 => (0..6u8).prop_map(Step::Send),
        2 => Just(Step::Back),
    ]
}

/// The initiator writes and resets, the responder reads; every record of both is checked against the model.
fn run(largest: [u8; 2], windows: (u64, u64), fallback: bool, steps: &[Step]) -> Result<(), String> {
    let config = |max_record| Config {
        max_record_quanta: max_record,
        receive_window: windows.0,
        stream_receive_window: windows.1,
        max_streams: 16,
        provider: &SPY,
        ..Config::default()
    };
    let mut setup = Setup::new(1);
    setup.opening = if fallback { Opening::Fallback } else { Opening::Ik };
    setup.configs = largest.map(config);
    setup.capacity = [usize::MAX; 2];
    setup.latency = [std::time::Duration::ZERO; 2];
    (setup.unread, setup.slices, setup.wakers, setup.tamper) = ([0; 2], [false; 2], [false; 2], false);
    let mut world = World::new(setup);
    for at in 0..4 {
        world.open(0, 2, Priority::from_urgency(3).with_incremental(at % 2 == 0))?;
    }
    for step in steps {
        match *step {
            Step::Write(at, len) => {
                world.write(0, usize::from(at) % 4, len, at % 8 > 3)?;
            }
            Step::Reset(at) => {
                let handle = &world.ends[0].handles[usize::from(at) % 4];
                let (uid, id) = (handle.uid, handle.id);
                world.ends[0].conn.send_stream(id).reset(ErrorCode::Application(1));
                let half = &mut world.model.streams[uid].halves[0];
                half.given_up |= !half.fin;
            }
            Step::Read(at, len) => {
                while world.accept(1)?.is_some() {}
                let held = world.ends[1].handles.len();
                if held > 0 {
                    let _ = world.read(1, usize::from(at) % held, len.max(1), false)?;
                }
            }
            Step::Send(records) => {
                for _ in 0..records {
                    world.transmit_one(0)?;
                }
            }
            Step::Back => {
                world.deliver(1, Cut::All, Cut::All)?;
                while world.transmit_one(1)?.is_some() {}
                world.deliver(0, Cut::All, Cut::All)?;
            }
        }
        world.check()?;
    }
    world.heal()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_size_is_announced_for_payload_that_is_held_and_may_be_sent(
        largest in [1..=16u8, 1..=16u8],
        windows in (65_536..400_000u64, 2048..70_000u64),
        fallback in any::<bool>(),
        steps in vec(step(), 0..120),
    ) {
        if let Err(error) = run(largest, windows, fallback, &steps) {
            return Err(TestCaseError::fail(error));
        }
    }
}

#[test]
fn a_record_whose_payload_vanished_is_sent_padded() {
    let mut pair = Pair::established();
    let id = pair.initiator.conn.open_stream(None, Priority::default()).expect("it opens");
    pair.initiator.conn.send_stream(id).write(&[7; 30_000]).expect("there is room");
    let mut buffer = [0; 16 * QUANTUM];
    let first = pair.initiator.conn.poll_transmit(pair.now, &mut buffer);
    assert_eq!(first, Ok(peermux_core::Transmit::Bytes(QUANTUM)));
    let announced = pair.initiator.conn.next_transmit_len();
    assert!(announced > QUANTUM, "{announced}");
    pair.initiator.conn.send_stream(id).reset(ErrorCode::Application(1));
    let second = pair.initiator.conn.poll_transmit(pair.now, &mut buffer);
    assert_eq!(second, Ok(peermux_core::Transmit::Bytes(announced)));
    assert_eq!(pair.initiator.conn.next_transmit_len(), QUANTUM);
}

#[test]
fn what_is_not_payload_never_makes_a_record_larger() {
    let mut pair = PairBuilder::default().establish();
    // Hundreds of streams without a byte.
    for at in 0..1000 {
        let id = pair
            .initiator
            .conn
            .open_stream(Some(&format!("a-protocol-with-a-long-name/{at}")), Priority::default())
            .expect("it opens");
        pair.initiator.conn.send_stream(id).finish().expect("it is open");
    }
    let before = pair.initiator.trace.len();
    pair.settle();
    while let Some(id) = pair.responder.conn.accept_stream() {
        pair.responder.conn.refuse(id, ErrorCode::REFUSED);
    }
    pair.settle();
    assert!(pair.side(Role::Initiator).trace[before..].iter().all(|(_, len)| *len == QUANTUM));
    assert!(pair.responder.trace[1..].iter().all(|(_, len)| *len == QUANTUM));
}
