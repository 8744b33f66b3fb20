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
    fn new(what: &str) -> Self {
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
            // One to a server that is the primary no more is of no use. Redis 6 says so of a script in the text only.
            is_of_the_connection: error.is_io_error()
                || error.is_unrecoverable_error()
                || error.code() == Some("READONLY")
                || error.detail().is_some_and(|detail| detail.contains("READONLY")),
        }
    }

    /// No answer came in time.
    pub(crate) fn of_silence() -> Self {
        let io = Some(Arc::new(io::ErrorKind::TimedOut.into()));
        Failure { io, is_of_the_connection: true, ..Self::new("it does not answer") }
    }

    /// A task has panicked.
    pub(crate) fn of_task() -> Self {
        Self::new("a task of its client has panicked")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_primary_does_is_left_to_another_connection_also_where_a_script_was_refused() {
        let failure = |line: &str| {
            let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            Failure::of(answer.extract_error().unwrap_err())
        };
        let refused = "READONLY You can't write against a read only replica.";
        // So says Redis 6.
        let in_script =
            format!("ERR Error running script (call to f_1): @user_script:7: @user_script: 7: -{refused}");
        assert!(failure(refused).is_of_the_connection() && failure(&in_script).is_of_the_connection());
        assert!(!failure("ERR Error running script (call to f_1): something else").is_of_the_connection());
        assert_eq!(failure(&in_script).to_string(), "Redis has failed: response error (ERR)");
    }
}
