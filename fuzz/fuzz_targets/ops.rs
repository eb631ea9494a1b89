//! Two connections under arbitrary operations, beside the reference model of the simulator.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peermux_tests::sim::Scenario;

fuzz_target!(|data: &[u8]| {
    let Some(scenario) = Scenario::from_bytes(data) else { return };
    if let Err(error) = scenario.run() {
        panic!("{error}");
    }
});
