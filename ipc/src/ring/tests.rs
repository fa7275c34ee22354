//! Tests of both rings: order and content, wrap-around, sleeping and waking between two threads, and
//! a peer that writes what it likes into every field.

use super::{
    CONSUMER_WANTED, DatagramConsumer, DatagramProducer, Descriptor, FIELDS, Field, HEADER_BYTES,
    PUT, PacketConsumer, PacketProducer, Pool, RingError, SharedMemory, StreamConsumer, StreamPair,
    StreamProducer, TAKEN, Writer, packet_ring_bytes, reset, stream_ring_bytes,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Shared memory as an array of words.
#[derive(Clone)]
struct Array(Arc<[AtomicU32]>);

impl Array {
    fn new(bytes: usize) -> Array {
        Array((0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect())
    }
}

impl SharedMemory for Array {
    fn bytes(&self) -> usize {
        self.0.len() * 4
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.0.get(first..)?.first_chunk()
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        offset
            .checked_add(into.len())
            .filter(|end| *end <= self.bytes())?;
        for (position, byte) in into.iter_mut().enumerate() {
            let at = offset + position;
            *byte = self.0[at / 4].load(Ordering::Relaxed).to_le_bytes()[at % 4];
        }
        Some(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        offset
            .checked_add(from.len())
            .filter(|end| *end <= self.bytes())?;
        for (position, byte) in from.iter().enumerate() {
            let (at, shift) = (offset + position, (offset + position) % 4 * 8);
            let replace = |word: u32| Some(word & !(0xff << shift) | u32::from(*byte) << shift);
            let _ = self.0[at / 4].fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
        }
        Some(())
    }
}

fn stream(capacity: u32) -> (Array, StreamProducer<Array>, StreamConsumer<Array>) {
    let memory = Array::new(stream_ring_bytes(capacity));
    let producer = StreamProducer::new(memory.clone(), 0, capacity).unwrap();
    let consumer = StreamConsumer::new(memory.clone(), 0, capacity).unwrap();
    (memory, producer, consumer)
}

fn packets(entries: u32) -> (Array, PacketProducer<Array>, PacketConsumer<Array>) {
    let memory = Array::new(packet_ring_bytes(entries));
    let producer = PacketProducer::new(memory.clone(), 0, entries).unwrap();
    let consumer = PacketConsumer::new(memory.clone(), 0, entries).unwrap();
    (memory, producer, consumer)
}

#[test]
fn bytes_come_out_as_they_went_in_across_the_wrap() {
    let (_, mut producer, mut consumer) = stream(16);
    let (mut sent, mut got) = (0u8, 0u8);
    for step in 0..200usize {
        let bytes: Vec<u8> = (0..step % 19)
            .map(|ahead| sent.wrapping_add(ahead as u8))
            .collect();
        sent = sent.wrapping_add(producer.write(&bytes).unwrap() as u8);
        let mut into = [0; 32];
        let length = consumer.read(&mut into[..step % 13]).unwrap();
        for byte in &into[..length] {
            assert_eq!(*byte, got);
            got = got.wrapping_add(1);
        }
    }
    assert!(got > 100, "bytes flowed: {got}");
}

#[test]
fn a_full_ring_takes_nothing_and_an_empty_one_gives_nothing() {
    let (_, mut producer, mut consumer) = stream(16);
    assert_eq!(producer.write(&[7; 20]), Ok(16));
    assert_eq!(producer.write(&[7]), Ok(0));
    assert_eq!(producer.free(), Ok(0));
    assert_eq!(consumer.read(&mut [0; 20]), Ok(16));
    assert_eq!(consumer.read(&mut [0; 20]), Ok(0));
    assert_eq!(producer.free(), Ok(16));
}

#[test]
fn peeked_bytes_stay_until_skipped_and_no_more_can_be_skipped() {
    let (_, mut producer, mut consumer) = stream(16);
    producer.write(b"quail").unwrap();
    let mut into = [0; 8];
    assert_eq!(consumer.peek(&mut into), Ok(5));
    assert_eq!(consumer.peek(&mut into), Ok(5));
    assert_eq!(&into[..5], b"quail");
    assert_eq!(consumer.skip(6), Err(RingError::Corrupted));
    assert_eq!(consumer.skip(5), Ok(()));
    assert_eq!(consumer.available(), Ok(0));
}

#[test]
fn the_end_is_seen_after_the_last_byte() {
    let (_, mut producer, mut consumer) = stream(16);
    producer.write(b"end").unwrap();
    producer.close().unwrap();
    assert_eq!(consumer.is_ended(), Ok(false));
    assert_eq!(consumer.read(&mut [0; 16]), Ok(3));
    assert_eq!(consumer.is_ended(), Ok(true));
    consumer.close().unwrap();
    assert_eq!(producer.is_peer_closed(), Ok(true));
}

#[test]
fn a_sleeper_is_woken_once_and_only_when_enough_is_there() {
    let (_, mut producer, mut consumer) = stream(16);
    producer.write(&[1; 2]).unwrap();
    assert_eq!(producer.must_wake(), Ok(false), "nobody sleeps");
    assert_eq!(consumer.sleep(2), Ok(false), "what it waits for is there");
    assert_eq!(consumer.sleep(4), Ok(true));
    producer.write(&[1]).unwrap();
    assert_eq!(producer.must_wake(), Ok(false), "three of four");
    producer.write(&[1]).unwrap();
    assert_eq!(producer.must_wake(), Ok(true));
    assert_eq!(producer.must_wake(), Ok(false), "once");

    producer.write(&[1; 12]).unwrap();
    assert_eq!(producer.sleep(8), Ok(true));
    consumer.skip(0).unwrap();
    assert_eq!(consumer.read(&mut [0; 7]), Ok(7));
    assert_eq!(consumer.must_wake(), Ok(false));
    assert_eq!(consumer.read(&mut [0; 1]), Ok(1));
    assert_eq!(consumer.must_wake(), Ok(true));
}

#[test]
fn closing_wakes_a_sleeper_whatever_it_waits_for() {
    let (_, mut producer, mut consumer) = stream(16);
    assert_eq!(consumer.sleep(16), Ok(true));
    producer.close().unwrap();
    assert_eq!(producer.must_wake(), Ok(true));
    assert_eq!(
        consumer.sleep(16),
        Ok(false),
        "and keeps it from sleeping again"
    );
}

#[test]
fn a_withdrawn_announcement_costs_no_signal() {
    let (_, mut producer, mut consumer) = stream(16);
    assert_eq!(consumer.sleep(1), Ok(true));
    consumer.wake().unwrap();
    producer.write(&[1]).unwrap();
    assert_eq!(producer.must_wake(), Ok(false));
}

#[test]
fn geometry_is_checked() {
    let memory = Array::new(stream_ring_bytes(64));
    for (offset, capacity) in [
        (0, 128),
        (64, 64),
        (4, 16),
        (0, 48),
        (0, 8),
        (0, 0),
        (0, 1 << 31),
    ] {
        let made = StreamProducer::new(memory.clone(), offset, capacity);
        assert_eq!(made.err(), Some(RingError::Geometry), "{offset} {capacity}");
    }
    assert!(StreamProducer::new(memory.clone(), usize::MAX & !63, 64).is_err());
    assert!(PacketProducer::new(memory, 0, 16).is_err());
}

#[test]
fn a_pair_goes_both_ways() {
    let memory = Array::new(StreamPair::bytes_needed(64));
    let (mut to_peer, mut from_peer) = StreamPair::maker(memory.clone(), 64).unwrap();
    let (mut from_maker, mut to_maker) = StreamPair::peer(memory, 64).unwrap();
    to_peer.write(b"ping").unwrap();
    to_maker.write(b"pong").unwrap();
    let mut into = [0; 4];
    from_maker.read(&mut into).unwrap();
    assert_eq!(&into, b"ping");
    from_peer.read(&mut into).unwrap();
    assert_eq!(&into, b"pong");
}

#[test]
fn descriptors_come_out_in_order() {
    let (_, mut producer, mut consumer) = packets(16);
    let entry = |number: u32| Descriptor {
        offset: number,
        length: number + 1,
        flags: !number,
    };
    for round in 0..5 {
        for number in 0..16 {
            assert_eq!(producer.push(entry(round * 16 + number)), Ok(true));
        }
        assert_eq!(producer.push(entry(0)), Ok(false));
        for number in 0..16 {
            assert_eq!(consumer.pop(), Ok(Some(entry(round * 16 + number))));
        }
        assert_eq!(consumer.pop(), Ok(None));
    }
}

#[test]
fn a_descriptor_must_lie_in_one_buffer() {
    let pool = Pool {
        buffers: 4,
        buffer_bytes: 2048,
    };
    let check = |offset, length| {
        pool.check(Descriptor {
            offset,
            length,
            flags: 0,
        })
    };
    assert_eq!(check(2048, 2048), Some(2048..4096));
    assert_eq!(check(6144 + 10, 2038), Some(6154..8192));
    assert_eq!(check(6144 + 10, 2039), None);
    assert_eq!(check(8192, 0), None);
    assert_eq!(check(100, u32::MAX), None);
    assert_eq!(check(u32::MAX, 1), None);
    let empty = Pool {
        buffers: 4,
        buffer_bytes: 0,
    };
    assert_eq!(empty.check(Descriptor::default()), None);
}

#[test]
fn counts_go_on_past_their_wrap() {
    let (memory, mut producer, mut consumer) = stream(16);
    producer.half.start_at(u32::MAX - 5);
    consumer.half.start_at(u32::MAX - 5);
    for round in 0..4u8 {
        assert_eq!(producer.write(&[round; 7]), Ok(7));
        assert_eq!(producer.free(), Ok(9));
        let mut into = [0xff; 16];
        assert_eq!(consumer.read(&mut into), Ok(7));
        assert_eq!(into[..7], [round; 7]);
        assert_eq!(producer.free(), Ok(16));
    }
    assert_eq!(memory.0[0].load(Ordering::Relaxed), 4 * 7 - 6, "it wrapped");
}

#[test]
fn a_reset_ring_is_empty_and_open() {
    let (memory, mut producer, mut consumer) = stream(16);
    producer.write(b"old").unwrap();
    producer.close().unwrap();
    consumer.sleep(16).unwrap();
    reset(&memory, 0).unwrap();
    let mut consumer = StreamConsumer::new(memory.clone(), 0, 16).unwrap();
    assert_eq!(
        (consumer.available(), consumer.is_ended()),
        (Ok(0), Ok(false))
    );
    assert!(
        memory
            .0
            .iter()
            .take(HEADER_BYTES / 4)
            .all(|w| w.load(Ordering::Relaxed) == 0)
    );
}

/// A signal that is kept until it is waited for, like a notification's bit.
struct Bell(AtomicBool, std::thread::Thread);

impl Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.unpark();
    }
}

/// Waits for the own bell; a lost wake-up shows as the time running out.
fn wait(bell: &AtomicBool) {
    let begin = std::time::Instant::now();
    while !bell.swap(false, Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_secs(1));
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "a wake-up was lost"
        );
    }
}

