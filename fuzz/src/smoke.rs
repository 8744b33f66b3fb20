//! Each target over its seeds and over mutations of these, the same ones in every run.

use std::{fs, path::Path};

fn smoke(name: &str, target: fn(&[u8]), mutations: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty());
    target(b"");
    seeds.iter().for_each(|seed| target(seed));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..mutations {
        target(&random.mutation(&seeds));
    }
}

#[test]
fn answers_of_a_token_endpoint_are_read_as_documented() {
    smoke("answers", crate::answers, 5000);
}

#[test]
fn a_credential_goes_to_an_assumed_origin_if_that_is_in_the_scope_only() {
    smoke("assumed_origins", crate::assumed_origins, 5000);
}

#[test]
fn challenges_are_read_as_documented() {
    smoke("challenges", crate::challenges, 5000);
}

#[test]
fn whatever_is_in_a_token_file_is_a_record_or_kept_aside() {
    smoke("file_store", crate::file_store, 300);
}

#[test]
fn a_grpc_status_is_seen_where_it_stands_and_the_body_is_handed_on_frame_for_frame() {
    smoke("grpc_status", crate::grpc_status, 5000);
}

#[test]
fn codes_are_found_in_bodies_that_are_handed_on_frame_for_frame() {
    smoke("json_codes", crate::json_codes, 5000);
}

#[test]
fn a_credential_is_shown_to_its_origin_only() {
    smoke("origins", crate::origins, 5000);
}

#[test]
fn a_body_is_sent_again_byte_for_byte_or_not_at_all() {
    smoke("replay", crate::replay, 5000);
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// A seed with a few changes, or something that is like none.
    fn mutation(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(6) {
                0 => input.truncate(at),
                1 => input.insert(at, self.byte()),
                2 => input.extend((0..at.min(40)).map(|_| self.byte())),
                3 => {
                    let end = (at + self.below(8)).min(input.len());
                    input.drain(at..end);
                }
                4 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let to = from + self.below(other.len() + 1 - from);
                    input.splice(at..at, other[from..to].iter().copied());
                }
                _ => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte = self.byte();
                    }
                }
            }
        }
        input
    }
}
