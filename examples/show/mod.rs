use tower_token_refresh::BoxError;

/// Says what has happened, and ends the example if it has not.
pub(crate) fn show(what: &str, is_so: bool) -> Result<(), BoxError> {
    println!("  {what}");
    if is_so { Ok(()) } else { Err(format!("this is not so: {what}").into()) }
}