#[test]
fn two_threads_pass_a_stream_without_losing_a_byte_or_a_wake_up() {
    const TOTAL: u32 = 400_000;
    let (_, mut producer, mut consumer) = stream(64);
    let consumer_bell = Arc::new(Bell(AtomicBool::new(false), std::thread::current()));
    let signal = consumer_bell.clone();
    let (send, receive) = std::sync::mpsc::channel::<Arc<Bell>>();
    let writer = std::thread::spawn(move || {
        let bell = Arc::new(Bell(AtomicBool::new(false), std::thread::current()));
        send.send(bell.clone()).unwrap();
        let mut sent = 0u32;
        while sent < TOTAL {
            let length = (sent % 23 + 1).min(TOTAL - sent);
            let bytes: Vec<u8> = (0..length).map(|ahead| (sent + ahead) as u8).collect();
            let count = producer.write(&bytes).unwrap();
            sent += count as u32;
            if producer.must_wake().unwrap() {
                signal.ring();
            }
            if count == 0 && producer.sleep(1 + sent as usize % 40).unwrap() {
                wait(&bell.0);
                producer.wake().unwrap();
            }
        }
        producer.close().unwrap();
        if producer.must_wake().unwrap() {
            signal.ring();
        }
    });
    let producer_bell = receive.recv().unwrap();
    let mut got = 0u32;
    let mut into = [0; 48];
    while !consumer.is_ended().unwrap() {
        let room = 1 + got as usize % 48;
        let count = consumer.read(&mut into[..room]).unwrap();
        for byte in &into[..count] {
            assert_eq!(*byte, got as u8);
            got += 1;
        }
        if consumer.must_wake().unwrap() {
            producer_bell.ring();
        }
        if count == 0 && consumer.sleep(1 + got as usize % 5).unwrap() {
            wait(&consumer_bell.0);
            consumer.wake().unwrap();
        }
    }
    writer.join().unwrap();
    assert_eq!(got, TOTAL);
}

