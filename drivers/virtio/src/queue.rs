//! Split queues (VIRTIO 1.2, section 2.7): descriptors, the two rings, a private record of what the
//! device holds, and notification suppression in both directions.
//!
//! What the device writes is read once, and means nothing before it was compared with the record: the
//! device may write anywhere in the rings at any time. What this side has written it never reads back.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use ipc::layout::PAGE_BYTES;
use pci_function::{Area, dma};

use crate::{VirtioError, VirtioTransport};

/// Sizes that a queue can have; a power of two.
const SIZES: core::ops::RangeInclusive<u32> = 16..=4096;
/// Largest queue that a driver asks for where it may choose.
const CHOSEN_SIZE: u32 = 256;

/// Bytes of a descriptor: address, length, flags, next (section 2.7.5).
const DESCRIPTOR_BYTES: usize = 16;
/// Descriptor: it goes on in the next (VIRTQ_DESC_F_NEXT).
const NEXT: u16 = 1;
/// Descriptor: the device writes it (VIRTQ_DESC_F_WRITE).
const WRITE: u16 = 2;
/// Where a ring's entries begin, after flags and index of 2 bytes each (sections 2.7.6 and 2.7.8).
const ENTRIES: usize = 4;
/// Bytes of an entry of the available ring: a descriptor's number.
const AVAILABLE_BYTES: usize = 2;
/// Bytes of an entry of the used ring: a descriptor's number and a length, of 4 bytes each.
const USED_BYTES: usize = 8;
/// Bytes of a cache line, more than any alignment of a queue's parts (section 2.7).
const CACHE_LINE: usize = 64;
/// Flag of a ring: no notification is wanted (VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_USED_F_NO_NOTIFY).
const NOT_WANTED: u16 = 1;

/// A buffer that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used<C> {
    /// What the driver called it.
    pub cookie: C,
    /// Bytes that the device says it has written; `None` if that is more than the buffer holds.
    pub written: Option<usize>,
}

/// A buffer in the device's hands, by its first descriptor.
#[derive(Clone, Copy, Debug)]
struct Held<C> {
    cookie: C,
    /// Bytes that the device may write.
    capacity: u32,
    /// The chain's last descriptor.
    last: u16,
    /// Descriptors of the chain.
    segments: u16,
}

/// The words that both sides look at. A side writes its own and reads the other's.
#[derive(Debug)]
struct Words {
    /// Driver's: whether an interrupt is wanted.
    available_flags: &'static AtomicU16,
    /// Driver's: how many buffers it has added.
    available_index: &'static AtomicU16,
    /// Driver's, with the event index: interrupt when the used index passes this (section 2.7.7).
    used_event: &'static AtomicU16,
    /// Device's: whether a notification is wanted.
    used_flags: &'static AtomicU16,
    /// Device's: how many buffers it has returned.
    used_index: &'static AtomicU16,
    /// Device's, with the event index: notify when the available index passes this (section 2.7.10).
    available_event: &'static AtomicU16,
}

/// A queue of a device. It must not outlive the device's next reset, and the device must be reset
/// before it is dropped: until then the device uses its memory.
#[derive(Debug)]
pub struct Queue<C> {
    number: u16,
    size: u16,
    /// All of the queue's memory.
    memory: Area,
    descriptors: Area,
    available: Area,
    used: Area,
    words: Words,
    /// Whether the event index was negotiated.
    events: bool,
    /// By the chain's first descriptor: the record that the device cannot touch.
    held: Vec<Option<Held<C>>>,
    /// By descriptor: the next of its chain, or the next free one.
    next: Vec<u16>,
    /// The first free descriptor.
    first_free: u16,
    free: u16,
    outstanding: u16,
    /// Buffers added so far, wrapping as the ring's index does.
    added: u16,
    /// `added` when the device was last told.
    told: u16,
    /// Buffers taken back so far, wrapping.
    popped: u16,
    /// The device's index as last seen.
    returned: u16,
    /// An interrupt was asked for.
    armed: bool,
}

