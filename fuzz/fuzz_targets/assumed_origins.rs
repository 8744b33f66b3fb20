#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tower_token_refresh_fuzz::assumed_origins(data));
