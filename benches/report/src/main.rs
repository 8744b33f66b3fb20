//! `report criterion FOLDER` prints what criterion has measured; `report render` makes the tables and charts of
//! docs/benchmarks.md from benches/results. Run from the project's root, by `scripts/bench`.

mod charts;
mod criterion;
mod figures;
mod goals;
mod page;
mod quantity;
mod tables;

use std::{env, error::Error, fs, path::Path};

use self::{
    figures::Figures,
    tables::{goals, groups},
};

const PAGE: &str = "docs/benchmarks.md";
const CHARTS: &str = "docs/benchmarks";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["criterion", folder] => criterion::print(Path::new(folder)),
        ["render"] => render(),
        _ => Err("report criterion FOLDER | report render".into()),
    }
}

fn render() -> Result<(), Box<dyn Error>> {
    let figures = Figures::read(Path::new("benches/results"))?;
    let charts = Path::new(CHARTS);
    fs::create_dir_all(charts)?;
    charts::waiters(&figures, &charts.join("waiters.svg"))?;
    charts::last_waiter(&figures, &charts.join("last-waiter.svg"))?;
    charts::overhead(&figures, &charts.join("overhead.svg"))?;
    charts::day(&figures, &charts.join("day.svg"))?;

    let mut page = fs::read_to_string(PAGE)?;
    page = page::fill(&page, "goals", &goals(&figures))?;
    for (marker, names) in [
        ("machine", &["machine"][..]),
        ("request", &["request"]),
        ("rivals", &["overhead"]),
        ("correctness", &["correctness"]),
        ("waiter", &["waiter"]),
        ("rival-waiters", &["waiters-busy", "waiters"]),
        ("upload", &["frame", "upload", "time/replay"]),
        ("policy", &["time/overhead"]),
        ("socket", &["socket", "time/end-to-end"]),
        ("rest", &["expiry", "dropped", "future"]),
    ] {
        let groups: Vec<_> = names.iter().flat_map(|name| groups(&figures, name)).collect();
        page = page::fill(&page, marker, &tables::figures(&figures, &groups))?;
    }
    Ok(fs::write(PAGE, page)?)
}
