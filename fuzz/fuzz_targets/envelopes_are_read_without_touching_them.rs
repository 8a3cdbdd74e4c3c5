#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::bodies::envelopes_are_read_without_touching_them(octets));
