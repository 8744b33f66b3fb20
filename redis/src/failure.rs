//! What goes wrong, without the server's own words.

use std::{error::Error, fmt, io};

use redis::RedisError;
use tokio::runtime::Handle;

/// Some texts of a server repeat the command that it was sent, with a token in it.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: Option<String>,
    io: Option<io::Error>,
}

impl Failure {
    /// The client would panic.
    pub(crate) fn without_runtime() -> Result<(), Self> {
        let missing = |_| Failure { what: "there is no tokio runtime".to_owned(), code: None, io: None };
        Handle::try_current().map(drop).map_err(missing)
    }

    pub(crate) fn of(error: RedisError) -> Self {
        let is_code = |code: &&str| code.bytes().all(|byte| byte.is_ascii_uppercase()) && code.len() <= 20;
        let kind = if error.is_timeout() {
            Some(io::ErrorKind::TimedOut)
        } else if error.is_connection_refusal() {
            Some(io::ErrorKind::ConnectionRefused)
        } else if error.is_connection_dropped() {
            Some(io::ErrorKind::ConnectionReset)
        } else {
            None
        };
        Failure {
            what: error.category().to_owned(),
            code: error.code().filter(is_code).map(ToOwned::to_owned),
            io: kind.map(io::Error::from),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis has failed: {}", self.what)?;
        self.code.iter().try_for_each(|code| write!(f, " ({code})"))
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.io.as_ref().map(|error| error as _)
    }
}