/// Where the parts of a queue lie in one block of memory, after the descriptors: the available ring, the
/// used ring, and the end. A legacy device has the used ring on a page of its own (section 2.7.2); for
/// others it follows on a cache line of its own, so that fewer pages are touched.
const fn layout(size: usize, legacy: bool) -> (usize, usize, usize) {
    let page = PAGE_BYTES as usize;
    let alignment = if legacy { page } else { CACHE_LINE };
    let available = DESCRIPTOR_BYTES * size;
    let used = (available + ENTRIES + AVAILABLE_BYTES * size + 2).next_multiple_of(alignment);
    let end = (used + ENTRIES + USED_BYTES * size + 2).next_multiple_of(page);
    (available, used, end)
}

/// Bytes of memory for queues of a device, so many, were all as large as the larger of its first two: of
/// the size that the device has where it fixes it (legacy), else of up to 256.
pub(crate) fn bytes_for<T: VirtioTransport>(transport: &mut T, queues: u16) -> u64 {
    let legacy = transport.requires_legacy_layout();
    let most = if legacy { *SIZES.end() } else { CHOSEN_SIZE };
    let largest = [0, 1].map(|number| transport.max_queue_size(number).min(most));
    let size = largest[0].max(largest[1]) as usize;
    layout(size, legacy).2 as u64 * u64::from(queues)
}

impl<C: Copy> Queue<C> {
    /// Opens a queue: of the size that the device has where it fixes it (legacy), else of up to 256.
    /// `events` says whether the event index was negotiated.
    pub fn open<T: VirtioTransport>(
        transport: &mut T,
        number: u16,
        events: bool,
    ) -> Result<Queue<C>, VirtioError> {
        let largest = transport.max_queue_size(number);
        let size = match transport.requires_legacy_layout() {
            true => largest,
            false => largest.min(CHOSEN_SIZE),
        };
        if largest == 0 {
            return Err(VirtioError::NoQueue);
        }
        if !size.is_power_of_two() || !SIZES.contains(&size) {
            return Err(VirtioError::QueueSize);
        }
        if transport.queue_used(number) {
            return Err(VirtioError::QueueInUse);
        }
        let layout = layout(size as usize, transport.requires_legacy_layout());
        let memory = dma::allocate(layout.2 / PAGE_BYTES as usize)?;
        let queue = match Queue::in_memory(memory, layout, number, size as u16, events) {
            Some(queue) => queue,
            None => {
                dma::release(memory);
                return Err(VirtioError::OutOfReach);
            }
        };
        transport.queue_set(
            number,
            size,
            queue.descriptors.physical(),
            queue.available.physical(),
            queue.used.physical(),
        );
        Ok(queue)
    }

