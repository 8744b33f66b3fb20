use crate::{
    api::Shape,
    overhead::{self, Overhead},
    waiters::{self, Crowd, Waiting},
};

/// Work that is measured from outside, as a whole. It can be named on a command line.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    Requests { client: &'static Overhead, shape: Shape, requests: usize },
    Waiters { tokens: &'static Waiting, crowd: Crowd },
    Yields { crowd: Crowd },
}

impl Work {
    pub fn run(self) {
        match self {
            Work::Requests { client, shape, requests } => (client.send)(shape, requests),
            Work::Waiters { tokens, crowd } => (tokens.wait)(crowd),
            Work::Yields { crowd } => waiters::spawn_and_yield(crowd),
        }
    }

    pub fn arguments(self) -> Vec<String> {
        let (words, numbers) = match self {
            Work::Requests { client, shape, requests } => {
                (vec!["requests", client.name, shape.name()], vec![requests])
            }
            Work::Waiters { tokens, crowd } => {
                (vec!["waiters", tokens.name], vec![crowd.waiters, crowd.rounds])
            }
            Work::Yields { crowd } => (vec!["yields"], vec![crowd.waiters, crowd.rounds]),
        };
        let words = words.into_iter().map(str::to_owned);
        words.chain(numbers.iter().map(usize::to_string)).collect()
    }

    pub fn named(arguments: &[&str]) -> Option<Work> {
        let crowd = |waiters: &str, rounds: &str| {
            Some(Crowd { waiters: waiters.parse().ok()?, rounds: rounds.parse().ok()? })
        };
        Some(match *arguments {
            ["requests", name, shape, requests] => Work::Requests {
                client: overhead::CLIENTS.iter().find(|client| client.name == name)?,
                shape: Shape::ALL.into_iter().find(|known| known.name() == shape)?,
                requests: requests.parse().ok()?,
            },
            ["waiters", name, waiters, rounds] => Work::Waiters {
                tokens: waiters::TOKENS.iter().find(|tokens| tokens.name == name)?,
                crowd: crowd(waiters, rounds)?,
            },
            ["yields", waiters, rounds] => Work::Yields { crowd: crowd(waiters, rounds)? },
            _ => return None,
        })
    }
}