/// An entry with this number.
fn numbered(number: u32) -> Descriptor {
    Descriptor {
        offset: number,
        length: number.rotate_left(7),
        flags: !number,
    }
}

#[test]
fn two_threads_pass_batches_of_packets_without_losing_one_or_a_wake_up() {
    const TOTAL: u32 = 300_000;
    let (_, mut producer, mut consumer) = packets(16);
    let consumer_bell = Arc::new(Bell(AtomicBool::new(false), std::thread::current()));
    let signal = consumer_bell.clone();
    let (send, receive) = std::sync::mpsc::channel::<Arc<Bell>>();
    let writer = std::thread::spawn(move || {
        let bell = Arc::new(Bell(AtomicBool::new(false), std::thread::current()));
        send.send(bell.clone()).unwrap();
        let mut sent = 0;
        while sent < TOTAL {
            producer.look().unwrap();
            let most = (sent % 7 + 1).min(TOTAL - sent).min(producer.ready());
            for _ in 0..most {
                assert_eq!(producer.put(numbered(sent)), Ok(true));
                sent += 1;
            }
            producer.publish().unwrap();
            if producer.must_wake().unwrap() {
                signal.ring();
            }
            // No announcement is withdrawn: the next may find it standing, or find it cleared too late.
            if most == 0 && producer.sleep(1 + sent % 8).unwrap() {
                wait(&bell.0);
            }
        }
    });
    let producer_bell = receive.recv().unwrap();
    let mut got = 0;
    while got < TOTAL {
        consumer.look().unwrap();
        for _ in 0..consumer.ready().min(1 + got % 5) {
            assert_eq!(consumer.take(), Ok(Some(numbered(got))));
            got += 1;
        }
        consumer.publish().unwrap();
        if consumer.must_wake().unwrap() {
            producer_bell.ring();
        }
        if got < TOTAL && consumer.ready() == 0 && consumer.sleep(1).unwrap() {
            wait(&consumer_bell.0);
        }
    }
    writer.join().unwrap();
}

