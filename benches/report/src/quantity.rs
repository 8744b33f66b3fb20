//! A quantity that follows from figures.

use crate::figures::Figures;

/// `group`, `case`, `metric`.
pub type Key = [&'static str; 3];

#[derive(Clone, Copy)]
pub enum Quantity {
    Of(Key),
    Less(Key, Key),
    /// Of two figures, times a factor.
    Ratio(Key, Key, f64),
    /// The greatest of a metric in a group.
    Most(&'static str, &'static str),
    /// Of a number of nanoseconds.
    Milliseconds(Key),
}

impl Quantity {
    /// `None`: it was not measured.
    pub fn of(self, figures: &Figures) -> Option<f64> {
        Some(match self {
            Quantity::Of(key) => figures.number(key)?,
            Quantity::Less(key, less) => figures.number(key)? - figures.number(less)?,
            Quantity::Ratio(key, to, factor) => figures.number(key)? / figures.number(to)? * factor,
            Quantity::Milliseconds(key) => figures.number(key)? / 1e6,
            Quantity::Most(group, metric) => figures
                .of_group(group)
                .filter(|figure| figure.metric == metric)
                .filter_map(|figure| figure.value.parse().ok())
                .reduce(f64::max)?,
        })
    }
}
