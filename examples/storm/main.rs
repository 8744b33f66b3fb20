//! What happens when the token of a hundred requests is revoked while they are under way.
//!
//! Three clients meet the same storm, one after the other, over real sockets: the mini program's request wrapper that
//! this crate began with, the same with a mutex around its refresh, and `tower-token-refresh`.
//!
//! ```text
//! cargo run --example storm -- --requests 1000 --svg storm.svg
//! ```

mod connector;
mod mutex;
mod options;
mod original;
mod ours;
mod phone;
mod report;
mod run;
mod server;
mod svg;
mod wire;

use std::{fs, process::ExitCode};

use tower_token_refresh::BoxError;

use crate::{
    options::{HELP, Options},
    run::{Variant, run},
};

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("storm: {error}");
            return ExitCode::from(2);
        }
    };
    match storm(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("storm: tower-token-refresh did not answer every request with one token call");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("storm: {}", report::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn storm(options: &Options) -> Result<bool, BoxError> {
    println!(
        "{} requests at once by {} on 127.0.0.1, over {} connections at most",
        report::grouped(options.requests),
        if options.needs_http2() { "HTTP/2" } else { "HTTP/1.1" },
        report::grouped(options.connection_limit()),
    );
    let mut outcomes = Vec::new();
    for variant in Variant::ALL {
        outcomes.push(run(variant, options).await?);
    }
    report::print(&outcomes, options);
    if let Some(file) = &options.svg {
        fs::write(file, svg::draw(&outcomes)).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("The timeline is in {}.", file.display());
    }
    Ok(report::ours_held(&outcomes, options.requests))
}
