//! Allocations in steady state, counted. Records, frames, the schedule, events, credit, and opening and closing streams need none, and small messages take their memory from
//! spares. What needs some is payload that the application takes as a part of a buffer, that many streams hold at once, or that grows piece by piece.

use std::time::Duration;

use allocation_counter::measure;
use peermux_core::Role;
use peermux_core::wire::{FrameKind, Priority};
use peermux_tests::bench::{Bulk, Cipher, Direct, Frames, Requests, config};

/// Allocations in `rounds` of `act`, after as many that are not counted.
fn steady(rounds: u64, mut act: impl FnMut()) -> u64 {
    let mut run = || (0..rounds).for_each(|_| act());
    run();
    measure(run).count_total
}

#[test]
fn records_of_shared_chunks_need_no_allocation() {
    for &cipher in Cipher::REAL {
        let mut bulk = Bulk::with_chunks(config(cipher, 16), 8 << 20);
        let allocations = steady(100, || {
            bulk.batch();
        });
        assert_eq!(allocations, 0, "{cipher:?}");
    }
}

#[test]
fn short_records_need_one_allocation_for_the_payload_that_the_application_keeps() {
    for quanta in [1, 4, 8] {
        let mut bulk = Bulk::with_chunks(config(Cipher::RingAes, quanta), 8 << 20);
        let records = bulk.records() as u64;
        let allocations = steady(20, || {
            bulk.batch();
        });
        assert!(allocations <= 20 * records + 5, "{quanta} quanta: {allocations} for {} records", 20 * records);
    }
}

#[test]
fn control_frames_need_no_allocation() {
    let mut direct = Direct::new(config(Cipher::RingAes, 16));
    let streams = direct.open(100, Priority::default());
    let mut urgency = 0;
    let allocations = steady(100, || {
        urgency = (urgency + 1) % 8;
        for (client, server) in &streams {
            direct
                .initiator
                .recv_stream(*client)
                .request_priority(Priority::from_urgency(urgency).with_incremental(true));
            direct.responder.recv_stream(*server).request_priority(Priority::from_urgency(urgency));
            direct.initiator.send_stream(*client).set_priority(Priority::from_urgency(urgency));
        }
        direct.settle();
        // The peer has a budget for such frames, which time fills again.
        direct.now = direct.now + Duration::from_secs(1);
    });
    assert_eq!(allocations, 0);
    let sent = direct.initiator.stats().frames_sent.of(FrameKind::Priority);
    assert_eq!(sent, 2 * 100 * streams.len() as u64);
}

#[test]
fn requests_need_no_allocation_whether_their_streams_are_used_again_or_not() {
    for &cipher in Cipher::REAL {
        let mut requests = Requests::new(config(cipher, 16));
        assert_eq!(steady(1000, || requests.reused()), 0, "{cipher:?}: on a stream that is there");
        assert_eq!(steady(1000, || requests.fresh()), 0, "{cipher:?}: on a stream that is opened and closed");
    }
}

#[test]
fn streams_that_are_given_up_need_no_allocation() {
    let mut direct = Direct::new(config(Cipher::RingAes, 16));
    let allocations = steady(1000, || {
        let client = direct.initiator.open_stream(Some("bench/path"), Priority::default()).expect("it opens");
        assert_eq!(direct.initiator.send_stream(client).write(&[7; 100]), Ok(100));
        direct.settle();
        let server = direct.responder.accept_stream().expect("it was opened");
        assert_eq!(direct.responder.recv_stream(server).read(&mut [0; 200]), Ok(100));
        direct.initiator.release(client);
        direct.settle();
        direct.responder.release(server);
        direct.settle();
        // The peer has a budget for what is cancelled, which time fills again.
        direct.now = direct.now + Duration::from_millis(10);
    });
    assert_eq!(allocations, 0);
}

#[test]
fn small_frames_of_many_streams_at_once_need_an_allocation_for_each_copy_at_most() {
    let mut frames = Frames::new(config(Cipher::RingAes, 16));
    let allocations = steady(100, || frames.record());
    let most = 100 * 2 * Frames::COUNT as u64;
    assert!(allocations <= most, "{allocations}, and there are {most} copies");
}

#[test]
fn slices_need_an_allocation_for_each_buffer_that_grows() {
    // As many bytes as a full tail has, and much fewer.
    for (len, most) in [(16 << 10, 3), (1000, 9)] {
        let mut direct = Direct::new(config(Cipher::RingAes, 16));
        let (from, to) = direct.open(1, Priority::default())[0];
        let (source, mut sink) = (vec![7; len], vec![0; len]);
        let before = direct.initiator.stats().records_sent;
        let allocations = steady(1000, || {
            while direct.initiator.send_stream(from).write(&source).is_ok() {}
            direct.carry(Role::Initiator);
            while direct.responder.recv_stream(to).read(&mut sink).is_ok() {}
            direct.carry(Role::Responder);
        });
        let records = (direct.initiator.stats().records_sent - before) / 2;
        assert!(allocations <= most * records, "{len}: {allocations} in {records} records");
    }
}
