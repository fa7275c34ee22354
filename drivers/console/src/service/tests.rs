//! The service against the fake chip: writers, the reader, rings, and clients that misbehave.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::interface::console::{ConsoleError, ConsoleServer};
use ipc::ring::{SharedMemory, StreamConsumer, StreamPair, StreamProducer};
use ipc::server::{Answer, Caller, ReplySlot};
use ipc::{Error, Handle};

use super::{Console, INPUT_BYTES, OUTPUT_BYTES, Platform};
use crate::fake::FakeUart;
use crate::uart::Uart;

/// Memory that two sides share.
#[derive(Clone)]
struct Shared(Arc<Vec<AtomicU32>>);

impl Shared {
    fn new(bytes: usize) -> Shared {
        Shared(Arc::new(
            (0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect(),
        ))
    }
}

impl SharedMemory for Shared {
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
            let at = offset + position;
            let mut bytes = self.0[at / 4].load(Ordering::Relaxed).to_le_bytes();
            bytes[at % 4] = *byte;
            self.0[at / 4].store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
        Some(())
    }
}

/// The system, as far as the console sees it.
#[derive(Clone, Default)]
struct FakeSystem(Rc<RefCell<SystemState>>);

#[derive(Default)]
struct SystemState {
    memory: Option<Shared>,
    signals: Vec<(u64, u64)>,
    closed: Vec<u64>,
    log: Vec<Vec<u8>>,
}

impl Platform for FakeSystem {
    type Memory = Shared;
    fn map(&mut self, _: Handle) -> Result<Shared, Error> {
        self.0.borrow().memory.clone().ok_or(Error::OutOfQuota)
    }
    fn signal(&mut self, bell: Handle, bits: u64) {
        self.0.borrow_mut().signals.push((bell.0, bits));
    }
    fn doorbell(&self) -> (Handle, u64) {
        (Handle(900), 2)
    }
    fn read_log(&mut self) -> Vec<u8> {
        let pieces = &mut self.0.borrow_mut().log;
        if pieces.is_empty() {
            Vec::new()
        } else {
            pieces.remove(0)
        }
    }
    fn close(&mut self, handle: Handle) {
        self.0.borrow_mut().closed.push(handle.0);
    }
}

/// Stashed calls get handles from 500 on.
struct Slot(u64);
impl ReplySlot for Slot {
    fn stash(&mut self) -> Result<Handle, Error> {
        self.0 += 1;
        Ok(Handle(499 + self.0))
    }
}

type TestConsole = Console<FakeUart, FakeSystem>;

struct Bench {
    console: TestConsole,
    chip: FakeUart,
    system: FakeSystem,
    slot: Slot,
}

/// A console with sessions 1 and 2 that may read and 3 that may not.
fn bench() -> Bench {
    let chip = FakeUart::default();
    let system = FakeSystem::default();
    let uart = Uart::start(chip.clone(), 115_200);
    let mut console = Console::new(uart, system.clone());
    for (badge, may_read) in [(1, true), (2, true), (3, false)] {
        console.opened(badge, may_read);
    }
    Bench {
        console,
        chip,
        system,
        slot: Slot(0),
    }
}

impl Bench {
    fn write(&mut self, badge: u64, bytes: &[u8]) -> u32 {
        self.console
            .write(&mut Caller::new(badge, &mut self.slot), bytes)
            .unwrap()
    }

    fn read(&mut self, badge: u64, limit: u16) -> Result<Option<Vec<u8>>, ConsoleError> {
        match self
            .console
            .read(&mut Caller::new(badge, &mut self.slot), limit)?
        {
            Answer::Now(typed) => Ok(Some(typed.to_vec())),
            Answer::Later(_) => Ok(None),
        }
    }

