//! Arbitrary requests and configurations: random ones here, and those of the fuzzer in `fuzz/`.

use proptest::prelude::*;

mod config;
mod handshake;
mod offers;
mod options;
mod proxies;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..Default::default() })]

    #[test]
    fn no_request_is_reflected_and_only_complete_handshakes_are_upgraded(
        data in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        handshake::any_request(&data);
    }

    #[test]
    fn offers_are_read_however_they_are_written(
        data in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        offers::any_offers(&data);
    }

    #[test]
    fn every_finding_points_into_the_configuration(
        data in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        config::any_text(&data);
    }

    #[test]
    fn no_configuration_of_a_proxy_confuses_the_doctor(
        data in proptest::collection::vec(any::<u8>(), 0..400),
        words in proptest::collection::vec(proptest::sample::select(proxies::WORDS), 0..80),
    ) {
        proxies::any_configuration(&String::from_utf8_lossy(&data));
        proxies::any_answer(&String::from_utf8_lossy(&data));
        proxies::any_configuration(&words.join(" "));
        proxies::any_configuration(&format!("http {{ server {{ {} }} }}", words.concat()));
    }

    #[test]
    fn no_answer_of_a_host_confuses_the_doctor(
        words in proptest::collection::vec(proptest::sample::select(proxies::ANSWERS), 0..80),
    ) {
        proxies::any_answer(&words.concat());
    }

    #[test]
    fn whatever_options_are_accepted_are_within_their_limits(
        data in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        options::any_query(&data);
    }
}
