//! Split queues (VIRTIO 1.2, section 2.7): `virtio-drivers`' `VirtQueue`, whose size is a const
//! generic, behind one object; a private record of what the device holds; and notification
//! suppression in both directions.
//!
//! `VirtQueue` is told nothing of the event index: it compares ring indices without regard to their
//! wrapping, which loses notifications, and cannot keep interrupts off. Both words of the event
//! index are driven here.
#![expect(
    unsafe_code,
    reason = "VirtQueue takes buffers by reference and leaves their lifetime to its caller"
)]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use pci_function::Area;
use pci_function::dma::at_physical;
use virtio_drivers::queue::VirtQueue;

use crate::hal::TaskHal;
use crate::{VirtioError, VirtioTransport};

/// Most segments of one chain.
const MAX_SEGMENTS: usize = 3;
/// Largest queue that a driver asks for where it may choose.
const CHOSEN_SIZE: u32 = 256;

/// A buffer as the device sees it: segments that it reads, then segments that it writes.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    segments: [Option<Area>; MAX_SEGMENTS],
    readable: usize,
    writable: usize,
}

impl Chain {
    /// A chain of these segments; `None` if there are none or too many.
    pub fn new(readable: &[Area], writable: &[Area]) -> Option<Chain> {
        let count = readable.len() + writable.len();
        if count == 0 || count > MAX_SEGMENTS {
            return None;
        }
        let mut segments = [None; MAX_SEGMENTS];
        for (slot, area) in segments.iter_mut().zip(readable.iter().chain(writable)) {
            *slot = Some(*area);
        }
        Some(Chain {
            segments,
            readable: readable.len(),
            writable: writable.len(),
        })
    }

    /// Bytes that the device may write.
    fn capacity(&self) -> usize {
        self.segments
            .iter()
            .flatten()
            .skip(self.readable)
            .map(Area::length)
            .sum()
    }
}

/// A buffer that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used<C> {
    /// What the driver called it.
    pub cookie: C,
    /// Its first segment.
    pub start: Area,
    /// Bytes that the device says it has written; `None` if that is more than the buffer holds.
    pub written: Option<usize>,
}

/// A queue of a device. It must not outlive the device's next reset, and the device must be reset
/// before it is dropped: until then the device uses its memory.
pub trait Queue<C>: Send {
    /// Its number.
    fn number(&self) -> u16;
    /// Number of descriptors; a chain takes one a segment.
    fn size(&self) -> u16;
    /// Descriptors that are free.
    fn free(&self) -> usize;
    /// Buffers that the device holds.
    fn outstanding(&self) -> usize;
    /// Gives a buffer to the device. The device learns of it with [`Queue::should_notify`].
    fn add(&mut self, chain: Chain, cookie: C) -> Result<(), VirtioError>;
    /// Takes the next buffer that the device has returned. After an error the device does not
    /// follow the protocol, and only a reset mends that.
    fn pop(&mut self) -> Result<Option<Used<C>>, VirtioError>;
    /// Whether the device wants to be told of what was added since the last call.
    fn should_notify(&mut self) -> bool;
    /// Asks for no interrupt. The device may still send one.
    fn disarm(&mut self);
    /// Asks for an interrupt once the device returns `count` more buffers (at least 1; a device
    /// without the event index interrupts for the first). Returns true if that many are there
    /// already, and then no interrupt may come.
    fn arm(&mut self, count: u16) -> bool;
}

/// Opens a queue: of the size that the device has where it fixes it (legacy), else of up to 256.
/// `event_index` says whether that feature was negotiated.
pub fn open<T: VirtioTransport, C: Copy + Send + 'static>(
    transport: &mut T,
    number: u16,
    event_index: bool,
) -> Result<Box<dyn Queue<C>>, VirtioError> {
    let largest = transport.max_queue_size(number);
    if largest == 0 {
        return Err(VirtioError::NoQueue);
    }
    let size = if transport.requires_legacy_layout() {
        largest
    } else {
        largest.min(CHOSEN_SIZE)
    };
    match size {
        16 => open_sized::<T, C, 16>(transport, number, event_index),
        32 => open_sized::<T, C, 32>(transport, number, event_index),
        64 => open_sized::<T, C, 64>(transport, number, event_index),
        128 => open_sized::<T, C, 128>(transport, number, event_index),
        256 => open_sized::<T, C, 256>(transport, number, event_index),
        512 => open_sized::<T, C, 512>(transport, number, event_index),
        1024 => open_sized::<T, C, 1024>(transport, number, event_index),
        2048 => open_sized::<T, C, 2048>(transport, number, event_index),
        4096 => open_sized::<T, C, 4096>(transport, number, event_index),
        _ => Err(VirtioError::QueueSize),
    }
}

