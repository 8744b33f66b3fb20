//! The tables of the page, as Markdown.

use std::collections::BTreeSet;

use crate::{figures::Figures, goals::GOALS, quantity::Quantity};

pub fn goals(figures: &Figures) -> String {
    let mut table = String::from(
        "| what | unit | gate | aim | measured | | best peer | ratio | part |\n|---|---|---:|---:|---:|---|---|---:|---|\n",
    );
    for goal in &GOALS {
        let measured = goal.measured.of(figures);
        let state = match measured {
            None => "",
            Some(value) if value <= goal.aim => "aim",
            Some(value) if value <= goal.gate => "gate",
            Some(_) => "missed",
        };
        let of = |key| Quantity::Of(key).of(figures);
        let peer = goal.peer.as_ref().and_then(|peer| Some((peer, of(peer.figure)?)));
        let (peer, ratio) = peer.map_or_else(Default::default, |(peer, value)| {
            let ours = of(peer.ours).filter(|_| value > 0.0);
            let ratio = ours.map_or_else(String::new, |ours| format!("{:.2}", ours / value));
            (format!("{}: {}", peer.name, number(value)), ratio)
        });
        table.push_str(&format!(
            "| {} | {} | {} | {} | {} | {state} | {peer} | {ratio} | `{}` |\n",
            goal.name,
            goal.unit,
            number(goal.gate),
            number(goal.aim),
            measured.map_or("–".to_owned(), number),
            goal.part
        ));
    }
    table
}

/// The figures of some groups, a row for each case and a column for each metric, in the order they were measured.
pub fn figures(figures: &Figures, groups: &[&str]) -> String {
    let mut metrics = Vec::new();
    let mut cases = Vec::new();
    for figure in figures.all().iter().filter(|figure| groups.contains(&figure.group.as_str())) {
        push_new(&mut metrics, figure.metric.as_str());
        push_new(&mut cases, (figure.group.as_str(), figure.case.as_str()));
    }
    let mut table = format!("| | {} |\n|---|{}\n", metrics.join(" | "), "---:|".repeat(metrics.len()));
    for (group, case) in cases {
        let name = if groups.len() == 1 { case.to_owned() } else { format!("{group}: {case}") };
        let values = metrics.iter().map(|metric| figures.text([group, case, metric]));
        let values: Vec<_> = values.map(|text| text.map_or(String::new(), readable)).collect();
        table.push_str(&format!("| {name} | {} |\n", values.join(" | ")));
    }
    table
}

/// The group of this name, or those within it.
pub fn groups<'a>(figures: &'a Figures, name: &str) -> Vec<&'a str> {
    let is_in =
        |group: &&str| group.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let groups = figures.all().iter().map(|figure| figure.group.as_str());
    let groups: BTreeSet<_> = groups.filter(is_in).collect();
    groups.into_iter().collect()
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn readable(text: &str) -> String {
    text.parse().map_or(text.to_owned(), number)
}

/// With a comma at each thousand; without decimals where they say nothing.
fn number(value: f64) -> String {
    let decimals = if value.fract() == 0.0 || value.abs() >= 100.0 { 0 } else { 2 };
    let digits = format!("{:.decimals$}", value.abs());
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut grouped = String::new();
    for (place, digit) in whole.char_indices() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if value < 0.0 { "−" } else { "" };
    format!("{sign}{grouped}{rest}")
}