#[test]
fn what_is_put_in_or_taken_is_the_peers_only_when_it_is_told() {
    let (_, mut producer, mut consumer) = packets(16);
    for number in 0..16 {
        assert_eq!(producer.put(numbered(number)), Ok(true));
    }
    assert_eq!(
        (producer.put(numbered(16)), producer.ready()),
        (Ok(false), 0)
    );
    assert_eq!(consumer.available(), Ok(0), "not told yet");
    producer.publish().unwrap();
    assert_eq!(consumer.take(), Ok(None), "not looked yet");
    consumer.look().unwrap();
    for number in 0..5 {
        assert_eq!(consumer.take(), Ok(Some(numbered(number))));
    }
    assert_eq!((consumer.ready(), producer.free()), (11, Ok(0)));
    consumer.publish().unwrap();
    assert_eq!(producer.free(), Ok(5));
    assert_eq!(consumer.pop(), Ok(Some(numbered(5))));
}

#[test]
fn room_that_was_not_told_of_cannot_be_claimed_nor_entries_taken() {
    let (memory, mut producer, mut consumer) = packets(16);
    producer.put(numbered(0)).unwrap();
    memory.0[TAKEN].store(1, Ordering::Relaxed);
    assert_eq!(producer.look(), Err(RingError::Corrupted));
    producer.publish().unwrap();
    memory.0[TAKEN].store(0, Ordering::Relaxed);
    consumer.look().unwrap();
    consumer.take().unwrap();
    memory.0[PUT].store(17, Ordering::Relaxed);
    assert_eq!(consumer.look(), Err(RingError::Corrupted));
}

