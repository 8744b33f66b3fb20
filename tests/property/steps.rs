//! What can happen, and how often it does.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use tower_token_refresh::{session::RenewalMode, test_util::Rotation};

/// What stays the same for a whole run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    /// How long an access token lives, in seconds.
    pub(crate) lifetime: Option<u64>,
    pub(crate) rotation: Rotation,
    /// It brings the next refresh token at times only, as the bits of the seed say.
    pub(crate) at_times: bool,
    pub(crate) newest_only: bool,
    /// A refused token is refused by a challenge that says so, or else by a bare 403.
    pub(crate) certain: bool,
    pub(crate) renewal: RenewalMode,
    /// Where a refresh token is dead, the password is used.
    pub(crate) password: bool,
    /// A second process shares the store.
    pub(crate) sibling: bool,
    /// The store tells of changes.
    pub(crate) tells: bool,
    /// The source gives up on an answer by itself before a refresh is overdue.
    pub(crate) impatient: bool,
}

/// One thing that happens. Numbers stand for one of what there is at that moment, so that whatever is left of a list
/// of steps is a list of steps, too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Request(usize, Kind, Hold),
    /// The API goes on with a held request.
    Answer(usize),
    /// From now on no service is ready for a request, or all are again.
    Shut(bool),
    /// A caller gives up.
    Drop(usize),
    Ask(usize, Asked),
    Login(usize, Account),
    /// With nothing but a refresh token.
    LoginByRefresh(usize, Account),
    /// With a refresh token, or without.
    Replace(usize, bool),
    Logout(usize),
    CredentialsChanged(usize),
    /// What comes of a later call of the authority, first come, first served.
    Next(Outcome),
    /// The authority goes on with a held call.
    Release(usize),
    Revoke(Revoked),
    Fault(usize, Call, Fault),
    Heal(usize),
    /// The process is killed, and another one takes its place.
    Restart(usize),
    /// So many turns for the tasks that are ready.
    Run(u8),
    Pass(Duration),
    Clock(Jump, Duration),
    /// Two minutes of requests of this kind, to an endpoint that refuses every token.
    Hammer(usize, Kind),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Get,
    Post,
    /// With a body that is too large to be replayed.
    Upload,
    /// To an endpoint that refuses every token.
    Sick,
    /// The same with a body that is too large to be replayed.
    SickUpload,
    SkipRefresh,
    NoToken,
    /// With a credential of the caller's own.
    Own,
    /// To another origin, one of several.
    Foreign(usize),
    /// The connection breaks at this attempt.
    Reset(usize),
}

/// Where the API holds each attempt of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hold {
    Nowhere,
    /// Before its token is looked at.
    Judge,
    /// After that: a late answer.
    Answer,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    Token,
    ValidFor(Duration),
    Refresh,
    Start,
    Settle,
    KeepFresh,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    Alice,
    Bob,
}

/// What comes of a call of the authority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Works,
    /// The call is held before anything is done.
    Late,
    /// The work is done, and the answer is held.
    LateAnswer,
    InvalidGrant,
    InvalidClient,
    Unavailable,
    /// 429, to be tried again after this many seconds.
    RetryAfter(u16),
    /// 500: whether the work was done is unknown. It was not.
    ServerError,
    /// 403 with a web page.
    Forbidden,
    /// 200 with nothing in it.
    Empty,
    NoConnection,
    /// The work is done, and the answer is lost.
    Lost,
    NeverAnswered,
    /// Nothing is sent, because the source panics.
    Panics,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Revoked {
    Access,
    Refresh,
    Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Load,
    Save,
    Lock,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    Fails,
    Hangs,
    /// It is done, and an error is returned.
    FailsAfterwards,
    HangsAfterwards,
}

