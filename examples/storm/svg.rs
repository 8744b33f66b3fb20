//! The timeline: a band for each variant, a line for each request, a bar for each token call.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use http::StatusCode;

use crate::{
    report::{duration, grouped},
    run::{Outcome, Variant},
    wire::Exchange,
};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 118.0;
/// The heights of a band's parts: token calls, requests, and the space to the next band.
const LANES: f64 = 56.0;
const ROWS: f64 = 200.0;
const GAP: f64 = 44.0;
/// More lines than this cannot be told apart.
const MOST_ROWS: usize = 100;
const MOST_LANES: usize = 40;

const STYLE: &str = "
  text { font: 13px ui-sans-serif, system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #475569 }
  .title { font-size: 22px; font-weight: 650; fill: #0f172a }
  .name { font-size: 15px; font-weight: 650; fill: #0f172a }
  .small { font-size: 11.5px; fill: #64748b }
  .number { font-weight: 650; fill: #0f172a }
  .bad { font-weight: 650; fill: #be123c }
  .good { font-weight: 650; fill: #047857 }
  .panel { fill: #f8fafc }
  .grid { stroke: #e2e8f0 }
  .first { stroke: #60a5fa } .wait { stroke: #cbd5e1 } .resend { stroke: #10b981 } .again { stroke: #fb923c }
  .never { stroke: #f43f5e; stroke-opacity: .55 }
  .mark { stroke: #334155; stroke-dasharray: 3 3 }
  .token { fill: #7c3aed }
";

/// One request from its first attempt to whatever became of it.
struct Row {
    first: Exchange,
    second: Option<Exchange>,
}

impl Row {
    /// When its last answer came.
    fn end(&self) -> Duration {
        self.second.unwrap_or(self.first).answer.map_or(Duration::MAX, |(moment, _)| moment)
    }

    fn is_accepted(&self) -> bool {
        let last = self.second.unwrap_or(self.first);
        last.answer.is_some_and(|(_, status)| status.is_success())
    }
}

/// Moments to pixels.
struct Scale {
    end: Duration,
}

impl Scale {
    fn x(&self, moment: Duration) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (moment.as_secs_f64() / self.end.as_secs_f64()).min(1.0)
    }

    /// Round moments, at most eight.
    fn ticks(&self) -> impl Iterator<Item = Duration> {
        let steps = (0..12).flat_map(|power| [1, 2, 5].map(|factor| factor * 10_u64.pow(power)));
        let step = steps.map(Duration::from_micros).find(|step| *step * 8 >= self.end).unwrap_or(self.end);
        let end = self.end;
        (0..).map(move |number| step * number).take_while(move |moment| *moment <= end)
    }
}

pub(crate) fn draw(outcomes: &[Outcome]) -> String {
    let last = |outcome: &Outcome| {
        let answers = outcome.exchanges.iter().filter_map(|exchange| exchange.answer);
        answers.map(|(moment, _)| moment).max().unwrap_or_default().saturating_sub(outcome.began)
    };
    let end = outcomes.iter().map(last).max().unwrap_or_default().mul_f64(1.06);
    let scale = Scale { end: end.max(Duration::from_micros(1)) };
    let band = LANES + ROWS + GAP;
    let height = TOP + band * outcomes.len() as f64 + 30.0;

    let mut svg = String::new();
    head(&mut svg, height, outcomes);
    for (number, outcome) in outcomes.iter().enumerate() {
        draw_band(&mut svg, outcome, &scale, TOP + band * number as f64);
    }
    for moment in scale.ticks() {
        let (x, y) = (scale.x(moment), height - 46.0);
        line(
            &mut svg,
            &format!(
                r#"<text class="small" x="{x:.1}" y="{y}" text-anchor="middle">{}</text>"#,
                tick(moment)
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, height: f64, outcomes: &[Outcome]) {
    let requests = outcomes.iter().map(|outcome| outcome.answered() + outcome.refused + outcome.never).max();
    let requests = grouped(requests.unwrap_or_default());
    line(
        svg,
        &format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="title">"#,
        ),
    );
    line(
        svg,
        &format!(
            r#"<title id="title">{requests} requests whose token is revoked while they are under way</title>"#
        ),
    );
    line(svg, &format!("<style>{STYLE}</style>"));
    line(svg, &format!(r##"<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>"##));
    line(svg, &format!(r#"<text class="title" x="28" y="44">{requests} requests, one revoked token</text>"#));
    let mut x = 28.0;
    for (class, text) in [
        ("first", "first attempt"),
        ("wait", "waiting for a token"),
        ("resend", "resend, answered"),
        ("again", "resend, refused again"),
        ("never", "never answered"),
    ] {
        line(
            svg,
            &format!(
                r#"<path class="{class}" stroke-width="4" stroke-linecap="round" d="M{x:.0} 72h18"/><text x="{:.0}" y="76.5">{text}</text>"#,
                x + 27.0
            ),
        );
        x += 58.0 + 6.6 * text.len() as f64;
    }
    line(
        svg,
        &format!(
            r#"<rect class="token" x="{x:.0}" y="66" width="18" height="11" rx="2"/><text x="{:.0}" y="76.5">token call</text>"#,
            x + 27.0
        ),
    );
}

fn draw_band(svg: &mut String, outcome: &Outcome, scale: &Scale, top: f64) {
    let since = |moment: Duration| moment.saturating_sub(outcome.began);
    let (mut rows, token_calls) = sort_out(&outcome.exchanges, outcome.began);
    rows.sort_by_key(|row| (!row.is_accepted(), row.end()));
    let all = rows.len();
    let shown = thin_out(rows, MOST_ROWS);
    label(svg, outcome, top, shown.len(), all);

    let (width, height) = (WIDTH - LEFT - RIGHT, LANES + ROWS);
    line(
        svg,
        &format!(r#"<rect class="panel" x="{LEFT}" y="{top}" width="{width}" height="{height}" rx="6"/>"#),
    );
    for moment in scale.ticks() {
        line(svg, &format!(r#"<path class="grid" d="M{:.1} {top}v{height}"/>"#, scale.x(moment)));
    }

    let x = scale.x(since(outcome.revoked));
    line(svg, &format!(r#"<path class="mark" d="M{x:.1} {top}v{height}"/>"#));
    line(
        svg,
        &format!(
            r#"<text class="small" x="{:.1}" y="{}" text-anchor="end">token revoked</text>"#,
            x - 6.0,
            top + 16.0
        ),
    );

    let bars = token_calls.iter().map(|call| {
        let end = call.answer.map_or(scale.end, |(moment, _)| since(moment));
        (scale.x(since(call.start)), scale.x(end))
    });
    let lanes = thin_out(pack(bars), MOST_LANES);
    let thickness = ((LANES - 12.0) / lanes.len().max(1) as f64).min(9.0);
    for (number, lane) in lanes.iter().enumerate() {
        let y = top + 6.0 + thickness * number as f64;
        let height = thickness * 0.8;
        for (start, end) in lane {
            let width = (end - start - 0.4).max(0.6);
            line(
                svg,
                &format!(
                    r#"<rect class="token" x="{start:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}"/>"#
                ),
            );
        }
    }

    let pitch = (ROWS - 8.0) / shown.len().max(1) as f64;
    let stroke = (pitch * 0.72).min(4.0);
    line(svg, &format!(r#"<g fill="none" stroke-width="{stroke:.2}">"#));
    for (number, row) in shown.iter().enumerate() {
        let y = top + LANES + pitch * (number as f64 + 0.5);
        let mut piece = |class: &str, from: Duration, to: Duration| {
            line(
                svg,
                &format!(
                    r#"<path class="{class}" d="M{:.2} {y:.2}H{:.2}"/>"#,
                    scale.x(since(from)),
                    scale.x(since(to))
                ),
            );
        };
        let never = outcome.began + scale.end;
        let refused = row.first.answer.map_or(never, |(moment, _)| moment);
        piece("first", row.first.start, refused);
        let Some(second) = row.second else {
            if !row.is_accepted() {
                piece("never", refused, never);
            }
            continue;
        };
        piece("wait", refused, second.start);
        match second.answer {
            Some((end, StatusCode::FORBIDDEN)) => {
                piece("again", second.start, end);
                if outcome.never > 0 {
                    piece("never", end, never);
                }
            }
            Some((end, _)) => piece("resend", second.start, end),
            None => piece("never", second.start, never),
        }
    }
    svg.push_str("</g>\n");
}

fn label(svg: &mut String, outcome: &Outcome, top: f64, shown: usize, all: usize) {
    let calls = outcome.token_calls;
    let mut lines = vec![
        ("name", outcome.variant.name().to_owned()),
        (
            if calls == 1 { "good" } else { "bad" },
            format!("{} token call{}", grouped(calls), if calls == 1 { "" } else { "s" }),
        ),
        (
            if outcome.answered() == all { "good" } else { "number" },
            format!("{} answered", grouped(outcome.answered())),
        ),
    ];
    if outcome.refused > 0 {
        lines.push(("bad", format!("{} refused", grouped(outcome.refused))));
    }
    if outcome.never > 0 {
        lines.push(("bad", format!("{} never answered", grouped(outcome.never))));
    }
    if let (Variant::Ours, Some(slowest)) = (outcome.variant, outcome.latencies.last()) {
        lines.push(("small", format!("the last after {}", duration(*slowest))));
    }
    if shown < all {
        lines.push(("small", format!("{} of {} drawn", grouped(shown), grouped(all))));
    }
    for (number, (class, text)) in lines.iter().enumerate() {
        let y = top + 16.0 + 21.0 * number as f64;
        line(svg, &format!(r#"<text class="{class}" x="28" y="{y}">{text}</text>"#));
    }
}

/// Requests with their attempts, and token calls in the order of their start. The first launch is left out.
fn sort_out(exchanges: &[Exchange], began: Duration) -> (Vec<Row>, Vec<Exchange>) {
    let mut rows = BTreeMap::<usize, Row>::new();
    let mut token_calls = Vec::new();
    for &exchange in exchanges.iter().filter(|exchange| exchange.start >= began) {
        match exchange.flight {
            Some(flight) if !exchange.is_token_call => {
                rows.entry(flight.0)
                    .and_modify(|row| row.second = Some(exchange))
                    .or_insert(Row { first: exchange, second: None });
            }
            _ => token_calls.push(exchange),
        }
    }
    (rows.into_values().collect(), token_calls)
}

/// Evenly chosen. The first is always among them: that is the answered one, where there is but one.
fn thin_out<T>(items: Vec<T>, most: usize) -> Vec<T> {
    let stride = items.len().div_ceil(most).max(1);
    items.into_iter().step_by(stride).collect()
}

/// As few lanes as it takes for bars, in the order of their start, not to cover each other.
fn pack(bars: impl Iterator<Item = (f64, f64)>) -> Vec<Vec<(f64, f64)>> {
    let mut lanes: Vec<Vec<(f64, f64)>> = Vec::new();
    // When each lane is free again; moments are not negative, so that their bits sort as they do.
    let mut free: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    for bar in bars {
        let lane = match free.peek() {
            Some(&Reverse((end, lane))) if end <= bar.0.to_bits() => {
                free.pop();
                lane
            }
            _ => {
                lanes.push(Vec::new());
                lanes.len() - 1
            }
        };
        free.push(Reverse((bar.1.to_bits(), lane)));
        match lanes[lane].last_mut() {
            // Too close to be told apart, and too many to be written down.
            Some(last) if bar.0 - last.1 < 0.1 => last.1 = bar.1,
            _ => lanes[lane].push(bar),
        }
    }
    lanes
}

fn tick(moment: Duration) -> String {
    let micros = moment.as_micros();
    match micros {
        0 => "0".to_owned(),
        _ if micros % 1_000_000 == 0 => format!("{} s", micros / 1_000_000),
        _ if micros < 1_000_000 => format!("{} ms", micros as f64 / 1e3),
        _ => format!("{} s", micros as f64 / 1e6),
    }
}

fn line(svg: &mut String, text: &str) {
    svg.push_str(text);
    svg.push('\n');
}