#[test]
fn an_announcement_that_was_cleared_late_is_made_again() {
    let (memory, mut producer, mut consumer) = packets(16);
    assert_eq!(consumer.sleep(1), Ok(true));
    // The producer has read the announcement, and not cleared it yet, when the consumer takes the entry.
    producer.push(numbered(0)).unwrap();
    assert_eq!(consumer.pop(), Ok(Some(numbered(0))));
    assert_eq!(consumer.sleep(1), Ok(true), "it stands");
    memory.0[CONSUMER_WANTED].store(0, Ordering::Relaxed);
    // It signals, and the consumer finds nothing and sleeps again.
    consumer.look().unwrap();
    assert_eq!((consumer.ready(), consumer.sleep(1)), (0, Ok(true)));
    producer.push(numbered(1)).unwrap();
    assert_eq!(producer.must_wake(), Ok(true));
}

#[test]
fn an_announcement_stands_until_it_is_answered_and_is_not_for_another_number() {
    let (memory, mut producer, mut consumer) = packets(16);
    let announced = |memory: &Array| memory.0[CONSUMER_WANTED].load(Ordering::Relaxed);
    assert_eq!((consumer.sleep(3), announced(&memory)), (Ok(true), 3));
    producer.push(numbered(0)).unwrap();
    assert_eq!(producer.must_wake(), Ok(false), "one of three");
    assert_eq!(consumer.sleep(3), Ok(true));
    consumer.look().unwrap();
    assert_eq!(consumer.sleep(2), Ok(true));
    assert_eq!(announced(&memory), 2);
    producer.push(numbered(1)).unwrap();
    assert_eq!(producer.must_wake(), Ok(true));
    producer.push(numbered(2)).unwrap();
    assert_eq!(producer.must_wake(), Ok(false), "once");
    assert_eq!((consumer.sleep(3), announced(&memory)), (Ok(false), 0));
    // What was seen already is not waited for, announced or not.
    assert_eq!(consumer.sleep(4), Ok(true));
    producer.push(numbered(3)).unwrap();
    consumer.look().unwrap();
    assert_eq!((consumer.sleep(4), announced(&memory)), (Ok(false), 0));
}

#[test]
fn an_announcement_that_only_the_peer_wrote_is_no_reason_not_to_look() {
    let (memory, mut producer, mut consumer) = packets(16);
    memory.0[CONSUMER_WANTED].store(1, Ordering::Relaxed);
    producer.push(numbered(0)).unwrap();
    assert_eq!(consumer.sleep(1), Ok(false), "there is an entry");
}

#[test]
fn who_moved_nothing_has_nobody_to_wake_and_who_moved_later_has() {
    let (_, mut producer, mut consumer) = packets(16);
    producer.push(numbered(0)).unwrap();
    assert_eq!(producer.must_wake(), Ok(false), "nobody sleeps");
    // The second look of whoever announces now sees the entry: the producer owes no signal.
    assert_eq!(consumer.sleep(1), Ok(false));
    assert_eq!(consumer.sleep(2), Ok(true));
    assert_eq!(producer.must_wake(), Ok(false));
    producer.push(numbered(1)).unwrap();
    assert_eq!(producer.must_wake(), Ok(true));
}

/// What a hostile peer might write.
const HOSTILE: [u32; 9] = [0, 1, 2, 15, 16, 17, 1 << 31, u32::MAX - 1, u32::MAX];

