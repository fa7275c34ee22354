//! The pairs of rings that a listener is offered, so that its connections are accepted as they come.
//!
//! One is offered at first. When a connection comes that finds none, twice as many are from then on, as far
//! as memory allows: a listener that is called seldom keeps little memory.

use super::NetError;
use super::pool::{Pair, Pool};
use super::supply::{Supplier, Supply};
use alloc::vec::Vec;
use ipc::client::Deadline;
use ipc::interface::network::{RingPair, Socket};

/// What a listener is offered.
#[derive(Debug)]
pub struct Offers<S: Supply = Supplier> {
    listener: Socket,
    ring_bytes: u32,
    offered: Vec<Pair<S::Memory>>,
    /// How many are to be offered.
    wanted: usize,
}

impl<S: Supply> Offers<S> {
    /// Nothing offered yet. `ring_bytes` is the capacity of each of a connection's two rings, a power of two
    /// from 4,096 to 1,048,576.
    pub fn new(listener: Socket, ring_bytes: u32) -> Offers<S> {
        Offers {
            listener,
            ring_bytes,
            offered: Vec::new(),
            wanted: 1,
        }
    }

    /// The listener.
    pub const fn listener(&self) -> Socket {
        self.listener
    }

    /// How many pairs are offered.
    pub const fn count(&self) -> usize {
        self.offered.len()
    }

    /// Whether nothing is offered.
    pub const fn is_empty(&self) -> bool {
        self.offered.is_empty()
    }

    /// Connections come faster than pairs are offered: more are to be.
    pub fn grow(&mut self, pool: &Pool<S>) {
        self.wanted = (2 * self.wanted).min(pool.pairs_ready(self.ring_bytes));
    }

    /// Offers pairs of the pool until as many are offered as is of use, and at most `room`. The first is
    /// needed; for more nothing is taken from others.
    ///
    /// Errors: Kernel, where this task has no memory for another one; Call, where the network stack refuses.
    pub fn fill(
        &mut self,
        pool: &mut Pool<S>,
        deadline: Deadline,
        room: usize,
    ) -> Result<(), NetError> {
        while self.offered.len() < self.wanted.min(room) {
            let pair = pool.take_ahead(deadline, self.ring_bytes, self.is_empty())?;
            pool.offer(deadline, self.listener, &pair)?;
            self.offered.push(pair);
        }
        Ok(())
    }

    /// Takes all offers back but so many: another listener needs them more.
    ///
    /// Errors: Call.
    pub fn shrink(
        &mut self,
        pool: &mut Pool<S>,
        deadline: Deadline,
        left: usize,
    ) -> Result<(), NetError> {
        self.wanted = self.wanted.min(left);
        self.withdraw(pool, deadline)
    }

    /// Takes all offers back for good: the listener is closed. Of those that are left connections will tell.
    ///
    /// Errors: Call.
    pub fn end(&mut self, pool: &mut Pool<S>, deadline: Deadline) -> Result<(), NetError> {
        self.wanted = 0;
        self.withdraw(pool, deadline)
    }

    /// Whether nothing is to be offered any more.
    pub const fn has_ended(&self) -> bool {
        self.wanted == 0
    }

    /// Takes back what is more than wanted.
    fn withdraw(&mut self, pool: &mut Pool<S>, deadline: Deadline) -> Result<(), NetError> {
        let surplus = self.offered.split_off(self.offered.len().min(self.wanted));
        for pair in surplus {
            // One that a connection has by now is told of by an event.
            self.offered.extend(pool.withdraw(deadline, pair)?);
        }
        Ok(())
    }

    /// The pair with this number, which a connection has now; `None` where the listener is not offered it.
    pub fn take(&mut self, number: RingPair) -> Option<Pair<S::Memory>> {
        let place = self
            .offered
            .iter()
            .position(|pair| pair.number() == number)?;
        Some(self.offered.swap_remove(place))
    }
}

#[cfg(test)]
mod tests {
    use super::super::NetError;
    use super::super::pool::{Pair, Pool};
    use super::super::supply::Supply;
    use super::Offers;
    use core::cell::{Cell, RefCell};
    use ipc::client::{CallError, Deadline};
    use ipc::interface::network::{NetworkError, RingPair, Socket};
    use std::rc::Rc;
    use std::vec::Vec;

