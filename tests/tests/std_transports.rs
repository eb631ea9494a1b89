//! The std adapter over all that it can run over: Unix sockets, pipes that block, sources of events, TLS, and streams of
//! another connection.

mod adapter;
mod media;

use adapter::std_face::Std;
use media::{Inner, Over, Pipes, Source, tls::Tls};

/// What each transport carries as TCP does.
macro_rules! over {
    ($module:ident, $medium:ty) => {
        mod $module {
            use super::*;

            scenarios! { Over<$medium>, Over<$medium>:
                echo() within 20;
                bulk_both_ways(2_000_000, 4) within 60;
                half_close_then_a_long_reply() within 30;
                a_thousand_streams_at_once() within 40;
                a_dropped_handle_leaves_its_streams_to_finish() within 20;
                streams_outlive_their_connection_handle() within 20;
                what_was_finished_before_the_handle_was_dropped_arrives() within 20;
                exchanges_of_honest_programs_never_fail(500) within 60;
                stopped_says_how_the_sending_half_has_ended() within 20;
                a_stream_that_is_dropped_is_reset_and_never_ends() within 20;
                flush_and_shutdown_twice() within 20;
                close_tells_code_and_reason_and_every_call_after_it_says_so() within 20;
                drain_lets_all_finish() within 30;
                a_wrong_key_is_found_by_the_dialer() within 20;
            }

            #[test]
            fn the_script_gives_the_same_log() {
                let logs = adapter::within(40, || {
                    [adapter::script::run::<Std, Std>(), adapter::script::run::<Over<$medium>, Over<$medium>>()]
                });
                assert_eq!(logs[1], logs[0]);
            }
        }
    };
}

#[cfg(unix)]
over!(unix, media::Unix);
over!(pipes, Pipes);
over!(source, Source);
over!(tls, Tls);
over!(inner, Inner);