    /// An empty queue in this memory, which is zeroed; `None` where it is too small.
    fn in_memory(
        memory: Area,
        (available, used, _): (usize, usize, usize),
        number: u16,
        size: u16,
        events: bool,
    ) -> Option<Queue<C>> {
        let entries = usize::from(size);
        let word = |offset| memory.part(offset, 2)?.word();
        let available_end = available + ENTRIES + AVAILABLE_BYTES * entries;
        let used_end = used + ENTRIES + USED_BYTES * entries;
        let words = Words {
            available_flags: word(available)?,
            available_index: word(available + 2)?,
            used_event: word(available_end)?,
            used_flags: word(used)?,
            used_index: word(used + 2)?,
            available_event: word(used_end)?,
        };
        Some(Queue {
            number,
            size,
            memory,
            descriptors: memory.part(0, available)?,
            available: memory.part(available, available_end + 2 - available)?,
            used: memory.part(used, used_end + 2 - used)?,
            words,
            events,
            held: alloc::vec![None; entries],
            next: (1..=size).collect(),
            first_free: 0,
            free: size,
            outstanding: 0,
            added: 0,
            told: 0,
            popped: 0,
            returned: 0,
            armed: true,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Number of descriptors; a chain takes one a segment.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.into()
    }

    /// Buffers that the device holds.
    pub fn outstanding(&self) -> usize {
        self.outstanding.into()
    }

    /// Gives the device a buffer: segments that it reads, and segments that it writes after those. It
    /// learns of it with [`Queue::should_notify`].
    ///
    /// Errors: QueueFull; BadBuffer for one without segments, or too long for its descriptors.
    pub fn add(
        &mut self,
        readable: &[Area],
        writable: &[Area],
        cookie: C,
    ) -> Result<(), VirtioError> {
        let count = u16::try_from(readable.len() + writable.len()).unwrap_or(u16::MAX);
        if count > self.free {
            return Err(VirtioError::QueueFull);
        }
        let (mut after, mut last, mut capacity) = (self.first_free, None, 0u32);
        let reads = readable.iter().map(|segment| (segment, false));
        let writes = writable.iter().map(|segment| (segment, true));
        for (index, (segment, device_writes)) in (1..).zip(reads.chain(writes)) {
            let bytes = self.describe(after, segment, device_writes, index < count)?;
            let added = if device_writes { bytes } else { 0 };
            capacity = capacity.checked_add(added).ok_or(VirtioError::BadBuffer)?;
            last = Some(after);
            after = self.next[usize::from(after)];
        }
        let held = Held {
            cookie,
            capacity,
            last: last.ok_or(VirtioError::BadBuffer)?,
            segments: count,
        };
        self.hand_over(held, after)
    }

    /// The same for a buffer of one segment, which the device writes or else reads.
    #[inline]
    pub fn add_one(
        &mut self,
        segment: &Area,
        device_writes: bool,
        cookie: C,
    ) -> Result<(), VirtioError> {
        if self.free == 0 {
            return Err(VirtioError::QueueFull);
        }
        let head = self.first_free;
        let length = self.describe(head, segment, device_writes, false)?;
        let held = Held {
            cookie,
            capacity: if device_writes { length } else { 0 },
            last: head,
            segments: 1,
        };
        self.hand_over(held, self.next[usize::from(head)])
    }

    /// Writes a descriptor, and tells the segment's length.
    #[inline]
    fn describe(
        &self,
        descriptor: u16,
        segment: &Area,
        device_writes: bool,
        goes_on: bool,
    ) -> Result<u32, VirtioError> {
        let bytes = u32::try_from(segment.length()).map_err(|_| VirtioError::BadBuffer)?;
        let flags = (u16::from(goes_on) * NEXT) | (u16::from(device_writes) * WRITE);
        let next = self.next[usize::from(descriptor)];
        let words = u128::from(segment.physical())
            | u128::from(bytes) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        let offset = DESCRIPTOR_BYTES * usize::from(descriptor);
        let written = self.descriptors.store(offset, words.to_le_bytes());
        written.ok_or(VirtioError::OutOfReach)?;
        Ok(bytes)
    }

    /// Hands the chain over that begins with the first free descriptor; after it those from `after` on
    /// are free.
    #[inline]
    fn hand_over(&mut self, held: Held<C>, after: u16) -> Result<(), VirtioError> {
        let head = self.first_free;
        let slot = ENTRIES + AVAILABLE_BYTES * usize::from(self.added & (self.size - 1));
        let written = self.available.store(slot, head.to_le_bytes());
        written.ok_or(VirtioError::OutOfReach)?;
        self.first_free = after;
        self.free -= held.segments;
        self.held[usize::from(head)] = Some(held);
        self.outstanding += 1;
        self.added = self.added.wrapping_add(1);
        // The device sees descriptors and entry when it sees the index.
        let index = self.words.available_index;
        index.store(self.added, Ordering::Release);
        Ok(())
    }

    /// Takes the next buffer that the device has returned.
    ///
    /// Errors: UnknownBuffer, RingChanged: the device does not follow the protocol, and only a reset
    /// mends that.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Used<C>>, VirtioError> {
        if self.popped == self.returned {
            self.look()?;
            if self.popped == self.returned {
                return Ok(None);
            }
        }
        let slot = ENTRIES + USED_BYTES * usize::from(self.popped & (self.size - 1));
        let entry = self.used.load(slot).ok_or(VirtioError::OutOfReach)?;
        let entry = u64::from_le_bytes(entry);
        let (head, written) = (entry as u32 as usize, (entry >> 32) as u32);
        let held = self.held.get_mut(head).and_then(Option::take);
        let held = held.ok_or(VirtioError::UnknownBuffer)?;
        // The chain goes before the free descriptors.
        self.next[usize::from(held.last)] = self.first_free;
        self.first_free = head as u16;
        self.free += held.segments;
        self.outstanding -= 1;
        self.popped = self.popped.wrapping_add(1);
        Ok(Some(Used {
            cookie: held.cookie,
            written: (written <= held.capacity).then_some(written as usize),
        }))
    }

    /// Looks at what the device has returned: more than it holds cannot be.
    #[inline]
    fn look(&mut self) -> Result<(), VirtioError> {
        // What the device wrote before is read after.
        let index = self.words.used_index.load(Ordering::Acquire);
        if index.wrapping_sub(self.popped) > self.outstanding {
            return Err(VirtioError::RingChanged);
        }
        self.returned = index;
        Ok(())
    }

    /// Whether the device wants to be told of what was added since the last call.
    #[inline]
    pub fn should_notify(&mut self) -> bool {
        let (old, new) = (self.told, self.added);
        if old == new {
            return false;
        }
        self.told = new;
        // The device may be going to sleep: it must see the new index, or we its wish
        // (section 2.7.13.4.1).
        fence(Ordering::SeqCst);
        if self.events {
            let event = self.words.available_event.load(Ordering::Relaxed);
            passes(event, old, new)
        } else {
            self.words.used_flags.load(Ordering::Relaxed) & NOT_WANTED == 0
        }
    }

    /// Asks for no interrupt. The device may still send one.
    #[inline]
    pub fn disarm(&mut self) {
        if !core::mem::take(&mut self.armed) {
            return;
        }
        if self.events {
            // The used index is farthest from passing what it has just left behind.
            let event = self.popped.wrapping_sub(1);
            self.words.used_event.store(event, Ordering::Relaxed);
        } else {
            self.words
                .available_flags
                .store(NOT_WANTED, Ordering::Relaxed);
        }
    }

    /// Asks for an interrupt once the device returns `count` more buffers (at least 1; a device
    /// without the event index interrupts for the first). Returns true if that many are there
    /// already, and then no interrupt may come.
    pub fn arm(&mut self, count: u16) -> bool {
        let count = count.max(1);
        self.armed = true;
        // What the device returned before it saw the wish it does not announce: hence the fence, and
        // the look at the used ring after it.
        let wanted = if self.events {
            let event = self.popped.wrapping_add(count - 1);
            self.words.used_event.store(event, Ordering::Relaxed);
            count
        } else {
            self.words.available_flags.store(0, Ordering::Relaxed);
            1
        };
        fence(Ordering::SeqCst);
        let index = self.words.used_index.load(Ordering::Acquire);
        index.wrapping_sub(self.popped) >= wanted
    }
}

impl<C> Drop for Queue<C> {
    /// Gives the memory back: the device was reset.
    fn drop(&mut self) {
        dma::release(self.memory);
    }
}

/// Whether moving an index from `old` to `new` passes `event` (VIRTIO 1.2, section 2.7.10.1): all
/// three wrap.
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::{Area, Queue, VirtioError, passes};
    use crate::fake::{FakeDevice, FakeHandle};
    use crate::{LegacyTransport, ModernTransport, feature, negotiate, reset, start};
    use pci_function::InterruptMode;
    use pci_function::dma::{allocate, release};
    use virtio_drivers::transport::DeviceType;