    /// Attaches rings of 64 bytes; the client's ends of them.
    fn attach(
        &mut self,
        badge: u64,
        reads: bool,
    ) -> Result<(StreamProducer<Shared>, StreamConsumer<Shared>, Shared), ConsoleError> {
        let memory = Shared::new(StreamPair::bytes_needed(64));
        self.system.0.borrow_mut().memory = Some(memory.clone());
        let mut caller = Caller::new(badge, &mut self.slot);
        let (rings, bell) = (Handle(100 + badge), Handle(200 + badge));
        let answer = self
            .console
            .attach(&mut caller, 64, reads, badge, rings, bell)?;
        assert_eq!(answer, (2, Handle(900)));
        let (producer, consumer) = StreamPair::maker(memory.clone(), 64).unwrap();
        Ok((producer, consumer, memory))
    }

    /// Runs the console and the line until both rest; what went out.
    fn settle(&mut self) -> Vec<u8> {
        loop {
            while self.console.run() {}
            assert!(
                !self.chip.interrupts(),
                "an edge-triggered line must be low before a wait"
            );
            if self.chip.state().fifo.is_empty() {
                return core::mem::take(&mut self.chip.state().sent);
            }
            self.chip.transmit();
        }
    }
}

#[test]
fn writes_go_out_whole_and_in_order() {
    let mut bench = bench();
    assert_eq!(bench.write(1, b"one line\r\n"), 10);
    assert_eq!(bench.write(3, b"another\r\n"), 9);
    assert_eq!(bench.settle(), b"one line\r\nanother\r\n");
}

#[test]
fn a_write_that_does_not_fit_is_taken_later_as_a_whole() {
    let mut bench = bench();
    let line = [b'x'; 3900];
    let taken: u32 = (0..6).map(|_| bench.write(1, &line)).sum();
    assert_eq!(taken, 4 * 3900, "whole lines only");
    assert_eq!(bench.settle().len(), 4 * 3900);
    assert_eq!(bench.write(1, &line), 3900);
    assert_eq!(bench.write(1, &[0; 3901]), 0, "longer than a write can be");
}

#[test]
fn typed_bytes_answer_the_read_that_waits() {
    let mut bench = bench();
    assert_eq!(bench.read(1, 4), Ok(None));
    bench.settle();
    assert!(bench.console.answer().is_none(), "nothing was typed");
    bench.chip.type_bytes(b"quail");
    bench.settle();
    let (deferred, typed) = bench.console.answer().unwrap();
    assert_eq!(deferred.abandon(), Handle(500));
    assert_eq!(&typed[..], b"quai");
    assert_eq!(bench.read(1, 256), Ok(Some(b"l".to_vec())));
}

#[test]
fn what_is_typed_while_the_chip_is_served_makes_no_edge_and_is_taken_all_the_same() {
    let mut bench = bench();
    bench.chip.state().echoes = true;
    bench.write(1, b"echo");
    assert!(!bench.console.run());
    assert!(!bench.chip.interrupts(), "no edge would come");
    assert_eq!(bench.read(1, 9), Ok(Some(b"echo".to_vec())));
}

#[test]
fn one_session_reads_and_only_if_it_may() {
    let mut bench = bench();
    assert_eq!(bench.read(3, 1), Err(ConsoleError::NotPermitted));
    assert_eq!(
        bench.read(9, 1),
        Err(ConsoleError::NotPermitted),
        "no such session"
    );
    assert_eq!(bench.read(1, 0), Err(ConsoleError::OutOfRange));
    assert_eq!(bench.read(1, 257), Err(ConsoleError::OutOfRange));
    assert_eq!(bench.read(1, 1), Ok(None));
    assert_eq!(bench.read(2, 1), Err(ConsoleError::ReaderBusy));
    assert_eq!(bench.attach(2, true).err(), Some(ConsoleError::ReaderBusy));
    assert_eq!(
        bench.attach(3, true).err(),
        Some(ConsoleError::NotPermitted)
    );
    bench.console.closed(1);
    assert_eq!(
        bench.system.0.borrow().closed.last(),
        Some(&500),
        "the waiting read is dropped"
    );
    assert_eq!(bench.read(2, 1), Ok(None), "the next may");
}