    const LISTENER: Socket = Socket(1);
    const OTHER: Socket = Socket(2);
    const RING: u32 = 4096;
    const LARGE: u32 = 32 * 1024;
    const NEVER: Deadline = Deadline::NEVER;

    /// A network stack with room for a number of pairs.
    #[derive(Default)]
    struct Stack {
        room: Cell<usize>,
        shared: RefCell<Vec<RingPair>>,
        offered: RefCell<Vec<(Socket, RingPair)>>,
        in_use: RefCell<Vec<RingPair>>,
        asked: Cell<usize>,
        now: Cell<u64>,
    }

    impl Supply for Rc<Stack> {
        type Memory = ();

        fn now(&self) -> u64 {
            self.now.get()
        }

        fn share(&self, _: Deadline, _: u32) -> Result<(RingPair, ()), NetError> {
            self.asked.set(self.asked.get() + 1);
            let mut shared = self.shared.borrow_mut();
            if shared.len() >= self.room.get() {
                return Err(NetError::Kernel(ipc::Error::OutOfQuota));
            }
            let number = RingPair(self.asked.get() as u32);
            shared.push(number);
            Ok((number, ()))
        }

        fn unshare(&self, _: Deadline, rings: RingPair) -> Result<(), CallError<NetworkError>> {
            if self.in_use.borrow().contains(&rings) {
                return Err(CallError::Service(NetworkError::RingsInUse));
            }
            self.shared.borrow_mut().retain(|shared| *shared != rings);
            self.offered
                .borrow_mut()
                .retain(|(_, offered)| *offered != rings);
            Ok(())
        }

        fn offer(&self, _: Deadline, at: Socket, rings: RingPair) -> Result<(), NetError> {
            self.offered.borrow_mut().push((at, rings));
            Ok(())
        }

        fn close(&self, _: Deadline, _: Socket) -> Result<(), NetError> {
            Ok(())
        }
    }

    impl Stack {
        fn offered_to(&self, listener: Socket) -> usize {
            let offered = self.offered.borrow();
            offered.iter().filter(|(at, _)| *at == listener).count()
        }
    }

    fn world(room: usize, quota: u64) -> (Rc<Stack>, Pool<Rc<Stack>>) {
        let stack = Rc::new(Stack::default());
        stack.room.set(room);
        (Rc::clone(&stack), Pool::with(stack, quota))
    }

    #[test]
    fn the_pairs_that_lie_ready_follow_the_memory() {
        for (quota, ring_bytes, pairs) in [
            (0, RING, 1),
            (3 << 20, LARGE, 2),
            (8 << 20, LARGE, 7),
            (32 << 20, RING, 32),
        ] {
            assert_eq!(world(0, quota).1.pairs_ready(ring_bytes), pairs, "{quota}");
        }
    }

    #[test]
    fn pairs_go_round_and_those_beyond_what_is_kept_go_back() {
        let (stack, mut pool) = world(9, 3 << 20);
        let taken: Vec<Pair<()>> = (0..5).map(|_| pool.take(NEVER, LARGE).unwrap()).collect();
        for pair in taken {
            pool.close(NEVER, Socket(7), pair).unwrap();
        }
        assert_eq!(stack.shared.borrow().len(), 2, "what is kept");
        for _ in 0..2 {
            pool.take(NEVER, LARGE).unwrap();
        }
        assert_eq!(stack.asked.get(), 5, "those were used again");
    }

    #[test]
    fn what_is_refused_is_asked_for_again_when_a_pair_came_back() {
        let (stack, mut pool) = world(2, 32 << 20);
        let small = pool.take(NEVER, RING).unwrap();
        let (kept, asked) = (pool.take(NEVER, RING).unwrap(), stack.asked.get());
        for _ in 0..3 {
            assert!(pool.take_ahead(NEVER, LARGE, true).is_err());
        }
        assert_eq!(stack.asked.get(), asked + 1);
        assert!(pool.take(NEVER, LARGE).is_err(), "who needs it now asks");
        assert_eq!(stack.asked.get(), asked + 2);
        stack.now.set(pool.refused_until().unwrap());
        assert!(pool.take_ahead(NEVER, LARGE, true).is_err());
        assert_eq!(stack.asked.get(), asked + 3, "asked again in time");
        pool.keep(NEVER, small).unwrap();
        assert!(
            pool.take(NEVER, LARGE).is_ok(),
            "a spare one of another size makes room"
        );
        assert!(pool.take(NEVER, LARGE).is_err());
        pool.keep(NEVER, kept).unwrap();
        assert!(pool.take(NEVER, LARGE).is_ok());
    }

