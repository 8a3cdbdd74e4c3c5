#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::values::uris_are_compared_alike(octets));
