//! Streams against the reference model, with operations that proptest chooses and shrinks. The simulator's seeds weigh what they do; here any order of
//! any operations comes up, most of which make little sense.

use peermux_tests::sim::{Cut, RawOp, Scenario, Setup};
use proptest::collection::vec;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    let cases = if std::env::var_os("PEERMUX_LONG").is_some() { 20_000 } else { 400 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Operations of which at least every other one moves bytes, or nothing would ever come of the rest.
fn operations() -> impl Strategy<Value = Vec<RawOp>> {
    let moves =
        (0..2u8, any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(kind, who, low, high)| [kind, who, low, high]);
    vec(prop_oneof![moves, any::<RawOp>()], 0..300)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_operations_keep_every_invariant(seed in 0..u64::MAX / 4, ops in operations()) {
        let scenario = Scenario { setup: Setup::new(seed), ops, pieces: None };
        if let Err(error) = scenario.try_run() {
            return Err(TestCaseError::fail(format!("{error}\n{}", scenario.describe())));
        }
    }

    #[test]
    fn any_bytes_are_a_run(bytes in vec(any::<u8>(), 0..400)) {
        if let Some(scenario) = Scenario::from_bytes(&bytes)
            && let Err(error) = scenario.try_run()
        {
            return Err(TestCaseError::fail(format!("{error}\n{}", scenario.describe())));
        }
    }

    #[test]
    fn any_operations_give_the_same_bytes_however_the_input_is_cut(seed in 0..u64::MAX / 4, ops in operations()) {
        let scenario = |pieces| Scenario { setup: Setup::new(seed), ops: ops.clone(), pieces: Some(pieces) };
        prop_assert_eq!(scenario(Cut::All).try_run(), scenario(Cut::Some(700)).try_run());
    }
}