/// Whether a ring half-filled (8 of 16 put in, 3 taken) can tell that the value is a lie.
fn must_be_noticed(field: &Field, value: u32, noticer: Writer) -> bool {
    match (field.name, noticer) {
        ("put", Writer::Consumer) => !(8..=19).contains(&value),
        ("taken", Writer::Producer) => !(3..=8).contains(&value),
        _ => false,
    }
}

#[test]
fn a_corrupted_field_is_an_error_where_it_can_be_told_and_harmless_elsewhere() {
    for field in FIELDS {
        for value in HOSTILE {
            for noticer in [Writer::Producer, Writer::Consumer] {
                let (memory, mut producer, mut consumer) = stream(16);
                producer.write(&[1; 8]).unwrap();
                consumer.read(&mut [0; 3]).unwrap();
                producer.free().unwrap();
                consumer.available().unwrap();
                memory.0[field.word].store(value, Ordering::Relaxed);
                let seen = match noticer {
                    Writer::Producer => producer.free(),
                    Writer::Consumer => consumer.available(),
                };
                let noticed = must_be_noticed(field, value, noticer);
                let context = format!("{} = {value} seen by the {noticer:?}", field.name);
                assert_eq!(
                    seen == Err(RingError::Corrupted),
                    noticed,
                    "{context}: {seen:?}"
                );
                assert!(
                    seen.is_err() || seen.is_ok_and(|ready| ready <= 16),
                    "{context}"
                );
                // And everything else on the ring returns, whatever it returns.
                let _ = producer.write(&[2; 20]);
                let _ = producer.must_wake();
                let _ = producer.sleep(usize::MAX);
                let _ = consumer.read(&mut [0; 20]);
                let _ = consumer.must_wake();
                let _ = consumer.sleep(usize::MAX);
                let _ = consumer.is_ended();
            }
        }
    }
}

#[test]
fn a_packet_rings_corrupted_fields_are_told_as_well() {
    for field in FIELDS {
        for value in HOSTILE {
            let (memory, mut producer, mut consumer) = packets(16);
            for _ in 0..8 {
                producer.push(Descriptor::default()).unwrap();
            }
            for _ in 0..3 {
                consumer.pop().unwrap();
            }
            memory.0[field.word].store(value, Ordering::Relaxed);
            let seen = (producer.free(), consumer.available());
            assert_eq!(
                seen.0 == Err(RingError::Corrupted),
                field.name == "taken" && !(0..=8).contains(&value),
                "{} = {value}",
                field.name
            );
            // What was popped had been seen ready, 8 entries: fewer are a lie.
            assert_eq!(
                seen.1 == Err(RingError::Corrupted),
                field.name == "put" && !(8..=19).contains(&value),
                "{} = {value}",
                field.name
            );
            while let Ok(Some(_)) = consumer.pop() {}
            while let Ok(true) = producer.push(Descriptor::default()) {}
            let _ = (producer.must_wake(), consumer.must_wake());
            let slept = (producer.sleep(1), consumer.sleep(1));
            let (by_consumer, by_producer) = match field.name {
                "consumer_closed" => (value != 0, false),
                "producer_closed" => (false, value != 0),
                _ => continue,
            };
            assert_eq!(
                (
                    slept.0 == Err(RingError::Corrupted),
                    slept.1 == Err(RingError::Corrupted)
                ),
                (by_consumer, by_producer),
                "a packet ring is never closed: {} = {value}",
                field.name
            );
        }
    }
}

fn datagrams(capacity: u32) -> (Array, DatagramProducer<Array>, DatagramConsumer<Array>) {
    let memory = Array::new(stream_ring_bytes(capacity));
    let producer = DatagramProducer::new(memory.clone(), 0, capacity).unwrap();
    let consumer = DatagramConsumer::new(memory.clone(), 0, capacity).unwrap();
    (memory, producer, consumer)
}

/// A peer's address for each number, of both kinds.
fn address(number: u16) -> SocketAddr {
    match number.is_multiple_of(2) {
        true => SocketAddr::from(([10, 0, 0, number as u8], number)),
        false => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, number], number)),
    }
}

