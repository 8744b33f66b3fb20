//! Token endpoints and resource servers that break off, stall, or talk nonsense: every caller gets an answer, and the
//! session lives on.

mod authority;
mod cutter;
mod http1;
mod http2;
mod place;
mod resets;
mod resource;
mod scene;