#[test]
fn a_read_given_up_is_replaced_by_the_next() {
    let mut bench = bench();
    assert_eq!(bench.read(1, 1), Ok(None));
    assert_eq!(bench.read(1, 1), Ok(None));
    assert_eq!(bench.system.0.borrow().closed, [500]);
    bench.chip.type_bytes(b"a");
    bench.settle();
    assert_eq!(bench.console.answer().unwrap().0.abandon(), Handle(501));
}

#[test]
fn rings_carry_bytes_both_ways_and_wake_their_sleepers() {
    let mut bench = bench();
    let (mut outgoing, mut typed, _) = bench.attach(1, true).unwrap();
    bench.settle();
    outgoing.write(b"prompt> ").unwrap();
    assert!(
        outgoing.must_wake().unwrap(),
        "the console sleeps on the empty ring"
    );
    assert_eq!(bench.settle(), b"prompt> ");
    assert!(typed.sleep(1).unwrap());
    bench.chip.type_bytes(b"ls\r");
    bench.settle();
    assert_eq!(bench.system.0.borrow().signals, [(201, 1)]);
    let mut bytes = [0; 8];
    assert_eq!(typed.read(&mut bytes), Ok(3));
    assert_eq!(&bytes[..3], b"ls\r");
}

#[test]
fn a_slow_reader_loses_nothing_until_the_buffer_is_full_and_then_it_is_counted() {
    let mut bench = bench();
    let (_, mut typed, _) = bench.attach(1, true).unwrap();
    let total = INPUT_BYTES + 64 + 160;
    for _ in 0..total / 16 {
        bench.chip.type_bytes(&[b'k'; 16]);
        bench.settle();
    }
    assert_eq!(bench.console.counters().1, 160);
    let mut got = 0;
    let mut bytes = [0; 64];
    loop {
        let count = typed.read(&mut bytes).unwrap();
        if count == 0 {
            break;
        }
        got += count;
        assert!(
            got >= total - 160 || typed.must_wake().unwrap(),
            "the console waits for room"
        );
        bench.settle();
    }
    assert_eq!(got, total - 160);
}

#[test]
fn a_full_queue_leaves_the_rest_in_the_ring() {
    let mut bench = bench();
    let (mut outgoing, _, _) = bench.attach(1, false).unwrap();
    let _ = bench.console.run();
    for _ in 0..4 {
        bench.write(2, &[b'w'; 3900]);
    }
    bench.write(2, &[b'w'; OUTPUT_BYTES - 4 * 3900 - 20]);
    outgoing
        .write(b"first line\nsecond line that waits\n")
        .unwrap();
    let _ = outgoing.must_wake();
    bench.chip.state().fifo.extend([b'.'; 16]);
    let _ = bench.console.run();
    assert_eq!(outgoing.free(), Ok(64 - 23), "the second line stays whole");
    bench.write(2, b"other\n");
    let sent = bench.settle();
    assert!(sent.ends_with(b"first line\nother\nsecond line that waits\n"));
}

#[test]
fn writers_take_turns() {
    let mut bench = bench();
    let (mut one, _, _) = bench.attach(1, false).unwrap();
    let (mut two, _, _) = bench.attach(2, false).unwrap();
    one.write(b"1\n").unwrap();
    two.write(b"2\n").unwrap();
    assert_eq!(bench.settle(), b"1\n2\n");
    two.write(b"2\n").unwrap();
    one.write(b"1\n").unwrap();
    assert_eq!(bench.settle().len(), 4);
}

#[test]
fn a_client_that_corrupts_its_ring_is_detached_and_nobody_else() {
    for word in [0, 16, (128 + 64) / 4, (128 + 64) / 4 + 16] {
        let mut bench = bench();
        let (_, _, memory) = bench.attach(1, true).unwrap();
        let (mut other, _, _) = bench.attach(2, false).unwrap();
        bench.chip.type_bytes(b"x");
        bench.settle();
        memory.0[word].store(0x8000_0000, Ordering::Relaxed);
        // A count is looked at again when the ring seems full.
        for _ in 0..5 {
            bench.chip.type_bytes(&[b'y'; 16]);
            while bench.console.run() {}
        }
        other.write(b"fine\n").unwrap();
        assert_eq!(bench.settle(), b"fine\n", "word {word}");
        // The words that only the client reads change nothing for the console.
        let own = word == 16 || word == (128 + 64) / 4;
        assert_eq!(
            bench.read(2, 1).is_ok(),
            !own,
            "word {word}: the reader is gone"
        );
    }
}

