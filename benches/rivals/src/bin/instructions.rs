//! Prints the instructions of a request and of a waiter. Given the name of a piece of work it does only that; it calls
//! itself so, in valgrind.

use std::{
    env,
    process::{Command, ExitCode},
};

use rivals::{figures::Meter, work::Work};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if arguments.is_empty() {
        let meter = Meter { metrics: ["instructions"], measure: |work| [instructions(work)] };
        meter.print_overhead();
        meter.print_waiters();
    } else if let Some(work) = Work::named(&arguments) {
        work.run();
    } else {
        eprintln!("no such work: {arguments:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Of this program when it does the work, from start to end.
fn instructions(work: Work) -> u64 {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program has a path"))
        .args(work.arguments())
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&valgrind.stderr);
    let collected = report.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.unwrap_or_else(|| panic!("valgrind has counted nothing: {report}"));
    count.trim().parse().expect("a count")
}
