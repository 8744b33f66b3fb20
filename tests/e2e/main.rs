//! Tests over real sockets, HTTP/1.1 and HTTP/2.
//!
//! A scenario is a function that is told which of the two to speak; the tests are its two names. Nothing sleeps: gates,
//! counters and bodies that wait for the test decide the order, and a scenario that hangs fails.

mod dropped;
mod faults;
mod framing;
mod kit;
mod one_connection;
mod recovery;
mod redirects;
mod transport;
mod uploads;
