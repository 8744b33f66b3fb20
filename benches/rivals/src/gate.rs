use tokio::sync::watch;

/// Holds everybody who comes until it is opened, and knows how many have come.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Gate {
    pub fn new(open: bool) -> Self {
        Gate { open: watch::Sender::new(open), arrived: watch::Sender::new(0) }
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("the gate outlives those who wait at it");
    }

    /// Waits until so many have come, since it was made.
    pub async fn reached(&self, arrivals: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= arrivals).await.expect("the gate is there");
    }

    pub fn arrivals(&self) -> usize {
        *self.arrived.borrow()
    }
}
