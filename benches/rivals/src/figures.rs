//! What one request and one waiter cost, by a meter that can only measure a whole piece of work: each cost is the
//! difference of two pieces.

use std::{array, collections::HashMap};

use crate::{
    api::Shape,
    overhead::CLIENTS,
    print::line,
    waiters::{Crowd, TOKENS},
    work::Work,
};

/// What a meter measures, and how.
#[derive(Debug)]
pub struct Meter<const N: usize, M> {
    pub metrics: [&'static str; N],
    pub measure: M,
}

const FEW: usize = 1_000;
const MANY: usize = 3_000;

impl<const N: usize, M: Fn(Work) -> [u64; N]> Meter<N, M> {
    /// Each client's cost of a request over its baseline's; for the baselines, the whole cost.
    pub fn print_overhead(&self) {
        for shape in Shape::ALL {
            let group = format!("overhead/{}", shape.name());
            let mut costs = HashMap::new();
            for client in &CLIENTS {
                let work = |requests| Work::Requests { client, shape, requests };
                let cost = self.cost(work(MANY), work(FEW), MANY - FEW);
                let baseline = client.baseline.map_or([0.0; N], |name| costs[name]);
                self.print(&group, client.name, cost, baseline);
                costs.insert(client.name, cost);
            }
        }
    }

    /// What one more waiter costs over a task that yields once.
    pub fn print_waiters(&self) {
        for crowd in Crowd::SIZES {
            let group = format!("waiters/{}", crowd.waiters);
            let cost = |work: &dyn Fn(Crowd) -> Work| {
                self.cost(work(crowd), work(crowd.leaders_only()), crowd.in_all())
            };
            let baseline = cost(&|crowd| Work::Yields { crowd });
            self.print(&group, "spawn-and-yield", baseline, [0.0; N]);
            for tokens in &TOKENS {
                self.print(&group, tokens.name, cost(&|crowd| Work::Waiters { tokens, crowd }), baseline);
            }
        }
    }

    fn cost(&self, more: Work, less: Work, times: usize) -> [f64; N] {
        let (more, less) = ((self.measure)(more), (self.measure)(less));
        array::from_fn(|metric| (more[metric] as f64 - less[metric] as f64) / times as f64)
    }

    fn print(&self, group: &str, case: &str, cost: [f64; N], baseline: [f64; N]) {
        for metric in 0..N {
            let tenths = ((cost[metric] - baseline[metric]) * 10.0).round() as i64;
            line(group, case, self.metrics[metric], tenths as f64 / 10.0);
        }
    }
}