/// Not inlined, so that only the size in use costs its stack: a `VirtQueue` passes through it.
#[inline(never)]
fn open_sized<T: VirtioTransport, C: Copy + Send + 'static, const SIZE: usize>(
    transport: &mut T,
    number: u16,
    event_index: bool,
) -> Result<Box<dyn Queue<C>>, VirtioError> {
    let ring = Box::new(VirtQueue::<TaskHal, SIZE>::new(
        transport, number, false, false,
    )?);
    let events = match event_index {
        true => Some(EventWords::find::<T, SIZE>(transport, number)?),
        false => None,
    };
    let mut held = Vec::new();
    held.resize_with(SIZE, || None);
    Ok(Box::new(SizedQueue::<C, SIZE> {
        ring,
        held,
        number,
        outstanding: 0,
        added: 0,
        told: 0,
        popped: 0,
        events,
    }))
}

/// The two words of the event index (VIRTIO 1.2, sections 2.7.7 and 2.7.10).
struct EventWords {
    /// Driver's: interrupt when the used index passes this.
    used_event: &'static AtomicU16,
    /// Device's: notify when the available index passes this.
    available_event: &'static AtomicU16,
    /// Device's: how many buffers it has returned so far.
    used_index: &'static AtomicU16,
}

impl EventWords {
    /// `used_event` follows flags, index and SIZE entries of 2 bytes in the driver area
    /// (section 2.7.6); `avail_event` flags, index and SIZE entries of 8 bytes in the device area
    /// (section 2.7.8). Flags and indices have 2 bytes.
    fn find<T: VirtioTransport, const SIZE: usize>(
        transport: &T,
        number: u16,
    ) -> Result<EventWords, VirtioError> {
        let rings = transport.rings(number).ok_or(VirtioError::OutOfReach)?;
        let word = |address| at_physical(address, 2).and_then(|area| area.word());
        let used_event = word(rings.driver + 4 + 2 * SIZE as u64);
        let available_event = word(rings.device + 4 + 8 * SIZE as u64);
        let used_index = word(rings.device + 2);
        match (used_event, available_event, used_index) {
            (Some(used_event), Some(available_event), Some(used_index)) => Ok(EventWords {
                used_event,
                available_event,
                used_index,
            }),
            _ => Err(VirtioError::OutOfReach),
        }
    }
}

/// Whether moving an index from `old` to `new` passes `event` (VIRTIO 1.2, section 2.7.10.1): all
/// three wrap.
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A buffer in the device's hands.
struct Held<C> {
    chain: Chain,
    cookie: C,
}

struct SizedQueue<C, const SIZE: usize> {
    ring: Box<VirtQueue<TaskHal, SIZE>>,
    /// By the chain's first descriptor: the record that the device cannot touch.
    held: Vec<Option<Held<C>>>,
    number: u16,
    outstanding: usize,
    /// Buffers added so far, wrapping as the ring's index does.
    added: u16,
    /// `added` when the device was last told.
    told: u16,
    /// Buffers popped so far, wrapping.
    popped: u16,
    events: Option<EventWords>,
}

