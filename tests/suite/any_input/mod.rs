//! Requests and configurations of any content, by chance here and by the fuzzer in `fuzz/`.

use proptest::prelude::*;

mod config;
mod handshake;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..Default::default() })]

    #[test]
    fn no_request_is_reflected_and_none_is_upgraded_that_should_not_be(
        data in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        handshake::any_request(&data);
    }

    #[test]
    fn every_finding_of_a_configuration_lies_in_its_text(
        data in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        config::any_text(&data);
    }
}
