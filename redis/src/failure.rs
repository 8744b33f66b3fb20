//! What goes wrong, without the server's own words.

use std::{error::Error, fmt, io, sync::Arc};

use redis::RedisError;

/// Some texts of a server repeat the command that it was sent, with a token in it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    what: String,
    code: Option<String>,
    io: Option<Arc<io::Error>>,
    is_of_the_connection: bool,
}

impl Failure {
    pub(crate) fn new(what: &str) -> Self {
        Failure { what: what.to_owned(), code: None, io: None, is_of_the_connection: false }
    }

    pub(crate) fn of(error: RedisError) -> Self {
        let is_code = |code: &&str| code.len() <= 20 && code.bytes().all(|byte| byte.is_ascii_uppercase());
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
            io: kind.map(io::Error::from).map(Arc::new),
            // One to a server that is the primary no more is of no use.
            is_of_the_connection: error.is_io_error()
                || error.is_unrecoverable_error()
                || error.code() == Some("READONLY"),
        }
    }

    /// No answer came in time.
    pub(crate) fn of_silence() -> Self {
        let io = Some(Arc::new(io::ErrorKind::TimedOut.into()));
        Failure { io, is_of_the_connection: true, ..Self::new("it does not answer") }
    }

    /// A task was dropped or has panicked.
    pub(crate) fn of_task() -> Self {
        let what = "the runtime has ended, or lacks I/O or timers";
        Failure { is_of_the_connection: true, ..Self::new(what) }
    }

    /// Whether another connection would do.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        self.is_of_the_connection
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
        self.io.as_deref().map(|error| error as _)
    }
}