#[test]
fn what_was_written_before_the_end_goes_out() {
    let mut bench = bench();
    let (mut outgoing, _, _) = bench.attach(1, true).unwrap();
    outgoing.write(b"last words\n").unwrap();
    bench.console.closed(1);
    assert_eq!(bench.settle(), b"last words\n");
    assert_eq!(bench.system.0.borrow().closed, [101, 201]);
    assert_eq!(bench.read(2, 1), Ok(None), "and the reader's place is free");
}

#[test]
fn rings_that_do_not_fit_are_refused() {
    let mut bench = bench();
    bench.system.0.borrow_mut().memory = Some(Shared::new(4096));
    for bytes in [0, 32, 63, 65, 4096, 131_072, u32::MAX] {
        let mut caller = Caller::new(1, &mut bench.slot);
        let refused = bench
            .console
            .attach(&mut caller, bytes, false, 1, Handle(1), Handle(2));
        assert_eq!(refused.err(), Some(ConsoleError::OutOfRange), "{bytes}");
    }
    assert_eq!(
        bench.system.0.borrow().closed.len(),
        14,
        "their handles are closed"
    );
}

#[test]
fn log_lines_are_shown_whole_with_line_ends_for_a_terminal() {
    let mut bench = bench();
    let log = |bench: &Bench, pieces: &[&[u8]]| {
        bench.system.0.borrow_mut().log = pieces.iter().map(|piece| piece.to_vec()).collect();
    };
    log(&bench, &[b"web: one\nweb: two\nweb: th"]);
    assert_eq!(bench.settle(), b"", "nobody said that there is news");
    bench.console.log_has_news();
    assert_eq!(bench.settle(), b"web: one\r\nweb: two\r\n");
    bench.write(1, b"shell\r\n");
    log(&bench, &[b"ree\n"]);
    bench.console.log_has_news();
    assert_eq!(
        bench.settle(),
        b"shell\r\nweb: three\r\n",
        "the line was not torn"
    );
    log(&bench, &[&[b'x'; 2048], &[b'x'; 100]]);
    bench.console.log_has_news();
    assert_eq!(
        bench.settle().len(),
        2148,
        "what is no line is not kept for ever"
    );
}

#[test]
fn stopping_shows_what_there_is_and_then_finishes() {
    let mut bench = bench();
    bench.write(1, b"shell\r\n");
    bench.settle();
    assert!(!bench.console.has_finished(), "nobody said so");
    bench.write(1, &[b'x'; 40]);
    bench.system.0.borrow_mut().log = vec![b"init: one\n".to_vec(), b"init: two\n".to_vec()];
    bench.console.stop();
    let _ = bench.console.run();
    assert!(!bench.console.has_finished(), "the line is still busy");
    let shown = String::from_utf8(bench.settle()).unwrap();
    assert!(bench.console.has_finished());
    assert!(shown.ends_with("init: one\r\ninit: two\r\n"), "{shown}");
    assert_eq!(shown.matches('x').count(), 40);
}

#[test]
fn a_long_log_waits_for_room_and_is_shown_all() {
    let mut bench = bench();
    bench.system.0.borrow_mut().log = vec![[b'\n'; 2048].to_vec(); 40];
    bench.console.log_has_news();
    assert_eq!(bench.settle().len(), 2 * 2048 * 40);
}

#[test]
fn eight_sessions_have_rings() {
    let mut bench = bench();
    for badge in 10..19 {
        bench.console.opened(badge, false);
        assert_eq!(bench.attach(badge, false).is_ok(), badge < 18);
    }
}
