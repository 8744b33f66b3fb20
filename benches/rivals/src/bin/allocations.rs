//! Prints what is allocated for a request and for a waiter. The allocator of this program counts.

use allocation_counter::measure;
use rivals::{figures::Meter, work::Work};

fn main() {
    let meter = Meter {
        metrics: ["allocations", "bytes"],
        measure: |work: Work| {
            let all = measure(|| work.run());
            [all.count_total, all.bytes_total]
        },
    };
    meter.print_overhead();
    meter.print_waiters();
}
