#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::msrp::descriptions_are_answered_soundly(octets));