    #[test]
    fn a_refusal_is_of_its_size_and_lasts_until_one_of_that_size_is_there() {
        let (stack, mut pool) = world(0, 32 << 20);
        assert!(pool.take_ahead(NEVER, LARGE, true).is_err());
        stack.room.set(1);
        let refused = pool.refused_until();
        let small = pool.take_ahead(NEVER, RING, false);
        assert!(small.is_ok(), "a smaller one is another question");
        assert_eq!(pool.refused_until(), refused);
        let asked = stack.asked.get();
        assert!(pool.take_ahead(NEVER, 2 * LARGE, true).is_err());
        assert_eq!(stack.asked.get(), asked, "a larger one is not");
        stack.room.set(2);
        assert!(pool.take(NEVER, LARGE).is_ok());
        assert_eq!(pool.refused_until(), None);
    }

    #[test]
    fn offers_grow_with_the_demand_and_a_pair_that_is_taken_is_replaced() {
        let (stack, mut pool) = world(99, 1 << 20);
        let mut offers = Offers::new(LISTENER, RING);
        let fill = |offers: &mut Offers<Rc<Stack>>, pool: &mut Pool<Rc<Stack>>, room| {
            offers.fill(pool, NEVER, room).unwrap();
            stack.offered_to(LISTENER)
        };
        assert_eq!(fill(&mut offers, &mut pool, 0), 0, "no room");
        assert_eq!(fill(&mut offers, &mut pool, 9), 1);
        for offered in [2, 4, 5, 5] {
            offers.grow(&pool);
            assert_eq!(fill(&mut offers, &mut pool, 9), offered);
        }
        let number = stack.offered.borrow_mut().remove(0).1;
        assert_eq!(offers.take(number).map(|pair| pair.number()), Some(number));
        assert!(offers.take(number).is_none(), "not offered any more");
        assert_eq!(fill(&mut offers, &mut pool, 9), 5);
    }

    #[test]
    fn a_closed_listener_leaves_its_pairs_and_those_of_connections_that_came() {
        let (stack, mut pool) = world(3, 1 << 20);
        let mut offers = Offers::new(LISTENER, RING);
        offers.grow(&pool);
        offers.fill(&mut pool, NEVER, 9).unwrap();
        let number = stack.offered.borrow()[0].1;
        stack.in_use.borrow_mut().push(number);
        offers.end(&mut pool, NEVER).unwrap();
        offers.grow(&pool);
        offers.fill(&mut pool, NEVER, 9).unwrap();
        assert_eq!(*stack.shared.borrow(), [number]);
        assert!(offers.has_ended() && offers.take(number).is_some() && offers.is_empty());
    }

    #[test]
    fn a_starved_listener_gets_what_others_are_offered_beyond_the_first() {
        let (stack, mut pool) = world(4, 32 << 20);
        let (mut rich, mut starved) = (Offers::new(OTHER, RING), Offers::new(LISTENER, RING));
        for _ in 0..2 {
            rich.grow(&pool);
        }
        rich.fill(&mut pool, NEVER, 9).unwrap();
        assert!(starved.fill(&mut pool, NEVER, 9).is_err() && starved.is_empty());
        // One of the others has become a connection, of which an event will tell.
        let last = stack.offered.borrow()[3].1;
        stack.in_use.borrow_mut().push(last);
        rich.shrink(&mut pool, NEVER, 1).unwrap();
        starved.fill(&mut pool, NEVER, 9).unwrap();
        assert_eq!(stack.offered_to(LISTENER), 1);
        assert!(rich.take(last).is_some());
    }
}
