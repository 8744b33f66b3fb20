//! Nothing that we produce can be read for a secret: a canary stands in the place of each, and everything there is is
//! printed.

mod panics;
mod sessions;
mod sources;
mod stores;

use std::{
    env,
    error::Error as StdError,
    fmt::{Debug, Display},
    process::Command,
    sync::{Arc, Mutex},
};

/// How a canary begins, and how the base64 of a text does that begins with one: a part of a secret is one, too.
const TRACES: [&str; 2] = ["cana", "Y2Fu"];

fn shows_a_secret(text: &str) -> bool {
    TRACES.iter().any(|trace| text.contains(trace))
}

/// All that was printed.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<String>>);

impl Seen {
    fn debug(&self, value: &dyn Debug) {
        self.push(format!("{value:?}\n{value:#?}\n"));
    }

    fn display(&self, value: &dyn Display) {
        self.push(format!("{value}\n{value:#}\n"));
    }

    /// The error and its causes.
    fn error(&self, error: &(dyn StdError + 'static)) {
        let mut link = Some(error);
        while let Some(error) = link {
            self.debug(&error);
            self.display(&error);
            link = error.source();
        }
    }

    /// There was something to look at, this among it, and no canary.
    fn has_no_canary_among(&self, expected: &[&str]) {
        let seen = self.0.lock().unwrap();
        for expected in expected {
            assert!(seen.contains(expected), "nothing has printed `{expected}`");
        }
        // The text itself stays out of the message: another test reads that.
        let line = seen.lines().position(shows_a_secret);
        assert_eq!(line, None, "of {} lines, this one shows a secret", seen.lines().count());
    }

    fn push(&self, text: String) {
        self.0.lock().unwrap().push_str(&text);
    }
}

/// Runs the tests of this module in a process of their own, and reads what that writes.
#[test]
fn no_secret_is_written_to_the_output() {
    let run = Command::new(env::current_exe().unwrap())
        .args([
            "secrets::",
            "--skip",
            "no_secret_is_written_to_the_output",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let written = [run.stdout, run.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(run.status.success(), "{written}");
    for module in ["panics", "sessions", "sources", "stores"] {
        assert!(written.contains(&format!("test secrets::{module}::")), "{written}");
    }
    assert!(!shows_a_secret(&written));
}
