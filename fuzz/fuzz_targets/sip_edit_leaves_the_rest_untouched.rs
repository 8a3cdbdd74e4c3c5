#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::sip::edit_leaves_the_rest_untouched(octets));
