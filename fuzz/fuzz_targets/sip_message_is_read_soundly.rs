#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::sip::message_is_read_soundly(octets));
