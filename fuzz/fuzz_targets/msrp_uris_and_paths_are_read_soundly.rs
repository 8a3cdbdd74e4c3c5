#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::msrp::uris_and_paths_are_read_soundly(octets));