/// A chain's segments as the references that `VirtQueue` takes, for the length of a call.
///
/// `VirtQueue` reads addresses and lengths of them and never the bytes.
macro_rules! with_slices {
    ($chain:expr, |$inputs:ident, $outputs:ident| $body:expr) => {{
        let chain: &Chain = $chain;
        let mut input_slots: [&[u8]; MAX_SEGMENTS] = [&[]; MAX_SEGMENTS];
        let mut output_slots: [&mut [u8]; MAX_SEGMENTS] = [&mut [], &mut [], &mut []];
        for (index, area) in chain.segments.iter().flatten().enumerate() {
            if index < chain.readable {
                // SAFETY: an area is mapped as long as it is registered, and a queue's areas are
                // retired after it. The reference lives for this call, in which nobody reads or
                // writes through it.
                input_slots[index] = unsafe { area.as_slice().as_ref() };
            } else {
                // SAFETY: as above.
                output_slots[index - chain.readable] = unsafe { area.as_slice().as_mut() };
            }
        }
        let $inputs = &input_slots[..chain.readable];
        let $outputs = &mut output_slots[..chain.writable];
        $body
    }};
}

impl<C: Copy + Send, const SIZE: usize> Queue<C> for SizedQueue<C, SIZE> {
    fn number(&self) -> u16 {
        self.number
    }

    fn size(&self) -> u16 {
        SIZE as u16
    }