    type Transport = LegacyTransport<FakeHandle>;

    /// A legacy device with one queue of this size, and that queue.
    fn device(size: u16, features: u64) -> (FakeHandle, Transport, Queue<u64>, Area) {
        let fake = FakeDevice::legacy(features, &[size]);
        let mut transport =
            LegacyTransport::new(fake.clone(), DeviceType::Network, InterruptMode::Line);
        let accepted = negotiate(&mut transport, u64::MAX).unwrap();
        let queue = Queue::open(&mut transport, 0, accepted & feature::EVENT_INDEX != 0).unwrap();
        start(&mut transport).unwrap();
        (fake, transport, queue, allocate(1).unwrap())
    }

    /// Reset first, then the memory: the order that the queue's contract asks for.
    fn end(mut transport: Transport, queue: Queue<u64>, buffer: Area) {
        reset(&mut transport).unwrap();
        drop(queue);
        release(buffer);
    }

    #[test]
    fn every_size_from_16_to_4096_carries_a_buffer() {
        for size in (4..=12).map(|power| 1u16 << power) {
            let (fake, transport, mut queue, buffer) = device(size, 0);
            assert_eq!(queue.size(), size);
            let segment = buffer.part(8, 100).unwrap();
            queue.add(&[], &[segment], 77).unwrap();
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
    fn memory_for_queues_follows_their_size() {
        for (legacy, sizes, pages) in [
            (true, [256, 256], 3),
            (true, [1024, 256], 8),
            (true, [256, 4096], 28),
            (true, [u16::MAX, 0], 28),
            (false, [4096, 256], 2),
        ] {
            let fake = match legacy {
                true => FakeDevice::legacy(0, &sizes),
                false => FakeDevice::modern(0, &sizes),
            };
            let line = InterruptMode::Line;
            let bytes = match legacy {
                true => {
                    let mut transport = LegacyTransport::new(fake, DeviceType::Network, line);
                    super::bytes_for(&mut transport, 5)
                }
                false => {
                    let windows = fake.windows();
                    let kind = DeviceType::Network;
                    let mut transport = ModernTransport::new(windows, kind, line).unwrap();
                    super::bytes_for(&mut transport, 5)
                }
            };
            assert_eq!(bytes, 5 * pages * 4096, "{sizes:?}");
        }
    }

    #[test]
    fn parts_are_aligned_and_lie_apart() {
        for size in (4..=12).map(|power| 1usize << power) {
            for legacy in [false, true] {
                let (available, used, end) = super::layout(size, legacy);
                assert_eq!(available, 16 * size);
                assert!(used >= available + 6 + 2 * size && end >= used + 6 + 8 * size);
                assert!(used.is_multiple_of(if legacy { 4096 } else { 64 }));
                assert!(end.is_multiple_of(4096));
            }
        }
        assert_eq!(super::layout(256, false).2, 2 * 4096);
        assert_eq!(super::layout(4096, true).2, 28 * 4096);
    }

    #[test]
    fn sizes_that_no_ring_has_are_refused() {
        for size in [1, 8, 24, 8192] {
            let fake = FakeDevice::legacy(0, &[size]);
            let mut transport =
                LegacyTransport::new(fake, DeviceType::Network, InterruptMode::Line);
            negotiate(&mut transport, 0).unwrap();
            assert_eq!(
                Queue::<u64>::open(&mut transport, 0, false).err(),
                Some(VirtioError::QueueSize)
            );
            assert_eq!(
                Queue::<u64>::open(&mut transport, 1, false).err(),
                Some(VirtioError::NoQueue)
            );
        }
    }

    #[test]
    fn a_full_queue_says_so_and_recovers() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        let segment = buffer.part(0, 16).unwrap();
        let pair = [segment; 2];
        for cookie in 0..8 {
            queue.add(&pair[..1], &pair[1..], cookie).unwrap();
        }
        assert_eq!((queue.free(), queue.outstanding()), (0, 8));
        assert_eq!(
            queue.add(&pair[..1], &pair[1..], 8),
            Err(VirtioError::QueueFull)
        );
        let taken = fake.take(0).unwrap();
        assert_eq!(
            taken
                .segments
                .iter()
                .map(|s| s.1)
                .collect::<std::vec::Vec<_>>(),
            [false, true]
        );
        fake.give_back(0, taken.head.into(), 0);
        assert_eq!(queue.pop().unwrap().unwrap().cookie, 0);
        queue.add(&pair[..1], &pair[1..], 8).unwrap();
        end(transport, queue, buffer);
    }

    #[test]
    fn a_lying_device_is_an_error_and_no_panic() {
        for lie in [3u32, 15, 16, 999, u32::MAX] {
            let (fake, transport, mut queue, buffer) = device(16, 0);
            queue.add(&[], &[buffer], 1).unwrap();
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
        queue.add(&[], &[buffer], 1).unwrap();
        let head = fake.take(0).unwrap().head;
        fake.give_back(0, head.into(), 0);
        assert!(queue.pop().unwrap().is_some());
        queue.add(&[], &[buffer], 2).unwrap();
        queue.add(&[], &[buffer], 3).unwrap();
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
        queue.add(&[], &[buffer], 1).unwrap();
        let head = fake.take(0).unwrap().head;
        fake.give_back(0, head.into(), 0);
        fake.set_used_index(0, 40_000);
        assert_eq!(queue.pop(), Err(VirtioError::RingChanged));
        end(transport, queue, buffer);
    }

    #[test]
    fn a_length_beyond_the_buffer_is_told_apart() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        queue.add(&[], &[buffer.part(0, 64).unwrap()], 1).unwrap();
        let head = fake.take(0).unwrap().head;
        fake.give_back(0, head.into(), 65);
        assert_eq!(queue.pop().unwrap().unwrap().written, None);
        end(transport, queue, buffer);
    }

    #[test]
    fn the_event_index_asks_and_is_asked_also_when_indices_wrap() {
        let (fake, transport, mut queue, buffer) = device(16, feature::EVENT_INDEX);
        for round in 0..70_000u32 {
            fake.want_notification(0, true);
            queue.add(&[], &[buffer], 0).unwrap();
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
                queue.add(&[], &[buffer], 0).unwrap();
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
            queue.add(&[], &[buffer], cookie).unwrap();
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
    fn buffers_without_segments_or_of_4_gib_are_refused() {
        let (fake, transport, mut queue, buffer) = device(16, 0);
        assert_eq!(queue.add(&[], &[], 0), Err(VirtioError::BadBuffer));
        let many = [buffer; 17];
        assert_eq!(queue.add(&[], &many, 0), Err(VirtioError::QueueFull));
        queue.add(&[], &many[..16], 0).unwrap();
        assert_eq!((queue.free(), queue.outstanding()), (0, 1));
        let taken = fake.take(0).unwrap();
        assert_eq!(taken.segments.len(), 16);
        fake.give_back(0, taken.head.into(), 16 * 4096);
        assert_eq!(queue.pop().unwrap().unwrap().written, Some(16 * 4096));
        assert_eq!(queue.free(), 16);
        end(transport, queue, buffer);
    }

    #[test]
    fn the_device_s_record_decides_nothing() {
        // Chains of different lengths, returned in any order, while the device scribbles over its
        // descriptors.
        let (fake, transport, mut queue, buffer) = device(16, 0);
        let mut noise = 0x2545_f491_4f6c_dd1du64;
        let mut held = std::vec::Vec::new();
        for round in 0..20_000u64 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let count = (noise % 4) as usize + 1;
            let segments: std::vec::Vec<Area> = (0..count)
                .map(|index| buffer.part(index * 100, 64).unwrap())
                .collect();
            let room = queue.free() >= count;
            let added = queue.add(&[], &segments, round);
            assert_eq!(added.is_ok(), room);
            if room {
                let taken = fake.take(0).unwrap();
                assert_eq!(taken.segments.len(), count);
                held.push((taken.head, round, 64 * count));
                fake.scribble(0, taken.head, noise);
            }
            if noise.is_multiple_of(3) && !held.is_empty() {
                let (head, cookie, bytes) = held.swap_remove((noise >> 8) as usize % held.len());
                fake.give_back(0, head.into(), bytes as u32);
                let used = queue.pop().unwrap().unwrap();
                assert_eq!((used.cookie, used.written), (cookie, Some(bytes)));
            }
            assert_eq!(queue.outstanding(), held.len());
        }
        end(transport, queue, buffer);
    }
}
