//! What is kept of a body while it passes.

use std::vec;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use super::NotReplayable;

/// Data frames shorter than this are copied together: a stream of single bytes must not keep a million frames.
const SHORT: usize = 1024;
/// How much of them goes into one frame.
const CHUNK: usize = 4096;
/// Weight of a trailer field beside its name and value (as HTTP/2 counts it), and of a block of trailers.
const FIELD: usize = 32;

/// The frames that have passed, up to a weight.
pub(super) struct Recording {
    frames: Vec<Kept>,
    /// Short frames that follow the last of `frames`.
    tail: BytesMut,
    room: usize,
}

/// A third the size of a `Frame`.
enum Kept {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl Recording {
    pub(super) fn new(limit: usize) -> Self {
        Recording { frames: Vec::new(), tail: BytesMut::new(), room: limit }
    }

    /// Keeps one more frame.
    ///
    /// # Errors
    ///
    /// The recording has a hole now and must not be replayed.
    #[inline(always)]
    pub(super) fn push(&mut self, frame: &Frame<Bytes>) -> Result<(), NotReplayable> {
        if let Some(data) = frame.data_ref() {
            self.take_up(data.len())?;
            if data.len() >= SHORT {
                self.close_tail();
                self.frames.push(Kept::Data(data.clone()));
            } else {
                if self.tail.len() + data.len() > CHUNK {
                    self.close_tail();
                }
                self.tail.extend_from_slice(data);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.take_up(weight(trailers))?;
            self.close_tail();
            self.frames.push(Kept::Trailers(Box::new(trailers.clone())));
        } else {
            return Err(NotReplayable::UnknownFrame);
        }
        Ok(())
    }

    pub(super) fn into_frames(mut self) -> Frames {
        self.close_tail();
        Frames(self.frames.into_iter())
    }

    fn take_up(&mut self, weight: usize) -> Result<(), NotReplayable> {
        self.room = self.room.checked_sub(weight).ok_or(NotReplayable::TooLarge)?;
        Ok(())
    }

    // Always, because it has nearly never anything to do.
    #[inline(always)]
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.frames.push(Kept::Data(std::mem::take(&mut self.tail).freeze()));
        }
    }
}

fn weight(trailers: &HeaderMap) -> usize {
    let fields = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    FIELD + fields.sum::<usize>()
}

/// The frames of a [`Recording`], in order.
#[derive(Default)]
pub(super) struct Frames(vec::IntoIter<Kept>);

impl Iterator for Frames {
    type Item = Frame<Bytes>;

    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.0.next().map(|kept| match kept {
            Kept::Data(data) => Frame::data(data),
            Kept::Trailers(trailers) => Frame::trailers(*trailers),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Frames {}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn record(limit: usize, sizes: &[usize]) -> Result<Vec<usize>, NotReplayable> {
        let mut recording = Recording::new(limit);
        for &size in sizes {
            recording.push(&Frame::data(Bytes::from(vec![b'x'; size])))?;
        }
        Ok(recording.into_frames().map(|frame| frame.into_data().expect("data only").len()).collect())
    }

    #[test]
    fn limit_is_the_last_size_that_fits() {
        for chunk in [1, 100, SHORT, 10_000] {
            let whole = vec![chunk; 10];
            assert!(record(10 * chunk, &whole).is_ok());
            assert_eq!(record(10 * chunk - 1, &whole), Err(NotReplayable::TooLarge));
        }
    }

    #[test]
    fn tiny_frames_are_kept_together() {
        assert_eq!(record(usize::MAX, &[1; 10_000]), Ok(vec![CHUNK, CHUNK, 10_000 - 2 * CHUNK]));
    }

    #[test]
    fn long_frames_are_kept_without_a_copy() {
        let long = Bytes::from(vec![b'x'; SHORT]);
        let mut recording = Recording::new(SHORT);
        recording.push(&Frame::data(long.clone())).expect("it fits");
        let kept =
            recording.into_frames().next().and_then(|frame| frame.into_data().ok()).expect("one frame");
        assert_eq!(kept.as_ptr(), long.as_ptr());
    }

    #[test]
    fn long_frame_closes_the_short_ones_before_it() {
        assert_eq!(record(usize::MAX, &[3, 4, SHORT, 5, 0, 6]), Ok(vec![7, SHORT, 11]));
    }

    #[test]
    fn empty_frames_are_not_kept() {
        assert_eq!(record(0, &[0; 1000]), Ok(vec![]));
    }

    #[test]
    fn trailers_have_weight() {
        let mut trailers = HeaderMap::new();
        trailers.insert("digest", HeaderValue::from_static("abcd"));
        let frame = Frame::trailers(trailers);
        let needed = FIELD + "digest".len() + "abcd".len() + FIELD;
        assert_eq!(Recording::new(needed).push(&frame), Ok(()));
        assert_eq!(Recording::new(needed - 1).push(&frame), Err(NotReplayable::TooLarge));
        assert_eq!(Recording::new(0).push(&Frame::trailers(HeaderMap::new())), Err(NotReplayable::TooLarge));
    }
}