    fn free(&self) -> usize {
        self.ring.available_desc()
    }

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    fn add(&mut self, chain: Chain, cookie: C) -> Result<(), VirtioError> {
        let token = with_slices!(&chain, |inputs, outputs| {
            // SAFETY: the segments lie in DMA memory that stays mapped until the device was reset,
            // and that this task touches only through `Area`'s copies.
            unsafe { self.ring.add(inputs, outputs) }
        })?;
        self.held[usize::from(token)] = Some(Held { chain, cookie });
        self.outstanding += 1;
        self.added = self.added.wrapping_add(1);
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<Used<C>>, VirtioError> {
        let Some(token) = self.ring.peek_used() else {
            return Ok(None);
        };
        let entry = self
            .held
            .get_mut(usize::from(token))
            .ok_or(VirtioError::UnknownBuffer)?;
        let held = entry.as_ref().ok_or(VirtioError::UnknownBuffer)?;
        let written = with_slices!(&held.chain, |inputs, outputs| {
            // SAFETY: these are the segments that `add` was given for this token.
            unsafe { self.ring.pop_used(token, inputs, outputs) }
        })?;
        let cookie = held.cookie;
        let start = held.chain.segments[0].ok_or(VirtioError::UnknownBuffer)?;
        let written = usize::try_from(written)
            .ok()
            .filter(|n| *n <= held.chain.capacity());
        *entry = None;
        self.outstanding -= 1;
        self.popped = self.popped.wrapping_add(1);
        Ok(Some(Used {
            cookie,
            start,
            written,
        }))
    }

    fn should_notify(&mut self) -> bool {
        let (old, new) = (self.told, self.added);
        if old == new {
            return false;
        }
        self.told = new;
        // The device may be going to sleep: it must see the new index, or we its wish
        // (VIRTIO 1.2, section 2.7.13.4.1).
        fence(Ordering::SeqCst);
        match &self.events {
            Some(events) => passes(events.available_event.load(Ordering::Relaxed), old, new),
            None => self.ring.should_notify(),
        }
    }

    fn disarm(&mut self) {
        match &self.events {
            // The used index is farthest from passing what it has just left behind.
            Some(events) => events
                .used_event
                .store(self.popped.wrapping_sub(1), Ordering::Relaxed),
            None => self.ring.set_dev_notify(false),
        }
    }

    fn arm(&mut self, count: u16) -> bool {
        let count = count.max(1);
        // What the device returned before it saw the wish it does not announce: hence the fences,
        // and the look at the used ring after them.
        match &self.events {
            Some(events) => {
                let event = self.popped.wrapping_add(count - 1);
                events.used_event.store(event, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                events
                    .used_index
                    .load(Ordering::Acquire)
                    .wrapping_sub(self.popped)
                    >= count
            }
            None => {
                self.ring.set_dev_notify(true);
                fence(Ordering::SeqCst);
                self.ring.can_pop()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, Chain, Queue, VirtioError, open, passes};
    use crate::fake::{FakeDevice, FakeHandle};
    use crate::{LegacyTransport, feature, negotiate, reset, start};
    use alloc::boxed::Box;
    use pci_function::InterruptMode;
    use pci_function::dma::{allocate, release};
    use virtio_drivers::transport::DeviceType;

    type Transport = LegacyTransport<FakeHandle>;

    /// A legacy device with one queue of this size, and that queue.
    fn device(size: u16, features: u64) -> (FakeHandle, Transport, Box<dyn Queue<u64>>, Area) {
        let fake = FakeDevice::legacy(features, &[size]);
        let mut transport =
            LegacyTransport::new(fake.clone(), DeviceType::Network, InterruptMode::Line);
        let accepted = negotiate(&mut transport, u64::MAX).unwrap();
        let queue = open(&mut transport, 0, accepted & feature::EVENT_INDEX != 0).unwrap();
        start(&mut transport).unwrap();
        (fake, transport, queue, allocate(1).unwrap())
    }

    /// Reset first, then the memory: the order that the queue's contract asks for.
    fn end(mut transport: Transport, queue: Box<dyn Queue<u64>>, buffer: Area) {
        reset(&mut transport).unwrap();
        drop(queue);
        release(buffer);
    }

    fn writable(area: Area) -> Chain {
        Chain::new(&[], &[area]).unwrap()
    }

    #[test]
    fn every_size_from_16_to_4096_carries_a_buffer() {
        for size in (4..=12).map(|power| 1u16 << power) {
            let (fake, transport, mut queue, buffer) = device(size, 0);
            assert_eq!(queue.size(), size);
            queue
                .add(writable(buffer.part(8, 100).unwrap()), 77)
                .unwrap();
            assert!(queue.pop().unwrap().is_none(), "nothing came back yet");
            let taken = fake.take(0).unwrap();
            assert_eq!(taken.segments.len(), 1);
            taken.segments[0].0.write(b"hello");
            fake.give_back(0, taken.head.into(), 5);
            let used = queue.pop().unwrap().unwrap();
            assert_eq!((used.cookie, used.written), (77, Some(5)));
            let mut bytes = [0; 5];
            buffer.part(8, 5).unwrap().read(&mut bytes);
            assert_eq!(&bytes, b"hello");
            end(transport, queue, buffer);
        }
    }

    #[test]
    fn sizes_that_no_ring_has_are_refused() {
        for size in [1, 8, 24, 8192] {
            let fake = FakeDevice::legacy(0, &[size]);
            let mut transport =
                LegacyTransport::new(fake, DeviceType::Network, InterruptMode::Line);
            negotiate(&mut transport, 0).unwrap();
            assert_eq!(
                open::<_, u64>(&mut transport, 0, false).err(),
                Some(VirtioError::QueueSize)
            );
            assert_eq!(
                open::<_, u64>(&mut transport, 1, false).err(),
                Some(VirtioError::NoQueue)
            );
        }
    }

    #[test]
    fn a_full_queue_says_so_and_recovers() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        let segment = buffer.part(0, 16).unwrap();
        let pair = Chain::new(&[segment], &[segment]).unwrap();
        for cookie in 0..8 {
            queue.add(pair, cookie).unwrap();
        }
        assert_eq!((queue.free(), queue.outstanding()), (0, 8));
        assert_eq!(queue.add(pair, 8), Err(VirtioError::QueueFull));
        let taken = fake.take(0).unwrap();
        assert_eq!(
            taken
                .segments
                .iter()
                .map(|s| s.1)
                .collect::<std::vec::Vec<_>>(),
            [false, true]
        );
        fake.give_back(0, taken.head.into(), 16);
        assert_eq!(queue.pop().unwrap().unwrap().cookie, 0);
        queue.add(pair, 8).unwrap();
        end(transport, queue, buffer);
    }

    #[test]
    fn a_lying_device_is_an_error_and_no_panic() {
        for lie in [3u32, 15, 16, 999, u32::MAX] {
            let (fake, transport, mut queue, buffer) = device(16, 0);
            queue.add(writable(buffer), 1).unwrap();
            fake.give_back(0, lie, 0);
            assert_eq!(
                queue.pop(),
                Err(VirtioError::UnknownBuffer),
                "identifier {lie}"
            );
            assert_eq!(queue.outstanding(), 1);
            end(transport, queue, buffer);
        }
    }

    #[test]
    fn a_buffer_returned_twice_is_an_error() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        queue.add(writable(buffer), 1).unwrap();
        let head = fake.take(0).unwrap().head;
        fake.give_back(0, head.into(), 0);
        fake.give_back(0, head.into(), 0);
        assert!(queue.pop().unwrap().is_some());
        assert_eq!(queue.pop(), Err(VirtioError::UnknownBuffer));
        end(transport, queue, buffer);
    }

    #[test]
    fn an_index_that_jumps_ahead_is_an_error() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        queue.add(writable(buffer), 1).unwrap();
        let head = fake.take(0).unwrap().head;
        fake.give_back(0, head.into(), 0);
        fake.set_used_index(0, 40_000);
        assert!(queue.pop().unwrap().is_some(), "the entry that is true");
        assert_eq!(queue.pop(), Err(VirtioError::UnknownBuffer));
        end(transport, queue, buffer);
    }

    #[test]
    fn a_length_beyond_the_buffer_is_told_apart() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        queue.add(writable(buffer.part(0, 64).unwrap()), 1).unwrap();
        let head = fake.take(0).unwrap().head;
        fake.give_back(0, head.into(), 65);
        assert_eq!(queue.pop().unwrap().unwrap().written, None);
        end(transport, queue, buffer);
    }

