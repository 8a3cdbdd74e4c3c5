#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::msrp_pair::pair_delivers_what_was_sent(octets));
