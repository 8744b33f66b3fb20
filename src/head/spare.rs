//! Heads that this thread has used before.

use std::cell::RefCell;

use super::Head;

thread_local! {
    #[expect(clippy::vec_box, reason = "it is the boxes that are used again")]
    static SPARE: RefCell<Vec<Box<Head>>> = const { RefCell::new(Vec::new()) };
}

/// How many of them a thread keeps, and up to which size: half a megabyte in all.
const MOST: usize = 128;
pub(super) const LARGEST: usize = 4096;

/// An empty one.
pub(super) fn take() -> Box<Head> {
    let used = SPARE.try_with(|spare| spare.borrow_mut().pop());
    used.ok().flatten().unwrap_or_default()
}

/// Keeps an empty one, unless there are enough.
pub(super) fn put_back(head: Box<Head>) {
    // Dropped when no more are wanted, or the thread is about to end.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST {
            spare.push(head);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn request(value: usize) -> Request<()> {
        let mut request = Request::get("https://api.example.com/orders?page=2").body(()).expect("a request");
        let value = HeaderValue::from_bytes(&vec![b'x'; value]).expect("a value");
        request.headers_mut().insert("x-own", value);
        request.extensions_mut().insert("an extension");
        request
    }

    #[test]
    fn a_head_is_used_again_and_nothing_of_the_request_before_is_left_in_it() {
        let head = Head::of(&request(100), true);
        let address = std::ptr::from_ref(&*head);
        head.put_back();
        let head = take();
        assert_eq!(std::ptr::from_ref(&*head), address);
        let Head { line, extensions, fields } = &*head;
        assert!(line.is_none() && extensions.is_empty() && fields.read().is_empty());
    }

    #[test]
    fn a_thread_keeps_no_more_than_so_many_and_no_large_ones() {
        let heads: Vec<_> = (0..2 * MOST).map(|_| Head::of(&request(100), true)).collect();
        heads.into_iter().for_each(Head::put_back);
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
        SPARE.with_borrow_mut(Vec::clear);

        let mut large = request(0);
        for _ in 0..=LARGEST {
            large.headers_mut().append("x-many", HeaderValue::from_static("x"));
        }
        Head::of(&large, true).put_back();
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
    }
}
