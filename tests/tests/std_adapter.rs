//! The std adapter over real sockets, and between it and the Tokio adapter.

#[expect(clippy::wildcard_imports, reason = "the scenarios' own module")]
mod adapter;

use adapter::std_face::Std;
use adapter::tokio_face::Tokio;
use adapter::within;

scenarios! { Std, Std:
    echo() within 20;
    bulk_both_ways(4_000_000, 4) within 60;
    half_close_then_a_long_reply() within 30;
    a_thousand_streams_at_once() within 40;
    both_sides_only_write_into_tiny_sockets() within 60;
    a_dropped_handle_leaves_its_streams_to_finish() within 20;
    a_stream_that_is_dropped_is_reset_and_never_ends() within 20;
    codes_of_resets_stops_and_refusals_arrive() within 20;
    flush_and_shutdown_twice() within 20;
    close_tells_code_and_reason_and_every_call_after_it_says_so() within 20;
    drain_lets_all_finish() within 30;
    a_wrong_key_is_found_by_the_dialer() within 20;
    a_transport_that_is_reset_wakes_everyone() within 20;
    a_peer_that_stopped_reading_does_not_keep_close_from_ending() within 30;
    a_peer_that_is_silent_is_given_up_after_the_idle_timeout() within 30;
}

mod between {
    use super::*;

    scenarios! { Std, Tokio:
        bulk_both_ways(1_000_000, 2) within 60;
        close_tells_code_and_reason_and_every_call_after_it_says_so() within 20;
    }
}

#[test]
fn dialers_that_are_no_peers() {
    within(60, adapter::dialers::dialers_that_are_no_peers::<Std, Std>);
}

#[test]
fn one_script_through_both_adapters_gives_the_same_log() {
    let logs = within(40, || {
        [
            adapter::script::run::<Std, Std>(),
            adapter::script::run::<Tokio, Tokio>(),
            adapter::script::run::<Std, Tokio>(),
            adapter::script::run::<Tokio, Std>(),
        ]
    });
    assert!(logs[0].len() > 30, "{:#?}", logs[0]);
    for log in &logs[1..] {
        assert_eq!(*log, logs[0]);
    }
}
