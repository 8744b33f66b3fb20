//! What a measuring program prints.

/// Prints a figure of `group/case`: `group`, `case`, `metric`, `value`, separated by tabs.
pub(crate) fn line(name: &str, metric: &str, value: f64) {
    let (group, case) = name.split_once('/').expect("a name is a group and a case");
    // Two decimals tell an allocation of every hundredth unit; more would tell noise.
    let value = (value * 100.0).round() / 100.0;
    println!("{group}\t{case}\t{metric}\t{}", value + 0.0);
}
