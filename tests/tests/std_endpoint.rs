//! Endpoints of the std adapter over real sockets, and between it and the Tokio adapter. `endpoint.rs` holds Tokio's own.

mod adapter;
mod endpoints;

use endpoints::script;
use peermux_std::Endpoint as Std;
use peermux_tokio::Endpoint as Tokio;

endpoint_scenarios! { Std, Std:
    two_protocols_share_a_port_and_a_connection_whoever_dialled() within 20;
    dials_at_the_same_time_share_one() within 30;
    crossing_dials_end_with_one_connection_and_nothing_is_lost(20) within 90;
    a_peer_that_crashed_gets_through_at_once() within 20;
    a_connection_that_is_dead_and_does_not_know_it_locks_nobody_out() within 20;
    one_that_is_drained_off_waits_before_it_dials_again_and_takes_what_comes() within 30;
    unknown_protocols_are_refused_and_names_are_free_again() within 20;
    a_slow_acceptor_delays_no_other_one() within 20;
    the_unauthenticated_of_one_address_are_limited() within 40;
    when_no_place_is_left_dialers_wait_for_one() within 30;
    drain_lets_all_finish() within 30;
    the_last_handle_that_is_dropped_drains() within 20;
    a_dropped_endpoint_gives_up_what_is_not_yet_a_connection() within 30;
    a_dial_that_nobody_waits_for_is_given_up() within 20;
    a_dial_that_is_under_way_ends_when_the_peer_has_dialled() within 20;
    a_dead_address_delays_nobody_who_knows_another_one() within 20;
    a_dial_into_an_endpoint_that_drains_is_refused_and_can_be_tried_again() within 60;
    a_key_that_was_rotated_works_beside_the_new_one() within 20;
    drain_lets_a_connection_that_lost_finish() within 20;
    anonymous_peers_are_never_merged() within 20;
    a_peer_that_the_application_refuses_is_no_peer() within 20;
    limits_beyond_all_numbers_and_of_nothing_do_no_harm() within 20;
}

/// What `endpoint.rs` does not have.
mod tokio_too {
    use super::*;

    endpoint_scenarios! { Tokio, Tokio:
        when_no_place_is_left_dialers_wait_for_one() within 30;
        a_dead_address_delays_nobody_who_knows_another_one() within 20;
        a_dial_into_an_endpoint_that_drains_is_refused_and_can_be_tried_again() within 60;
        a_key_that_was_rotated_works_beside_the_new_one() within 20;
        drain_lets_a_connection_that_lost_finish() within 20;
        a_dropped_endpoint_gives_up_what_is_not_yet_a_connection() within 30;
        limits_beyond_all_numbers_and_of_nothing_do_no_harm() within 20;
    }
}

mod between {
    use super::*;

    endpoint_scenarios! { Std, Tokio:
        crossing_dials_end_with_one_connection_and_nothing_is_lost(10) within 60;
        a_peer_that_crashed_gets_through_at_once() within 20;
        drain_lets_all_finish() within 30;
    }
}

mod between_the_other_way {
    use super::*;

    endpoint_scenarios! { Tokio, Std:
        crossing_dials_end_with_one_connection_and_nothing_is_lost(10) within 60;
        one_that_is_drained_off_waits_before_it_dials_again_and_takes_what_comes() within 30;
    }
}

#[test]
fn one_script_through_both_adapters_gives_the_same_log() {
    let logs = adapter::within(60, || {
        [
            script::run::<Std, Std>(),
            script::run::<Tokio, Tokio>(),
            script::run::<Std, Tokio>(),
            script::run::<Tokio, Std>(),
        ]
    });
    assert!(logs[0].len() > 20, "{:#?}", logs[0]);
    for log in &logs[1..] {
        assert_eq!(*log, logs[0]);
    }
}
