//! What the process holds: memory and descriptors, as the kernel counts them.

use std::{fs, io, time::Duration};

use tokio::time::{self, Instant};

use crate::tally::Tally;

/// How many samples are taken in all.
const SAMPLES: u32 = 120;
/// What an allocator may keep back for its own reasons.
const SLACK_MIB: f64 = 8.0;
/// Connections that are opened in the place of broken ones come and go.
const SLACK_DESCRIPTORS: f64 = 32.0;

#[derive(Clone, Copy)]
struct Sample {
    mib: f64,
    descriptors: f64,
}

/// What was held at each moment.
pub(crate) struct Vitals(Vec<Sample>);

impl Vitals {
    /// Follows the process until then.
    pub(crate) async fn until(end: Instant) -> io::Result<Self> {
        let mut ticks = time::interval((end - Instant::now()) / SAMPLES);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut samples = Vec::new();
        while Instant::now() + Duration::from_millis(1) < end {
            ticks.tick().await;
            samples.push(Sample {
                mib: resident_mib()?,
                descriptors: fs::read_dir("/proc/self/fd")?.count() as f64,
            });
        }
        Ok(Vitals(samples))
    }

    /// Compares the last quarter with the second: the first is for warming up.
    pub(crate) fn judge(&self, tally: &Tally) -> String {
        let quarter = self.0.len() / 4;
        let median = |of: fn(&Sample) -> f64, samples: &[Sample]| {
            let mut values: Vec<f64> = samples.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (early, late) = (&self.0[quarter..2 * quarter], &self.0[3 * quarter..]);
        let compare = |name, of: fn(&Sample) -> f64, slack: f64| {
            let (before, after) = (median(of, early), median(of, late));
            if after > before + slack {
                tally.violation(format_args!(
                    "{name}: {before:.1} in the second quarter, {after:.1} in the last"
                ));
            }
            format!("{name} {before:.1} -> {after:.1}")
        };
        let memory = compare("MiB resident", |sample| sample.mib, SLACK_MIB);
        let descriptors = compare("descriptors", |sample| sample.descriptors, SLACK_DESCRIPTORS);
        format!("{memory}, {descriptors}")
    }
}

fn resident_mib() -> io::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}
