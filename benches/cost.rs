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
        [flag, name, units, heap] if flag == RUN => {
            let workloads = workloads::all();
            let workload = workloads.iter().find(|workload| workload.name == *name).expect("a workload");
            let [units, heap] = [units, heap].map(|number| number.parse().expect("a number"));
            let _taken = take_up(heap);
            (workload.run)(black_box(&AtAPage(units)).0);
        }
        filters => workloads::measure(filters, per_unit, |name, [instructions]| {
            line(name, "instructions", instructions);
        }),
    }
}

/// Over a socket, large pieces of memory come and go, and what malloc does for one depends on what lies beside it: so many
/// heaps are tried, and the median counts.
const HEAPS: usize = 15;

fn per_unit(workload: &Workload) -> [f64; 1] {
    let heaps = if workload.name.starts_with("socket/") { HEAPS } else { 1 };
    let mut pairs: Vec<f64> = (0..heaps)
        .map(|heap| {
            let [few, many] = [workload.few, workload.many].map(|units| start(&workload.name, units, heap));
            let [few, many] = [few, many].map(instructions);
            (many - few) / (workload.many - workload.few) as f64
        })
        .collect();
    pairs.sort_by(f64::total_cmp);
    [pairs[pairs.len() / 2]]
}

/// Pieces of a heap in pieces: another number, another heap. 0 is an empty one.
fn take_up(heap: usize) -> Vec<Vec<u8>> {
    let sizes = (1..).map(|piece: usize| 16 + piece.wrapping_mul(heap).wrapping_mul(0x9e37_79b1) % 1500);
    let pieces: Vec<_> = sizes.take(4 * heap).map(|size| vec![0; size]).collect();
    pieces.into_iter().step_by(2).collect()
}

fn start(name: &str, units: usize, heap: usize) -> Child {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program is a file"))
        .args([RUN, name, &units.to_string(), &heap.to_string()])
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