#[test]
fn datagrams_come_out_whole_in_order_and_with_their_addresses_across_the_wrap() {
    let (_, mut producer, mut consumer) = datagrams(256);
    let (mut sent, mut got) = (0u16, 0u16);
    let bytes = |number: u16| vec![number as u8; usize::from(number) % 90];
    for step in 0..2_000u32 {
        if step % 5 < 3 && producer.push(address(sent), &bytes(sent)).unwrap() {
            sent += 1;
        }
        if step.is_multiple_of(3)
            && let Some((peer, length)) = consumer.peek().unwrap()
        {
            assert_eq!((peer, length), (address(got), bytes(got).len()));
            let mut into = [0xff; 64];
            let count = consumer.take(length, &mut into).unwrap();
            assert_eq!(count, length.min(64), "what does not fit is cut off");
            assert_eq!(into[..count], bytes(got)[..count]);
            got += 1;
        }
    }
    assert!(got > 300 && sent - got < 12, "{sent} {got}");
}

#[test]
fn a_datagram_that_has_no_room_is_not_there_in_part() {
    let (_, mut producer, mut consumer) = datagrams(256);
    assert!(producer.fits(232) && !producer.fits(233) && !producer.fits(70_000));
    assert_eq!(producer.push(address(1), &[1; 233]), Ok(false));
    assert_eq!(producer.push(address(1), &[1; 100]), Ok(true));
    assert_eq!(producer.push(address(2), &[2; 121]), Ok(false));
    assert_eq!(producer.sleep(121), Ok(true));
    assert_eq!(consumer.take(100, &mut []), Ok(0));
    assert_eq!(consumer.must_wake(), Ok(true), "now it has room");
    assert_eq!(consumer.peek(), Ok(None));
    assert_eq!(consumer.sleep(), Ok(true));
    assert_eq!(producer.push(address(2), &[2; 121]), Ok(true));
    assert_eq!(producer.must_wake(), Ok(true));
    assert_eq!(consumer.peek(), Ok(Some((address(2), 121))));
}

#[test]
fn records_that_are_none_are_told_and_no_byte_beyond_the_ring_is_touched() {
    for word in 0..6 {
        for value in HOSTILE {
            let (memory, mut producer, mut consumer) = datagrams(64);
            producer.push(address(2), &[7; 30]).unwrap();
            memory.0[HEADER_BYTES / 4 + word].store(value, Ordering::Relaxed);
            let seen = consumer.peek();
            let told = seen == Err(RingError::Corrupted);
            // The record has 56 bytes; shorter ones are believed.
            let must_be_told = match word {
                0 => value > 32,
                1 => !matches!(value >> 16 & 0xff, 4 | 6),
                _ => false,
            };
            assert_eq!(told, must_be_told, "word {word} = {value}: {seen:?}");
            if let Ok(Some((_, length))) = seen {
                let _ = consumer.take(length, &mut [0; 64]);
            }
            let _ = consumer.take(usize::MAX, &mut [0; 64]);
        }
    }
    for field in FIELDS {
        for value in HOSTILE {
            let (memory, mut producer, mut consumer) = datagrams(64);
            producer.push(address(2), &[7; 9]).unwrap();
            memory.0[field.word].store(value, Ordering::Relaxed);
            for _ in 0..4 {
                let _ = producer.push(address(1), &[1; 17]);
                let _ = (producer.must_wake(), producer.sleep(17), producer.free());
                if let Ok(Some((_, length))) = consumer.peek() {
                    let _ = consumer.take(length, &mut [0; 9]);
                }
                let _ = (consumer.must_wake(), consumer.sleep(), consumer.available());
            }
            if field.name.ends_with("closed") && value != 0 {
                let slept = match field.writer {
                    Writer::Producer => consumer.sleep(),
                    Writer::Consumer => producer.sleep(1),
                };
                assert_eq!(slept, Err(RingError::Corrupted), "{}", field.name);
            }
        }
    }
}
