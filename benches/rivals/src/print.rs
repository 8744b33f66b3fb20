use std::fmt::Display;

/// One figure, in the form that all programs here print.
pub fn line(group: &str, case: &str, metric: &str, value: impl Display) {
    println!("{group}\t{case}\t{metric}\t{value}");
}