    #[test]
    fn the_event_index_asks_and_is_asked_also_when_indices_wrap() {
        let (fake, transport, mut queue, buffer) = device(16, feature::EVENT_INDEX);
        let chain = writable(buffer);
        for round in 0..70_000u32 {
            fake.want_notification(0, true);
            queue.add(chain, 0).unwrap();
            assert!(queue.should_notify(), "round {round}");
            assert!(!queue.should_notify(), "once for one buffer, round {round}");
            let head = fake.take(0).unwrap().head;
            assert!(!queue.arm(1), "nothing is there yet, round {round}");
            assert!(
                fake.give_back(0, head.into(), 0),
                "interrupts, round {round}"
            );
            assert!(queue.arm(1), "it is there now, round {round}");
            queue.disarm();
            assert!(queue.pop().unwrap().is_some());
        }
        end(transport, queue, buffer);
    }

    #[test]
    fn suppression_holds_in_both_directions() {
        for features in [0, feature::EVENT_INDEX] {
            let (fake, transport, mut queue, buffer) = device(16, features);
            queue.disarm();
            fake.want_notification(0, false);
            for _ in 0..4 {
                queue.add(writable(buffer), 0).unwrap();
                assert!(!queue.should_notify());
                let head = fake.take(0).unwrap().head;
                assert!(!fake.give_back(0, head.into(), 0), "no interrupt");
                queue.pop().unwrap().unwrap();
                queue.disarm();
            }
            end(transport, queue, buffer);
        }
    }

    #[test]
    fn an_interrupt_can_be_asked_for_a_later_buffer() {
        let (fake, transport, mut queue, buffer) = device(16, feature::EVENT_INDEX);
        for cookie in 0..4 {
            queue.add(writable(buffer), cookie).unwrap();
        }
        assert!(!queue.arm(3));
        let interrupts: std::vec::Vec<bool> = (0..4)
            .map(|_| {
                let head = fake.take(0).unwrap().head;
                fake.give_back(0, head.into(), 0)
            })
            .collect();
        assert_eq!(interrupts, [false, false, true, false]);
        assert!(queue.arm(4) && !queue.arm(5));
        end(transport, queue, buffer);
    }

    #[test]
    fn passing_is_right_around_the_wrap() {
        assert!(passes(5, 5, 6) && !passes(6, 5, 6) && !passes(4, 5, 6));
        assert!(passes(65_535, 65_535, 0) && passes(0, 65_535, 1) && !passes(1, 65_535, 1));
    }

    #[test]
    fn chains_have_one_to_three_segments() {
        let area = allocate(1).unwrap();
        assert!(Chain::new(&[], &[]).is_none());
        assert!(Chain::new(&[area; 2], &[area; 2]).is_none());
        assert!(Chain::new(&[area; 2], &[area]).is_some());
        release(area);
    }
}
