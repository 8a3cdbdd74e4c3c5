#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::msrp_pair::session_survives_any_peer(octets));
