#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::values::preferences_choose_among_the_contacts(octets));
