//! The page: written by hand, but for what stands between markers.

/// Puts `text` between `<!-- NAME -->` and `<!-- end -->`.
pub fn fill(page: &str, name: &str, text: &str) -> Result<String, String> {
    let opening = format!("<!-- {name} -->\n");
    let (before, rest) = page.split_once(&opening).ok_or_else(|| format!("the page has no {opening}"))?;
    let (_, after) = rest.split_once("<!-- end -->").ok_or_else(|| format!("{name} has no end"))?;
    Ok(format!("{before}{opening}{text}<!-- end -->{after}"))
}
