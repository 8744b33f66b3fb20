//! Counts what a global allocator and a server see: allocations and bytes, memory kept, fetches, connections, sizes.
//!
//! `counts [GROUP[/CASE]]...` prints `group`, `case`, `metric` and the value, separated by tabs.

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
    pub(crate) mod tokens;
    pub(crate) mod workloads;
}
mod counted {
    mod authority;
    mod clock;
    pub(crate) mod connections;
    pub(crate) mod fetches;
    pub(crate) mod futures;
    mod gate;
    pub(crate) mod kept;
}

use allocation_counter::AllocationInfo;

use self::kit::{
    arguments::arguments,
    lines::line,
    workloads::{self, Workload, is_named},
};

fn main() {
    let filters = arguments();
    workloads::measure(&filters, per_unit, |name, [allocations, bytes]| {
        line(name, "allocations", allocations);
        line(name, "bytes", bytes);
    });
    let others =
        [counted::kept::all(), counted::fetches::all(), counted::connections::all(), counted::futures::all()];
    for count in others.into_iter().flatten().filter(|count| is_named(&count.name, &filters)) {
        line(&count.name, count.metric, (count.value)());
    }
}

/// A figure that is counted when it is asked for.
pub(crate) struct Count {
    /// `group/case`.
    pub(crate) name: String,
    pub(crate) metric: &'static str,
    pub(crate) value: Box<dyn Fn() -> f64>,
}

fn per_unit(workload: &Workload) -> [f64; 2] {
    // What a program allocates once, whatever it does.
    (workload.run)(workload.few);
    let [few, many] =
        [workload.few, workload.many].map(|units| allocation_counter::measure(|| (workload.run)(units)));
    let units = (workload.many - workload.few) as f64;
    let per_unit = |of: fn(&AllocationInfo) -> u64| (of(&many) as f64 - of(&few) as f64) / units;
    [per_unit(|info| info.count_total), per_unit(|info| info.bytes_total)]
}
