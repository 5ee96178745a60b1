//! The same bytes for the engine and for another implementation: tungstenite, or miniz_oxide.

use proptest::prelude::*;

use super::compressed_streams::mirror;
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..Default::default() })]

    #[test]
    fn a_client_inflates_what_it_compressed_or_both_sides_refuse_it(
        data in proptest::collection::vec(any::<u8>(), 0..1000),
    ) {
        mirror(&data);
    }
}
