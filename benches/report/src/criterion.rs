//! The medians that criterion keeps in its own files.

use std::{error::Error, fs, io, path::Path};

use serde_json::Value;

/// Prints each as `time/GROUP`, `CASE`, `nanoseconds` and the number, separated by tabs.
pub fn print(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut paths = fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.ends_with("new") {
            let [benchmark, estimates] =
                ["benchmark.json", "estimates.json"].map(|name| read(&path.join(name)));
            let (benchmark, estimates) = (benchmark?, estimates?);
            let case = benchmark["function_id"].as_str().or(benchmark["value_str"].as_str());
            let (Some(group), Some(case), Some(median)) =
                (benchmark["group_id"].as_str(), case, estimates["median"]["point_estimate"].as_f64())
            else {
                return Err(format!("{} is not criterion's", path.display()).into());
            };
            println!("time/{group}\t{case}\tnanoseconds\t{median:.1}");
        } else if path.is_dir() {
            print(&path)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value, Box<dyn Error>> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}
