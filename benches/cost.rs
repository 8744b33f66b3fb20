//! Counts instructions by callgrind: of a request, a frame, a waiter, a request over a socket.
//!
//! `cost [GROUP[/CASE]]...` prints `group`, `case`, `instructions` and the number, separated by tabs. Each number is the
//! difference of two runs of this program in valgrind, per unit, less that of the same without the layer.

mod kit {
    pub(crate) mod arguments;
    pub(crate) mod frames;
    pub(crate) mod inner;
    pub(crate) mod layer;
    pub(crate) mod lines;
    pub(crate) mod loopback;
    pub(crate) mod requests;
    pub(crate) mod resends;
    pub(crate) mod runtime;
    pub(crate) mod session;
    pub(crate) mod static_header;
    pub(crate) mod workloads;
}

use std::{
    env,
    hint::black_box,
    process::{Child, Command, Stdio},
};

use self::kit::{
    arguments::arguments,
    lines::line,
    workloads::{self, Workload},
};

/// Runs one workload, to be counted.
const RUN: &str = "--run";

/// Has a page's alignment, so that the stack of whatever is called next begins in the same place of a page wherever the
/// environment ends: how many instructions the copy of a value takes depends on where the value is.
#[repr(align(4096))]
struct AtAPage(usize);

fn main() {
    match &arguments()[..] {
        [flag, name, units] if flag == RUN => {
            let workloads = workloads::all();
            let workload = workloads.iter().find(|workload| workload.name == *name).expect("a workload");
            let units = AtAPage(units.parse().expect("a number"));
            (workload.run)(black_box(&units).0);
        }
        filters => workloads::measure(filters, per_unit, |name, [instructions]| {
            line(name, "instructions", instructions);
        }),
    }
}

/// Of how many pairs of runs the median counts, over HTTP/2: its instructions differ by some hundred from process to
/// process, those of all else by a few.
const PAIRS_OVER_HTTP2: usize = 7;

fn per_unit(workload: &Workload) -> [f64; 1] {
    let pairs = if workload.name.contains("/h2/") { PAIRS_OVER_HTTP2 } else { 1 };
    let mut pairs: Vec<f64> = (0..pairs)
        .map(|_| {
            let [few, many] = [workload.few, workload.many].map(|units| start(&workload.name, units));
            let [few, many] = [few, many].map(instructions);
            (many - few) / (workload.many - workload.few) as f64
        })
        .collect();
    pairs.sort_by(f64::total_cmp);
    [pairs[pairs.len() / 2]]
}

fn start(name: &str, units: usize) -> Child {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program is a file"))
        .args([RUN, name, &units.to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind is installed")
}

fn instructions(child: Child) -> f64 {
    let output = child.wait_with_output().expect("valgrind runs");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let collected = report.split("Collected : ").nth(1).and_then(|rest| rest.split_whitespace().next());
    collected.and_then(|number| number.parse().ok()).expect("callgrind tells how many it has collected")
}