impl Fault {
    pub(crate) fn at_once(self) -> Self {
        match self {
            Fault::FailsAfterwards => Fault::Fails,
            Fault::HangsAfterwards => Fault::Hangs,
            other => other,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Jump {
    /// Time passes, and no timer of ours has fired yet.
    Both,
    /// The machine sleeps.
    Suspend,
    WallForward,
    WallBack,
    /// Time passes, and the wall clock is set back by as much.
    MonotonicOnly,
}

pub(crate) fn configs() -> impl Strategy<Value = Config> {
    let rotation = prop_oneof![
        6 => Just(Rotation::ReuseKillsFamily),
        1 => Just(Rotation::On),
        1 => Just(Rotation::Omitted),
        1 => Just(Rotation::Off),
    ];
    let renewal = select(&[RenewalMode::Background, RenewalMode::Inline, RenewalMode::Off]);
    (
        (any::<u64>(), select(&[None, Some(40), Some(300), Some(7200)]), rotation, any::<bool>(), renewal),
        any::<[bool; 6]>(),
    )
        .prop_map(|((seed, lifetime, rotation, newest_only, renewal), others)| {
            let [at_times, certain, password, sibling, tells, impatient] = others;
            Config {
                seed,
                lifetime,
                rotation,
                at_times: at_times && rotation == Rotation::ReuseKillsFamily,
                newest_only,
                certain,
                renewal,
                password,
                sibling,
                tells,
                impatient,
            }
        })
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..=most)
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..2_usize;
    let any_of = || 0..16_usize;
    prop_oneof![
        30 => (at(), kind(), hold()).prop_map(|(at, kind, hold)| Step::Request(at, kind, hold)),
        12 => any_of().prop_map(Step::Answer),
        4 => prop_oneof![Just(true), Just(false)].prop_map(Step::Shut),
        6 => any_of().prop_map(Step::Drop),
        8 => (at(), asked()).prop_map(|(at, asked)| Step::Ask(at, asked)),
        3 => (at(), account()).prop_map(|(at, who)| Step::Login(at, who)),
        1 => (at(), account()).prop_map(|(at, who)| Step::LoginByRefresh(at, who)),
        2 => (at(), any::<bool>()).prop_map(|(at, whole)| Step::Replace(at, whole)),
        2 => at().prop_map(Step::Logout),
        1 => at().prop_map(Step::CredentialsChanged),
        8 => outcome().prop_map(Step::Next),
        6 => any_of().prop_map(Step::Release),
        6 => select(&[Revoked::Access, Revoked::Access, Revoked::Refresh, Revoked::Family]).prop_map(Step::Revoke),
        4 => (at(), call(), fault()).prop_map(|(at, call, fault)| Step::Fault(at, call, fault)),
        6 => at().prop_map(Step::Heal),
        2 => at().prop_map(Step::Restart),
        40 => (1..12_u8).prop_map(Step::Run),
        20 => duration().prop_map(Step::Pass),
        4 => (jump(), duration()).prop_map(|(jump, time)| Step::Clock(jump, time)),
        1 => (at(), select(&[Kind::Sick, Kind::SickUpload])).prop_map(|(at, kind)| Step::Hammer(at, kind)),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        10 => Just(Kind::Get),
        4 => Just(Kind::Post),
        2 => Just(Kind::Upload),
        3 => Just(Kind::Sick),
        1 => Just(Kind::SickUpload),
        1 => Just(Kind::SkipRefresh),
        1 => Just(Kind::NoToken),
        1 => Just(Kind::Own),
        2 => (0..16_usize).prop_map(Kind::Foreign),
        1 => (1..3_usize).prop_map(Kind::Reset),
    ]
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![4 => Just(Hold::Nowhere), 1 => Just(Hold::Judge), 2 => Just(Hold::Answer)]
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        4 => Just(Asked::Token),
        2 => select(&[10, 100, 1000])
            .prop_map(|seconds| Asked::ValidFor(Duration::from_secs(seconds))),
        3 => Just(Asked::Refresh),
        1 => Just(Asked::Start),
        1 => Just(Asked::Settle),
        1 => Just(Asked::KeepFresh),
    ]
}

fn account() -> impl Strategy<Value = Account> {
    select(&[Account::Alice, Account::Bob])
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Works),
        4 => Just(Outcome::Late),
        4 => Just(Outcome::LateAnswer),
        2 => Just(Outcome::InvalidGrant),
        1 => Just(Outcome::InvalidClient),
        1 => Just(Outcome::Unavailable),
        1 => select(&[5, 90]).prop_map(Outcome::RetryAfter),
        1 => Just(Outcome::ServerError),
        1 => Just(Outcome::Forbidden),
        1 => Just(Outcome::Empty),
        1 => Just(Outcome::NoConnection),
        3 => Just(Outcome::Lost),
        1 => Just(Outcome::NeverAnswered),
        1 => Just(Outcome::Panics),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    select(&[Call::Load, Call::Save, Call::Save, Call::Lock])
}

fn fault() -> impl Strategy<Value = Fault> {
    select(&[Fault::Fails, Fault::Hangs, Fault::FailsAfterwards, Fault::HangsAfterwards])
}

fn jump() -> impl Strategy<Value = Jump> {
    select(&[Jump::Both, Jump::Suspend, Jump::WallForward, Jump::WallBack, Jump::MonotonicOnly])
}

/// Around the limits that there are.
fn duration() -> impl Strategy<Value = Duration> {
    const MILLIS: &[u64] =
        &[1, 100, 600, 1_000, 2_500, 5_100, 10_100, 29_000, 31_000, 61_000, 95_000, 125_000, 1_000_000];
    select(MILLIS).prop_map(Duration::from_millis)
}
