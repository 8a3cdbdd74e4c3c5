#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::kept::records_are_read_soundly(octets));
