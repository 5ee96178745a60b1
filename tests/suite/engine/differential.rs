//! The same bytes for the engine and for tungstenite.

use proptest::prelude::*;

use super::streams::compare;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..Default::default() })]

    #[test]
    fn the_engine_and_tungstenite_see_the_same_messages_and_the_same_end(
        data in proptest::collection::vec(any::<u8>(), 0..1000),
    ) {
        compare(&data);
    }
}
