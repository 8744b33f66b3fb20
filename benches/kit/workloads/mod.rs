//! What is counted: things that are done N times, each beside the same thing without the layer.

mod frame;
mod request;
mod socket;
mod waiter;

use std::collections::HashMap;

/// Does nothing else that depends on `n`, so that the difference of two runs is the cost of the units alone.
pub(crate) struct Workload {
    /// `group/case`.
    pub(crate) name: String,
    /// The workload that does the same without the layer. What costs more than that is the layer's.
    pub(crate) base: Option<String>,
    /// The two numbers of units whose difference is taken.
    pub(crate) few: usize,
    pub(crate) many: usize,
    pub(crate) run: Box<dyn Fn(usize)>,
}

pub(crate) fn all() -> Vec<Workload> {
    [request::workloads(), frame::workloads(), waiter::workloads(), socket::workloads()]
        .into_iter()
        .flatten()
        .collect()
}

/// Those of a group or a case: `waiter` and `waiter/session` both name `waiter/session/1000`.
pub(crate) fn is_named(name: &str, filters: &[String]) -> bool {
    filters.is_empty()
        || filters.iter().any(|filter| {
            name.strip_prefix(filter.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// Measures the named workloads per unit, and gives each value that is left when the base's is taken off.
pub(crate) fn measure<const METRICS: usize>(
    filters: &[String],
    mut per_unit: impl FnMut(&Workload) -> [f64; METRICS],
    mut report: impl FnMut(&str, [f64; METRICS]),
) {
    let workloads = all();
    let mut measured = HashMap::new();
    for workload in workloads.iter().filter(|workload| is_named(&workload.name, filters)) {
        let base = workload.base.as_ref().map(|name| {
            let base = workloads.iter().find(|base| base.name == *name).expect("a base is a workload");
            *measured.entry(name.clone()).or_insert_with(|| per_unit(base))
        });
        let mut values = *measured.entry(workload.name.clone()).or_insert_with(|| per_unit(workload));
        for (value, base) in values.iter_mut().zip(base.into_iter().flatten()) {
            *value -= base;
        }
        report(&workload.name, values);
    }
}
