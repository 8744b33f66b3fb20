//! What a token costs a request when nothing goes wrong.

use crate::{
    api::{Api, ORDERS, Shape},
    authority::{Authority, Conduct},
    contest::Client,
    rivals::{
        bare::Bare,
        cf_gears::CfGears,
        hand_written::WithDoubleCheck,
        kube::Kube,
        ours::{Ours, OursWithoutReplay},
        reqwest::{ReqwestBare, ReqwestMiddleware},
        retry::RetryStatic,
        static_header::StaticHeader,
    },
    runtime::one_thread,
};

/// A client whose requests are counted.
#[derive(Debug, Clone, Copy)]
pub struct Overhead {
    pub name: &'static str,
    pub baseline: Option<&'static str>,
    /// Sends so many requests of a shape, and does nothing else that depends on their number.
    pub send: fn(Shape, usize),
}

/// Baselines come before those that are measured against them.
pub const CLIENTS: [Overhead; 10] = [
    of::<Bare>(),
    of::<StaticHeader>(),
    of::<RetryStatic>(),
    of::<Kube>(),
    of::<ReqwestBare>(),
    of::<ReqwestMiddleware>(),
    of::<CfGears>(),
    Overhead { name: "hand-written", ..of::<WithDoubleCheck>() },
    of::<OursWithoutReplay>(),
    of::<Ours>(),
];

const fn of<C: Client>() -> Overhead {
    Overhead { name: C::NAME, baseline: C::BASELINE, send: send::<C> }
}

fn send<C: Client>(shape: Shape, requests: usize) {
    one_thread().block_on(async {
        let mut client = C::new(&Authority::new(Conduct::Generous), &Api::open());
        for _ in 0..requests {
            client.send(shape.request(ORDERS)).await.expect("an answer");
        }
    });
}
