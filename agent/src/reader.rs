//! Ring buffers to batches of bytes. Knows no events; `agent` starts it, the owner task is its only listener.
//!
//! The kernel's ring is the queue: the reader has a fixed number of buffers and waits for the owner to give one back.
//!
//! Order: a bounded part of the connections' ring is taken first, then all of the processes', the DNS messages' and the
//! hellos' rings, and these are handed on before the connections: what a process did, which name it resolved or what a
//! connection said before it closed is known then.
use std::{collections::VecDeque, io, ops::Deref, time::Duration};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{
    bpf::Rings,
    owner::{Batch, Input},
};

/// Batches that travel between reader and owner.
const BATCHES: usize = 4;
/// Rings that are handed on before the connections'.
const OTHERS: usize = 3;
/// The kernel wakes the reader when a ring is an eighth full; below that it looks by itself.
const POLL: Duration = Duration::from_millis(50);

/// Where samples come from: a ring, or a list in tests.
trait Source {
    fn next(&mut self) -> Option<impl Deref<Target = [u8]>>;
}

impl Source for RingBuf<MapData> {
    fn next(&mut self) -> Option<impl Deref<Target = [u8]>> {
        RingBuf::next(self)
    }
}

/// Moves samples until the source is empty (`true`) or the batch is full.
fn fill(source: &mut impl Source, batch: &mut Batch) -> bool {
    while !batch.is_full() {
        let Some(sample) = source.next() else { return true };
        batch.push(&sample);
    }
    false
}

/// The owner has gone: nobody wants events any more.
#[derive(Debug)]
struct OwnerGone;

/// The buffers and where they go.
#[derive(Debug)]
struct Outlet {
    spare: VecDeque<Batch>,
    returned: mpsc::Receiver<Batch>,
    owner: mpsc::Sender<Input>,
}

impl Outlet {
    /// An empty batch; waits until the owner is through with one.
    async fn batch(&mut self) -> Result<Batch, OwnerGone> {
        if let Some(batch) = self.spare.pop_front() {
            return Ok(batch);
        }
        let mut batch = self.returned.recv().await.ok_or(OwnerGone)?;
        batch.clear();
        Ok(batch)
    }

    async fn send(&mut self, batch: Batch) -> Result<(), OwnerGone> {
        if batch.bytes() == 0 {
            self.spare.push_back(batch);
            return Ok(());
        }
        self.owner.send(Input::Batch(batch)).await.map_err(|_| OwnerGone)
    }

    /// Takes a bounded part of `connections` and what the other rings hold, in this order; `true` when `connections` was
    /// emptied.
    async fn drain<S: Source>(
        &mut self,
        connections: &mut S,
        others: [&mut S; OTHERS],
        ring_bytes: usize,
    ) -> Result<bool, OwnerGone> {
        let mut later = self.batch().await?;
        let empty = fill(connections, &mut later);
        for other in others {
            self.drain_first(other, ring_bytes).await?;
        }
        self.send(later).await?;
        Ok(empty)
    }

    /// Hands on what a ring holds. `ring_bytes` are enough: more than that came after we looked at the connections.
    async fn drain_first(&mut self, ring: &mut impl Source, ring_bytes: usize) -> Result<(), OwnerGone> {
        let mut taken = 0;
        loop {
            let mut batch = self.batch().await?;
            let empty = fill(ring, &mut batch);
            taken += batch.bytes();
            self.send(batch).await?;
            if empty || taken >= ring_bytes {
                return Ok(());
            }
        }
    }
}

