//! The charts of the page, as SVG.

use std::{error::Error, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::figures::Figures;

type Result = std::result::Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0, 114, 178);
/// Told apart by colour-blind readers, too.
const COLOURS: [RGBColor; 7] = [
    OURS,
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
];

/// A line of a chart: its name, and where it goes.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// Instructions per waiter, from 1 to 100,000.
pub fn waiters(figures: &Figures, file: &Path) -> Result {
    let mut lines = vec![by_size(figures, "waiter", "session", "tower-token-refresh")];
    let others = figures.of_group("waiters/100000").filter(|figure| figure.metric == "instructions");
    for other in others.filter(|other| !is_ours(&other.case) && other.case != "spawn-and-yield") {
        let points = sizes().filter_map(|size| {
            Some((size, figures.number([&format!("waiters/{size}"), &other.case, "instructions"])?))
        });
        lines.push(Line { name: other.case.clone(), points: points.collect() });
    }
    logarithmic(file, "Instructions a waiter", "waiters for one refresh", lines)
}

/// Microseconds until the last waiter has the token.
pub fn last_waiter(figures: &Figures, file: &Path) -> Result {
    let settings = ["current-thread-idle", "current-thread-busy", "multi-thread-idle", "multi-thread-busy"];
    let lines = settings.map(|setting| {
        let group = format!("time/contention/{setting}");
        let points = sizes().filter_map(|size| {
            Some((size, figures.number([&group, &size.to_string(), "nanoseconds"])? / 1e3))
        });
        Line { name: setting.to_owned(), points: points.collect() }
    });
    logarithmic(file, "From the fetch's end to the last waiter, µs", "waiters for one refresh", lines.into())
}

/// What each stack costs a request.
pub fn overhead(figures: &Figures, file: &Path) -> Result {
    let bars = figures.of_group("overhead/post").filter(|figure| figure.metric == "instructions");
    let bars = bars.filter(|figure| !figure.case.contains("bare"));
    let mut bars: Vec<_> =
        bars.filter_map(|bar| Some((bar.case.as_str(), bar.value.parse::<f64>().ok()?))).collect();
    bars.sort_by(|one, other| one.1.total_cmp(&other.1));
    let most = bars.iter().map(|bar| bar.1).fold(1.0, f64::max);
    let area = area(file)?;
    let area = area
        .margin(10, 0, 0, 0)
        .titled("Instructions a POST of 4 headers and 1 KiB, over the bare service", (FONT, 18))?;
    let (label, width, height) = (250, 420.0, 30);
    for (row, (name, value)) in bars.into_iter().enumerate() {
        let top = 20 + row as i32 * (height + 5);
        let colour = if is_ours(name) { OURS } else { COLOURS[6] };
        let end = label + (width * value.max(0.0) / most) as i32;
        area.draw(&Rectangle::new([(label, top), (end, top + height)], colour.filled()))?;
        let middle = top + height / 2;
        let style = (FONT, 14).into_font().color(&BLACK);
        let name_style = style.pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(name.to_owned(), (label - 8, middle), name_style))?;
        let value_style = (FONT, 14).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(format!("{value:.0}"), (end + 6, middle), value_style))?;
    }
    area.present()?;
    Ok(())
}

/// Live memory at each hour of a day.
pub fn day(figures: &Figures, file: &Path) -> Result {
    let hours = figures.of_group("day").filter(|figure| figure.metric == "live_bytes");
    let points: Vec<_> =
        hours.filter_map(|hour| Some((hour.case.parse().ok()?, hour.value.parse().ok()?))).collect();
    let most = points.iter().map(|point: &(f64, f64)| point.1).fold(1.0, f64::max);
    let area = area(file)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Bytes on the heap during 24 hours of traffic", (FONT, 18))
        .margin(16)
        .margin_right(32)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..24.0, 0.0..most * 1.3)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("hour")
        .x_labels(13)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    chart.draw_series(LineSeries::new(points, OURS.stroke_width(2)))?;
    area.present()?;
    Ok(())
}

fn logarithmic(file: &Path, title: &str, x: &str, lines: Vec<Line>) -> Result {
    let lines = lines.into_iter().map(|line| {
        // Noise may take a cost below nothing, where no logarithm is.
        let points = line.points.into_iter().filter(|point| point.1 >= 1.0).collect();
        Line { points, ..line }
    });
    let lines: Vec<_> = lines.collect();
    let most = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(10.0, f64::max);
    let area = area(file)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(16)
        .margin_right(32)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..1e5).log_scale(), (1.0..most * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    for (line, colour) in lines.into_iter().zip(COLOURS.iter().cycle()) {
        let points = line.points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(points)?;
        chart
            .draw_series(LineSeries::new(line.points, colour.stroke_width(2)))?
            .label(line.name)
            .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    area.present()?;
    Ok(())
}

fn area(file: &Path) -> std::result::Result<Area<'_>, Box<dyn Error>> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

fn by_size(figures: &Figures, group: &str, case: &str, name: &str) -> Line {
    let points = sizes()
        .filter_map(|size| Some((size, figures.number([group, &format!("{case}/{size}"), "instructions"])?)));
    Line { name: name.to_owned(), points: points.collect() }
}

fn sizes() -> impl Iterator<Item = f64> {
    (0..=5).map(|power| 10_f64.powi(power))
}

fn whole(number: &f64) -> String {
    format!("{number:.0}")
}

fn is_ours(case: &str) -> bool {
    case.starts_with("tower-token-refresh")
}
