#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::core::survives_anything(octets));
