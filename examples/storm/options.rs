//! What the command line says.

use std::{ops::RangeInclusive, path::PathBuf};

pub(crate) const HELP: &str = "\
A storm of refusals, told three ways: many requests are under way when their token is revoked.

Usage: cargo run --example storm -- [OPTIONS]

Options:
  --requests N      how many requests, 1 to 100000 (default 100)
  --connections N   how many connections at most, 1 to 10000 (default 256); as many requests or more go by HTTP/2.
                    Each takes two of the files that a process may have open (ulimit -n)
  --svg FILE        draw every request and token call on a time axis into FILE
  --help            print this text

Exits with 0 if tower-token-refresh answered every request with exactly one token call, with 1 if not, and with 2 if
the options are wrong.";

const REQUESTS: RangeInclusive<usize> = 1..=100_000;
const CONNECTIONS: RangeInclusive<usize> = 1..=10_000;

pub(crate) struct Options {
    pub(crate) requests: usize,
    pub(crate) connections: usize,
    pub(crate) svg: Option<PathBuf>,
}

impl Options {
    /// `None` asks for the help text.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options { requests: 100, connections: 256, svg: None };
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--help" | "-h" => return Ok(None),
                "--requests" => options.requests = number(&argument, arguments.next(), REQUESTS)?,
                "--connections" => options.connections = number(&argument, arguments.next(), CONNECTIONS)?,
                "--svg" => {
                    let file = arguments.next().filter(|file| !file.is_empty());
                    options.svg = Some(file.ok_or("--svg needs the name of a file to write")?.into());
                }
                _ => {
                    return Err(format!(
                        "there is no option {argument:?}; allowed are --requests, --connections, --svg and --help"
                    ));
                }
            }
        }
        Ok(Some(options))
    }

    /// HTTP/1.1 takes a connection for each request and one more for the token call.
    pub(crate) fn needs_http2(&self) -> bool {
        self.requests >= self.connections
    }

    /// The most connections that a run may open.
    pub(crate) fn connection_limit(&self) -> usize {
        self.connections.min(self.requests + 1)
    }
}

fn number(name: &str, value: Option<String>, allowed: RangeInclusive<usize>) -> Result<usize, String> {
    let (least, most) = (allowed.start(), allowed.end());
    let Some(value) = value else {
        return Err(format!("{name} needs a number from {least} to {most}"));
    };
    value
        .parse()
        .ok()
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| format!("{name} must be a number from {least} to {most}, not {value:?}"))
}
