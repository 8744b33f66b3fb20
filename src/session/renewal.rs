//! When is a token renewed?

use std::time::Duration;

/// How renewal ahead of expiry is asked for by traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RenewalMode {
    /// In the background, while requests go on with the current token. The renewal ends with the runtime of the request
    /// that has started it, unless the session is bound to another runtime.
    #[default]
    Background,
    /// The request that finds the token due waits for the next one; if the renewal fails, the request goes on with the
    /// current token. The renewal is not tied to the request: as in [`Background`](Self::Background), it ends only with its
    /// runtime.
    Inline,
    /// Not at all: a token is used until it expires or is refused, unless somebody
    /// [keeps it fresh](crate::Session::keep_fresh).
    Off,
}

/// The rule of renewal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    pub(crate) mode: RenewalMode,
    pub(crate) before: Duration,
    pub(crate) jitter: Duration,
}

impl Renewal {
    /// How long after its issue a token of this lifetime is due: so much before its expiry, but never more than a
    /// quarter of its life; and earlier by a random part of the jitter, which is never more than that margin again.
    pub(crate) fn wait(&self, lifetime: Duration, fraction: f64) -> Duration {
        let margin = self.before.min(lifetime / 4);
        lifetime - margin - self.jitter.min(margin).mul_f64(fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn renewal(jitter: Duration) -> Renewal {
        Renewal { mode: RenewalMode::Background, before: 60 * SECOND, jitter }
    }

    #[test]
    fn a_long_lived_token_is_due_at_the_margin_and_a_short_lived_one_after_three_quarters() {
        let renewal = renewal(Duration::ZERO);
        assert_eq!(renewal.wait(7200 * SECOND, 0.9), 7140 * SECOND);
        assert_eq!(renewal.wait(240 * SECOND, 0.9), 180 * SECOND);
        assert_eq!(renewal.wait(100 * SECOND, 0.9), 75 * SECOND);
        assert_eq!(renewal.wait(Duration::from_nanos(3), 0.9), Duration::from_nanos(3));
        assert!(renewal.wait(Duration::MAX, 0.9) < Duration::MAX);
    }

    #[test]
    fn jitter_only_ever_makes_it_earlier_and_at_most_doubles_the_margin() {
        let renewal = renewal(3600 * SECOND);
        for fraction in [0.0, 0.5, 0.999_999] {
            let wait = renewal.wait(7200 * SECOND, fraction);
            assert!((7080 * SECOND..=7140 * SECOND).contains(&wait), "{wait:?}");
            assert!(renewal.wait(SECOND, fraction) >= SECOND / 2);
        }
    }
}
