//! What becomes of refused requests, and how often the authority is asked for it. Gates decide the order of things.

mod scenario;
mod world;

use crate::{
    contest::Client,
    rivals::{
        async_singleflight::AsyncSingleflight,
        cf_gears::{CfGears, CfGearsUnthrottled},
        double_check::DoubleCheck,
        hand_written::HandWritten,
        moka::Moka,
        once_cell::CellForEach,
        ours::Ours,
    },
};

pub use self::{scenario::Scenario, world::Findings};

/// A client that gets another token after a refusal.
#[derive(Debug, Clone, Copy)]
pub struct Refreshing {
    pub name: &'static str,
    /// Whether it can refresh with a refresh token.
    pub has_refresh_tokens: bool,
    pub run: fn(Scenario) -> Findings,
}

pub const CLIENTS: [Refreshing; 7] = [
    of::<HandWritten<DoubleCheck<String>>>(),
    of::<HandWritten<CellForEach>>(),
    of::<HandWritten<AsyncSingleflight>>(),
    of::<HandWritten<Moka>>(),
    Refreshing { has_refresh_tokens: false, ..of::<CfGears>() },
    Refreshing { has_refresh_tokens: false, ..of::<CfGearsUnthrottled>() },
    of::<Ours>(),
];

const fn of<C: Client>() -> Refreshing {
    Refreshing { name: C::NAME, has_refresh_tokens: true, run: scenario::run::<C> }
}
