//! Against a real `redis-server`, which `scripts/redis` installs. Each test runs one of its own.

mod leases;
mod line;
mod outages;
mod records;
mod runtimes;
mod server;
mod sessions;
mod storms;
