//! What the project has promised itself.

use crate::quantity::{
    Key,
    Quantity::{self, Less, Milliseconds, Most, Of, Ratio},
};

pub struct Goal {
    pub name: &'static str,
    pub unit: &'static str,
    /// Must hold.
    pub gate: f64,
    pub aim: f64,
    pub measured: Quantity,
    /// Who does it best otherwise.
    pub peer: Option<Peer>,
    /// The part of `scripts/bench` that measures it.
    pub part: &'static str,
}

pub struct Peer {
    pub name: &'static str,
    pub figure: Key,
    /// Ours in the same program: figures of different programs do not compare.
    pub ours: Key,
}

pub const GOALS: [Goal; 21] = [
    goal("POST, 4 headers, 1 KiB", INSTRUCTIONS, [1850.0, 1400.0], Of(POST), "cost")
        .beside(RETRY, RETRY_POST, POST),
    goal(
        "the same, ratio to retry + static header",
        "times",
        [1.0, 0.76],
        Ratio(POST, RETRY_POST, 1.0),
        "cost",
    ),
    goal("the same", ALLOCATIONS, [2.0, 0.0], Of(["request", "post/layer", ALLOCATIONS]), "counts").beside(
        RETRY,
        ["request", "post/retry-static-header", ALLOCATIONS],
        ["request", "post/layer", ALLOCATIONS],
    ),
    goal(
        "GET, no headers, no body",
        INSTRUCTIONS,
        [1400.0, 1150.0],
        Of(["request", "get/layer", INSTRUCTIONS]),
        "cost",
    )
    .beside(
        RETRY,
        ["request", "get/retry-static-header", INSTRUCTIONS],
        ["request", "get/layer", INSTRUCTIONS],
    ),
    goal(
        "the same, more than a static header's",
        ALLOCATIONS,
        [0.0, 0.0],
        Less(["request", "get/layer", ALLOCATIONS], ["request", "get/static-header", ALLOCATIONS]),
        "counts",
    ),
    goal(
        "POST without replay",
        INSTRUCTIONS,
        [850.0, 550.0],
        Of(["request", "post/layer-without-replay", INSTRUCTIONS]),
        "cost",
    )
    .beside(KUBE, KUBE_POST, POST_BESIDE_KUBE),
    goal(
        "the same, ratio to kube-client",
        "times",
        [0.42, 0.27],
        Ratio(POST_BESIDE_KUBE, KUBE_POST, 1.0),
        "rivals",
    ),
    goal(
        "the same",
        ALLOCATIONS,
        [0.0, 0.0],
        Of(["request", "post/layer-without-replay", ALLOCATIONS]),
        "counts",
    )
    .beside(
        KUBE,
        ["overhead/post", KUBE, ALLOCATIONS],
        ["overhead/post", OURS_WITHOUT_REPLAY, ALLOCATIONS],
    ),
    goal(
        "a waiter of 10,000",
        INSTRUCTIONS,
        [855.0, 100.0],
        Of(["waiter", "session/10000", INSTRUCTIONS]),
        "cost",
    )
    .beside(CELL, ["waiters/10000", CELL, INSTRUCTIONS], ["waiters/10000", OURS, INSTRUCTIONS]),
    goal(
        "a waiter of 100,000",
        INSTRUCTIONS,
        [855.0, 100.0],
        Of(["waiter", "session/100000", INSTRUCTIONS]),
        "cost",
    )
    .beside(CELL, ["waiters/100000", CELL, INSTRUCTIONS], ["waiters/100000", OURS, INSTRUCTIONS]),
    goal("the same", ALLOCATIONS, [1.0, 0.0], Of(["waiter", "session/100000", ALLOCATIONS]), "counts")
        .beside(CELL, ["waiters/100000", CELL, ALLOCATIONS], ["waiters/100000", OURS, ALLOCATIONS]),
    goal(
        "the same, ratio to tokio-once-cell",
        "times",
        [1.64, 0.19],
        Ratio(["waiters/100000", OURS, INSTRUCTIONS], ["waiters/100000", CELL, INSTRUCTIONS], 1.0),
        "rivals",
    ),
    goal(
        "last of 1,000 waiters, 64 busy tasks, one thread",
        "ms",
        [1.0, 0.3],
        Milliseconds(["time/contention/current-thread-busy", "1000", "nanoseconds"]),
        "time",
    ),
    goal(
        "fetches for an expiry, 1 to 100,000 requests",
        "at most",
        [1.0, 1.0],
        Most("expiry", "fetches"),
        "counts",
    ),
    goal(
        "connections that dropped callers leave open",
        "at most",
        [0.0, 0.0],
        Most("dropped", "connections"),
        "counts",
    ),
    goal(
        "a frame of 16 KiB, kept",
        INSTRUCTIONS,
        [150.0, 110.0],
        Of(["frame", "kept", INSTRUCTIONS]),
        "cost",
    ),
    goal(
        "a frame beyond the limit",
        INSTRUCTIONS,
        [150.0, 110.0],
        Of(["frame", "passed", INSTRUCTIONS]),
        "cost",
    ),
    goal(
        "kept of an upload: 64 KiB and a frame",
        "bytes",
        [81920.0, 81920.0],
        Most("upload", "bytes_kept"),
        "counts",
    ),
    goal(
        "64 MiB beyond the limit, time over a boxed body",
        "times",
        [1.05, 1.0],
        Ratio(
            ["time/replay/64-mib", "keeps-64-kib", "nanoseconds"],
            ["time/replay/64-mib", "boxed", "nanoseconds"],
            1.0,
        ),
        "time",
    ),
    goal(
        "POST over HTTP/1.1, over a static header",
        "% user instructions",
        [4.0, 3.0],
        Ratio(["socket", "h1/layer", INSTRUCTIONS], ["socket", "h1/static-header", INSTRUCTIONS], 100.0),
        "cost",
    ),
    goal(
        "POST over HTTP/2, over a static header",
        "% user instructions",
        [1.3, 1.0],
        Ratio(["socket", "h2/layer", INSTRUCTIONS], ["socket", "h2/static-header", INSTRUCTIONS], 100.0),
        "cost",
    ),
];

const INSTRUCTIONS: &str = "instructions";
const ALLOCATIONS: &str = "allocations";
const RETRY: &str = "retry + static header";
const CELL: &str = "tokio-once-cell";
const KUBE: &str = "kube-client";
const OURS: &str = "tower-token-refresh";
const OURS_WITHOUT_REPLAY: &str = "tower-token-refresh-without-replay";
const POST: Key = ["request", "post/layer", INSTRUCTIONS];
const RETRY_POST: Key = ["request", "post/retry-static-header", INSTRUCTIONS];
const KUBE_POST: Key = ["overhead/post", KUBE, INSTRUCTIONS];
const POST_BESIDE_KUBE: Key = ["overhead/post", OURS_WITHOUT_REPLAY, INSTRUCTIONS];

const fn goal(
    name: &'static str,
    unit: &'static str,
    [gate, aim]: [f64; 2],
    measured: Quantity,
    part: &'static str,
) -> Goal {
    Goal { name, unit, gate, aim, measured, peer: None, part }
}

impl Goal {
    const fn beside(mut self, name: &'static str, figure: Key, ours: Key) -> Goal {
        self.peer = Some(Peer { name, figure, ours });
        self
    }
}
