#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| restante_fuzz::claims::bodies::multipart_is_cut_within_its_octets(octets));
