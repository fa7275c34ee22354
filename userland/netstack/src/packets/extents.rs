//! Where packets to send lie: each whole, one after another, in a region that is used round and round.
//! A short packet takes little of it and a long one as much as it needs.
//!
//! Devices send in order, so the oldest packet's place is the next to be free. One that comes back
//! early waits for those before it.

use alloc::collections::VecDeque;

use ipc::ring::Descriptor;

use super::shape::HEADROOM;

/// Places begin at multiples of a cache line, so that no two packets share one.
const LINE: u32 = 64;

/// A packet that the driver has.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// As it was handed to the driver.
    descriptor: Descriptor,
    /// Where the place begins that is free again with it, relative to the region.
    begin: u32,
    /// It came back.
    done: bool,
}

/// The region and what is in it.
#[derive(Debug)]
pub(super) struct Extents {
    /// Offset of the region in the pool, a multiple of [`LINE`].
    start: u32,
    /// Its size, a multiple of [`LINE`].
    bytes: u32,
    /// Most packets at once.
    most: usize,
    /// Where the next packet's place begins, relative to the region.
    next: u32,
    /// Packets that the driver has, or that wait for earlier ones; the oldest first.
    extents: VecDeque<Extent>,
    /// Those of them that came back.
    done: usize,
}

impl Extents {
    /// An empty region of the pool.
    pub(super) fn new(start: u32, bytes: u32, most: usize) -> Extents {
        Extents {
            start,
            bytes: bytes - bytes % LINE,
            most,
            next: 0,
            extents: VecDeque::with_capacity(most),
            done: 0,
        }
    }

    /// Forgets every packet.
    pub(super) fn clear(&mut self) {
        self.extents.clear();
        self.next = 0;
        self.done = 0;
    }

    /// Packets that the driver has.
    pub(super) fn outstanding(&self) -> usize {
        self.extents.len() - self.done
    }

    /// Whether a frame of this length has a place now.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.place(length).is_some()
    }

    /// Where a frame of this length would have its place, and how long that is.
    fn place(&self, length: usize) -> Option<(u32, u32)> {
        if self.extents.len() >= self.most || length > self.bytes as usize {
            return None;
        }
        let wanted = (HEADROOM + length as u32).next_multiple_of(LINE);
        let fits = |begin: u32, end: u32| (end - begin >= wanted).then_some((begin, wanted));
        match self.extents.front() {
            None => fits(0, self.bytes),
            // The free part goes round the end.
            Some(oldest) if self.next > oldest.begin => {
                fits(self.next, self.bytes).or_else(|| fits(0, oldest.begin))
            }
            Some(oldest) => fits(self.next, oldest.begin),
        }
    }

    /// Takes a place for a frame, and tells the descriptor that the driver is to get.
    pub(super) fn take(&mut self, length: usize, flags: u32) -> Option<Descriptor> {
        let (begin, bytes) = self.place(length)?;
        let descriptor = Descriptor {
            offset: self.start + begin + HEADROOM,
            length: length as u32,
            flags,
        };
        self.extents.push_back(Extent {
            descriptor,
            begin,
            done: false,
        });
        self.next = begin + bytes;
        Some(descriptor)
    }

    /// Takes the place back that was taken last.
    pub(super) fn untake(&mut self) {
        if let Some(last) = self.extents.pop_back() {
            self.next = last.begin;
        }
    }

    /// A packet came back; false, and nothing changed, where the driver did not have it.
    pub(super) fn give_back(&mut self, descriptor: Descriptor) -> bool {
        let found = self.extents.iter_mut().find(|extent| {
            !extent.done
                && extent.descriptor.offset == descriptor.offset
                && extent.descriptor.length == descriptor.length
        });
        let Some(extent) = found else {
            return false;
        };
        extent.done = true;
        self.done += 1;
        while self.extents.front().is_some_and(|extent| extent.done) {
            self.extents.pop_front();
            self.done -= 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = 4096;
    const BYTES: u32 = 8192;

    /// No two packets with the driver overlap, headroom included, and all lie in the region.
    fn check(extents: &Extents) {
        let mut places: Vec<(u32, u32)> = extents
            .extents
            .iter()
            .map(|extent| {
                let first = extent.descriptor.offset - HEADROOM;
                (first, extent.descriptor.offset + extent.descriptor.length)
            })
            .collect();
        places.sort_unstable();
        for pair in places.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{places:?}");
        }
        for (first, end) in places {
            assert!(first >= START && end <= START + BYTES && first % LINE == 0);
        }
    }

    #[test]
    fn packets_that_come_back_in_any_order_never_overlap_and_none_is_lost() {
        let mut random = 1u64;
        let mut next = move |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % below
        };
        let mut extents = Extents::new(START, BYTES, 16);
        let mut held = Vec::new();
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..100_000 {
            if next(2) == 0 {
                match extents.take(1 + next(3000), 0) {
                    Some(descriptor) => {
                        held.push(descriptor);
                        taken += 1;
                    }
                    None => refused += 1,
                }
            } else if !held.is_empty() {
                // Mostly the oldest.
                let index = if next(4) == 0 { next(held.len()) } else { 0 };
                let descriptor = held.remove(index);
                assert!(extents.give_back(descriptor));
                assert!(!extents.give_back(descriptor), "twice");
            }
            assert_eq!(extents.outstanding(), held.len());
            check(&extents);
        }
        assert!(taken > 1_000 && refused > 1_000, "{taken} {refused}");
        for descriptor in held {
            assert!(extents.give_back(descriptor));
        }
        assert!(extents.extents.is_empty() && extents.done == 0);
        assert!(
            extents.has_room(BYTES as usize - HEADROOM as usize),
            "all is free again"
        );
    }

    #[test]
    fn a_region_is_used_to_its_end_and_from_its_start() {
        let mut extents = Extents::new(START, 1024, 16);
        let four: Vec<Descriptor> = (0..4).map(|_| extents.take(192, 7).unwrap()).collect();
        assert_eq!(four[3].offset, START + 3 * 256 + HEADROOM);
        assert_eq!(four[3].flags, 7);
        assert_eq!(extents.take(1, 0), None, "full");
        assert!(extents.give_back(four[1]));
        assert_eq!(extents.take(1, 0), None, "the oldest is still there");
        assert!(extents.give_back(four[0]));
        assert!(extents.has_room(448) && !extents.has_room(449));
        assert_eq!(extents.take(448, 0).unwrap().offset, START + HEADROOM);
        extents.untake();
        assert!(extents.has_room(448));
        let lie = Descriptor {
            length: 191,
            ..four[2]
        };
        assert!(!extents.give_back(lie));
        extents.clear();
        assert!(extents.has_room(960) && !extents.has_room(961));
    }

    #[test]
    fn as_many_packets_as_the_ring_has_entries() {
        let mut extents = Extents::new(START, BYTES, 2);
        assert!(extents.take(1, 0).is_some() && extents.take(1, 0).is_some());
        assert_eq!(extents.take(1, 0), None);
    }
}