/// A ring whose wake-ups the runtime hears.
fn wakeable(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns the descriptor of its map: open and the same until the ring is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// Reads until `stop`, then empties the rings a last time and ends. The owner gives batches back by the sender that
/// [`channel`] made.
pub async fn run(
    rings: Rings,
    ring_bytes: usize,
    owner: mpsc::Sender<Input>,
    returned: mpsc::Receiver<Batch>,
    mut stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    let mut connections = wakeable(rings.connections)?;
    let mut processes = wakeable(rings.processes)?;
    let mut dns = wakeable(rings.dns)?;
    let mut hellos = wakeable(rings.hellos)?;
    let spare = (0..BATCHES).map(|_| Batch::empty()).collect();
    let mut outlet = Outlet { spare, returned, owner };
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = false;
    while !stopping {
        tokio::select! {
            guard = connections.readable_mut() => guard?.clear_ready(),
            guard = processes.readable_mut() => guard?.clear_ready(),
            guard = dns.readable_mut() => guard?.clear_ready(),
            guard = hellos.readable_mut() => guard?.clear_ready(),
            _ = poll.tick() => {}
            // A dropped sender means the same: there will be no word any more.
            _ = &mut stop => stopping = true,
        }
        loop {
            let others = [processes.get_mut(), dns.get_mut(), hellos.get_mut()];
            match outlet.drain(connections.get_mut(), others, ring_bytes).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(OwnerGone) => return Ok(()),
            }
        }
    }
    Ok(())
}

/// The way back for batches: as long as there are batches, so that giving one back never waits.
pub fn channel() -> (mpsc::Sender<Batch>, mpsc::Receiver<Batch>) {
    mpsc::channel(BATCHES)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Source for VecDeque<Vec<u8>> {
        fn next(&mut self) -> Option<impl Deref<Target = [u8]>> {
            self.pop_front()
        }
    }

    /// Drains both lists while an owner collects, and gives the samples in the order in which the owner got them.
    async fn collect(connections: &[usize], processes: &[usize], ring_bytes: usize) -> Vec<(u8, usize)> {
        let list = |tag: u8, sizes: &[usize]| sizes.iter().map(|size| vec![tag; *size]).collect::<VecDeque<_>>();
        let (mut connections, mut processes) = (list(b'c', connections), list(b'p', processes));
        let (owner, mut inputs) = mpsc::channel(1);
        let (give_back, returned) = channel();
        let spare = (0..BATCHES).map(|_| Batch::empty()).collect();
        let mut outlet = Outlet { spare, returned, owner };
        let reading = async move {
            while !outlet
                .drain(
                    &mut connections,
                    [&mut processes, &mut VecDeque::new(), &mut VecDeque::new()],
                    ring_bytes,
                )
                .await
                .expect("the owner is there")
            {}
            assert!(connections.is_empty());
        };
        let owning = async move {
            let mut seen = Vec::new();
            while let Some(input) = inputs.recv().await {
                let Input::Batch(batch) = input else {
                    panic!("the reader sends batches")
                };
                assert!(batch.bytes() <= 1 << 18);
                seen.extend(batch.samples().map(|sample| (sample[0], sample.len())));
                // The reader may have ended.
                give_back.try_send(batch).ok();
            }
            seen
        };
        tokio::join!(reading, owning).1
    }

    #[tokio::test]
    async fn process_events_come_first() {
        let seen = collect(&[10, 20], &[1, 2, 3], 1 << 20).await;
        assert_eq!(seen, [(b'p', 1), (b'p', 2), (b'p', 3), (b'c', 10), (b'c', 20)]);
        assert_eq!(collect(&[], &[], 1 << 20).await, []);
    }

    #[tokio::test]
    async fn more_than_all_buffers_hold_comes_through_in_order() {
        let many = vec![300; 10_000];
        let seen = collect(&many, &many, 8 << 20).await;
        assert_eq!(seen.len(), 20_000);
        let first = seen.iter().position(|(tag, _)| *tag == b'c').expect("connections");
        assert_eq!(first, 10_000, "all of the processes' ring before the first connection");
    }

    #[tokio::test]
    async fn endless_process_events_do_not_hold_connections_back() {
        let seen = collect(&[10], &vec![300; 10_000], 1 << 16).await;
        let first = seen.iter().position(|(tag, _)| *tag == b'c').expect("the connection");
        assert!(first < 2000, "{first}");
    }
}
