//! Packets through the card, with an honest device and stack and with hostile ones.

use ipc::interface::net_device::{Geometry, RING_RECEIVE_FREE, RING_TRANSMIT, RING_TRANSMITTED};
use ipc::ring::Descriptor;
use net_driver::bench::{BUFFER_BYTES, BUFFERS, ENTRIES, GEOMETRY, HEADROOM, Noise, Shared};
use net_driver::{Card, CardError, Rings};
use pci_function::dma;
use virtio::{VirtioTransport, feature};

use crate::bench::{Bench, legacy, mmio, modern};

/// Packets both ways.
fn packets_flow<T: VirtioTransport>(mut bench: Bench<T>, header: usize, segments: usize) {
    bench.stack.give(0..4);
    bench.run();
    let packet: Vec<u8> = (0..100).collect();
    bench.arrive(header, &packet);
    bench.run();
    let got = bench.stack.received.pop().unwrap().unwrap();
    assert_eq!((got.offset, got.length), (HEADROOM, 100));
    assert_eq!(bench.bytes(got), packet);

    let sent = bench.stack.send(9, 60);
    let area = bench.pool.part(sent.offset as usize, 60).unwrap();
    area.write(&[0x5a; 60]);
    bench
        .pool
        .part(sent.offset as usize - header, header)
        .unwrap()
        .write(&[0xff; 12]);
    bench.run();
    let buffer = bench.device.take(1).unwrap();
    assert_eq!(buffer.segments.len(), segments);
    let mut seen = Vec::new();
    for (area, writable) in &buffer.segments {
        assert!(!writable);
        let mut bytes = vec![0; area.length()];
        area.read(&mut bytes);
        seen.extend(bytes);
    }
    assert_eq!(
        seen,
        [vec![0; header], vec![0x5a; 60]].concat(),
        "an empty header, then the packet"
    );
    bench.device.give_back(1, buffer.head.into(), 0);
    bench.run();
    assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)));
    let counted = bench.card.statistics();
    assert_eq!((counted.received_packets, counted.received_bytes), (1, 100));
    assert_eq!((counted.sent_packets, counted.sent_bytes), (1, 60));
    bench.end();
}

#[test]
fn packets_flow_over_all_kinds_of_device() {
    packets_flow(legacy(0), 10, 2);
    packets_flow(legacy(feature::ANY_LAYOUT), 10, 1);
    packets_flow(legacy(feature::ANY_LAYOUT | feature::EVENT_INDEX), 10, 1);
    packets_flow(modern(), 12, 1);
    packets_flow(mmio(), 12, 1);
}

#[test]
fn thousands_of_packets_keep_their_order_and_buffers() {
    let mut bench = modern();
    bench.stack.give(0..16);
    for round in 0..70_000u32 {
        bench.run();
        bench.arrive(12, &[&round.to_le_bytes()[..], &[0; 60]].concat());
        bench.run();
        let got = bench.stack.received.pop().unwrap().unwrap();
        assert_eq!(bench.bytes(got)[..4], round.to_le_bytes());
        bench
            .stack
            .give(got.offset / BUFFER_BYTES..got.offset / BUFFER_BYTES + 1);
        bench.stack.send(32 + round % 16, 64);
        bench.run();
        let buffer = bench.device.take(1).unwrap();
        bench.device.give_back(1, buffer.head.into(), 0);
        bench.run();
        assert_eq!(bench.stack.transmitted.pop().unwrap().unwrap().length, 64);
    }
    assert_eq!(bench.card.statistics().received_dropped, 0);
    bench.end();
}

#[test]
fn bursts_keep_their_order_and_buffers() {
    const BURST: u32 = 15;
    let mut bench = modern();
    bench.stack.give(0..BURST);
    bench.run();
    for round in 0..2_000u32 {
        for number in 0..BURST {
            let mark = (round * BURST + number).to_le_bytes();
            bench.arrive(12, &[&mark[..], &[0; 60]].concat());
            bench.stack.send(number, 64);
        }
        bench.run();
        for number in 0..BURST {
            let got = bench.stack.received.pop().unwrap().unwrap();
            let mark = (round * BURST + number).to_le_bytes();
            assert_eq!(bench.bytes(got)[..4], mark);
            let buffer = got.offset / BUFFER_BYTES;
            bench.stack.give(buffer..buffer + 1);
            let sent = bench.device.take(1).unwrap();
            bench.device.give_back(1, sent.head.into(), 0);
        }
        bench.run();
        for number in 0..BURST {
            let sent = bench.stack.transmitted.pop().unwrap().unwrap();
            assert_eq!(sent.offset, (BUFFERS + number) * BUFFER_BYTES + HEADROOM);
        }
    }
    let counted = bench.card.statistics();
    assert_eq!(counted.received_packets, 2_000 * u64::from(BURST));
    assert_eq!(counted.sent_packets, 2_000 * u64::from(BURST));
    bench.end();
}

#[test]
fn the_device_is_told_once_for_a_batch_and_interrupts_only_when_asked() {
    let mut bench = modern();
    bench.stack.give(0..8);
    bench.device.want_notification(0, true);
    bench.run();
    assert_eq!(
        bench.device.notifications(0),
        1,
        "eight buffers, one notification"
    );
    bench.device.want_notification(1, true);
    for buffer in 0..4 {
        bench.stack.send(32 + buffer, 60);
    }
    bench.run();
    assert_eq!(
        bench.device.notifications(1),
        1,
        "four packets, one notification"
    );
    let interrupts: Vec<bool> = (0..4)
        .map(|_| {
            let buffer = bench.device.take(1).unwrap();
            bench.device.give_back(1, buffer.head.into(), 0)
        })
        .collect();
    assert_eq!(interrupts, [false; 4], "nobody waits for those buffers");
    assert!(bench.arrive(12, &[0; 60]), "a packet is news");
    assert!(
        !bench.arrive(12, &[0; 60]),
        "the second is not: nobody was here yet"
    );
    assert_eq!(bench.card.statistics().kicks, 2);
    bench.end();
}

#[test]
fn a_crowded_transmit_queue_asks_for_an_interrupt() {
    let mut bench = modern();
    for buffer in 0..20 {
        bench.stack.send(32 + buffer, 60);
    }
    assert!(bench.run().reclaim);
    let interrupted = (0..16).any(|_| {
        let buffer = bench.device.take(1).unwrap();
        bench.device.give_back(1, buffer.head.into(), 0)
    });
    assert!(interrupted, "four packets wait for room");
    bench.run();
    assert!(bench.device.take(1).is_some(), "they went");
    bench.end();
}

#[test]
fn the_stack_is_signalled_when_it_sleeps_and_only_then() {
    let mut bench = modern();
    bench.stack.give(0..4);
    bench.run();
    bench.arrive(12, &[0; 60]);
    assert!(!bench.run().signal, "it is awake");
    bench.stack.received.pop().unwrap();
    assert!(bench.stack.received.sleep(1).unwrap());
    bench.arrive(12, &[0; 60]);
    assert!(bench.run().signal);
    assert!(!bench.run().signal, "once");
    bench.end();
}

#[test]
fn a_stack_that_sleeps_is_heard_when_it_rings() {
    let mut bench = modern();
    bench.run();
    bench.stack.give(0..1);
    assert!(
        bench.stack.free.must_wake().unwrap(),
        "the driver waits for buffers"
    );
    bench.stack.send(40, 60);
    assert!(bench.stack.transmit.must_wake().unwrap(), "and for packets");
    bench.run();
    assert!(bench.device.take(0).is_some() && bench.device.take(1).is_some());
    bench.end();
}

#[test]
fn a_full_received_ring_holds_packets_back_and_loses_none() {
    let mut bench = legacy(feature::ANY_LAYOUT);
    let mut given = 0;
    for _ in 0..7 {
        bench.stack.give(given..given + 10);
        given += 10;
        bench.run();
        for _ in 0..10 {
            bench.arrive(10, &[given as u8; 60]);
        }
        bench.run();
    }
    let mut got = 0;
    while bench.stack.received.pop().unwrap().is_some() {
        got += 1;
    }
    assert_eq!(got, ENTRIES);
    assert!(
        bench.stack.received.must_wake().unwrap(),
        "the driver waits for room"
    );
    bench.run();
    while bench.stack.received.pop().unwrap().is_some() {
        got += 1;
    }
    assert_eq!(got, 70);
    bench.end();
}

#[test]
fn a_stack_that_takes_nothing_back_does_not_keep_the_driver_busy() {
    let mut bench = modern();
    for number in 0..ENTRIES {
        bench.stack.send(number, 60);
        bench.run();
        let sent = bench.device.take(1).unwrap();
        bench.device.give_back(1, sent.head.into(), 0);
    }
    bench.run();
    bench.stack.send(0, 60);
    assert!(
        !bench.run().again,
        "there is no place for it to come back to"
    );
    assert!(bench.device.take(1).is_none());
    bench.stack.transmitted.pop().unwrap();
    assert!(bench.stack.transmitted.must_wake().unwrap());
    bench.run();
    assert!(bench.device.take(1).is_some());
    bench.end();
}

#[test]
fn a_device_that_lies_about_lengths_costs_a_packet() {
    for length in [0u32, 9, 12, 12 + 13, 12 + 2048, 1 << 31, u32::MAX] {
        let mut bench = modern();
        bench.stack.give(0..1);
        bench.run();
        let buffer = bench.device.take(0).unwrap();
        bench.device.give_back(0, buffer.head.into(), length);
        bench.run();
        assert_eq!(bench.stack.received.pop(), Ok(None), "length {length}");
        assert_eq!(bench.card.statistics().received_dropped, 1);
        assert!(bench.device.take(0).is_some(), "the buffer is used again");
        bench.end();
    }
}

#[test]
fn a_device_that_lies_about_identifiers_or_indices_is_an_error() {
    for (queue, lie) in [(0, 5), (0, 77), (1, 5), (1, u32::MAX)] {
        let mut bench = modern();
        bench.stack.give(0..1);
        bench.stack.send(40, 60);
        bench.run();
        bench.device.give_back(queue, lie, 60);
        assert!(
            matches!(bench.card.run(), Err(CardError::Device(_))),
            "{queue} {lie}"
        );
        bench.end();
    }
    let mut bench = modern();
    bench.run();
    bench.device.set_used_index(1, 9_999);
    assert!(matches!(bench.card.run(), Err(CardError::Device(_))));
    bench.end();
}

#[test]
fn descriptors_out_of_the_pool_are_refused_and_counted() {
    let mut bench = modern();
    let receive = BUFFERS * BUFFER_BYTES;
    let end = GEOMETRY.pool_bytes as u32;
    for offset in [receive, end, end + 1, u32::MAX] {
        assert!(
            bench
                .stack
                .free
                .push(Descriptor {
                    offset,
                    length: 1,
                    flags: 0
                })
                .unwrap()
        );
    }
    let place = [
        (end, 60),
        (u32::MAX, u32::MAX),
        (end - 59, 60),
        (0, 60),
        (HEADROOM, 60),
        (receive - 30, 60),
        (receive, 60),
        (receive + HEADROOM - 1, 60),
        (receive + HEADROOM, u32::MAX),
    ];
    let length = [
        (receive + HEADROOM, 0),
        (receive + HEADROOM, 13),
        (receive + HEADROOM, 65_550),
    ];
    let hostile = [&place[..], &length].concat();
    for (offset, length) in &hostile {
        let packet = Descriptor {
            offset: *offset,
            length: *length,
            flags: 0,
        };
        assert!(bench.stack.transmit.push(packet).unwrap());
    }
    bench.run();
    assert!(bench.device.take(0).is_none() && bench.device.take(1).is_none());
    let counted = bench.card.statistics();
    assert_eq!(counted.refused_descriptors, 4 + hostile.len() as u64);
    assert_eq!(counted.refused_buffers, 4);
    assert_eq!(counted.refused_places, place.len() as u64);
    assert_eq!(counted.refused_lengths, length.len() as u64);
    for (offset, length) in hostile {
        let back = Descriptor {
            offset,
            length,
            flags: 0,
        };
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(back)));
    }
    assert_eq!(bench.stack.transmitted.pop(), Ok(None));
    bench.end();
}

#[test]
fn a_corrupted_ring_is_the_stack_s_error() {
    for (ring, word) in [
        (RING_RECEIVE_FREE, 0),
        (RING_TRANSMIT, 0),
        (RING_TRANSMITTED, 16),
        (1, 16),
        // Said to be closed, which would keep the driver from ever sleeping.
        (RING_RECEIVE_FREE, 2),
        (RING_TRANSMIT, 2),
    ] {
        let mut bench = modern();
        bench.stack.give(0..2);
        bench.run();
        bench.arrive(12, &[0; 60]);
        bench.stack.corrupt(ring, word, 0x4000_0000);
        assert!(
            matches!(bench.card.run(), Err(CardError::Ring(_))),
            "ring {ring}"
        );
        bench.end();
    }
}

#[test]
fn geometry_out_of_range_is_refused() {
    let wrong = [
        Geometry {
            buffer_bytes: 0,
            ..GEOMETRY
        },
        Geometry {
            buffer_bytes: 1024,
            ..GEOMETRY
        },
        Geometry {
            buffer_bytes: u32::MAX,
            ..GEOMETRY
        },
        Geometry {
            headroom_bytes: 65,
            ..GEOMETRY
        },
        Geometry {
            headroom_bytes: 11,
            ..GEOMETRY
        },
        Geometry {
            pool_bytes: 2047,
            ..GEOMETRY
        },
        Geometry {
            pool_bytes: GEOMETRY.pool_bytes + 1,
            ..GEOMETRY
        },
        Geometry {
            pool_bytes: u64::MAX,
            ..GEOMETRY
        },
    ];
    for geometry in wrong {
        let bench = modern();
        let rings = Rings::new(bench.stack.memory.clone(), ENTRIES).unwrap();
        let refused = Card::new(bench.card.detach(), rings, bench.pool, &geometry);
        let Err((device, error)) = refused else {
            panic!("{geometry:?} was taken")
        };
        assert_eq!(error, CardError::Geometry);
        assert!(device.halt().1);
        dma::release(bench.pool);
    }
    for entries in [0, 8, 24, 8192, u32::MAX] {
        assert!(
            Rings::new(Shared::for_rings(), entries).is_none(),
            "{entries}"
        );
    }
}

/// Small numbers, large ones, and ones around the borders.
fn odd_number(noise: &mut Noise) -> u32 {
    match noise.below(5) {
        0 => noise.below(40) as u32,
        1 => BUFFERS * BUFFER_BYTES - 20 + noise.below(40) as u32,
        2 => GEOMETRY.pool_bytes as u32 - 20 + noise.below(40) as u32,
        3 => u32::MAX - noise.below(20) as u32,
        _ => noise.next() as u32,
    }
}

#[test]
fn whatever_device_and_stack_do_it_is_an_error_or_goes_on() {
    let mut noise = Noise(0xfeed);
    let (mut errors, mut steps) = (0, 0);
    for _ in 0..400 {
        let mut bench = modern();
        let outside = dma::allocate(1).unwrap();
        outside.write(&[0xa5; 4096]);
        for _ in 0..60 {
            match noise.below(8) {
                0 | 1 => {
                    let (offset, length) = (odd_number(&mut noise), odd_number(&mut noise));
                    let _ = bench.stack.transmit.push(Descriptor {
                        offset,
                        length,
                        flags: 7,
                    });
                }
                2 | 3 => {
                    let (offset, length) = (odd_number(&mut noise), odd_number(&mut noise));
                    let _ = bench.stack.free.push(Descriptor {
                        offset,
                        length,
                        flags: 7,
                    });
                }
                4 | 5 => {
                    let queue = noise.below(2) as u16;
                    // An honest identifier most of the time, so that the lies reach further.
                    match bench.device.take(queue) {
                        Some(buffer) => {
                            let length = odd_number(&mut noise);
                            bench.device.give_back(queue, buffer.head.into(), length);
                        }
                        None if noise.below(16) == 0 => {
                            let identifier = odd_number(&mut noise);
                            bench.device.give_back(queue, identifier, 60);
                        }
                        None => {}
                    }
                }
                6 if noise.below(8) == 0 => {
                    let (ring, word) = (noise.below(4) as usize, noise.below(19) as usize);
                    bench.stack.corrupt(ring, word, odd_number(&mut noise));
                }
                7 if noise.below(8) == 0 => {
                    bench
                        .device
                        .set_used_index(noise.below(2) as u16, noise.next() as u16);
                }
                _ => {
                    let _ = bench.stack.received.pop();
                    let _ = bench.stack.transmitted.pop();
                }
            }
            steps += 1;
            if bench.card.run().is_err() {
                errors += 1;
                break;
            }
        }
        let mut bytes = [0; 4096];
        outside.read(&mut bytes);
        assert_eq!(
            bytes, [0xa5; 4096],
            "memory outside of the pool is as it was"
        );
        dma::release(outside);
        bench.end();
    }
    assert!(
        errors > 50 && steps > 4_000,
        "{errors} errors in {steps} steps"
    );
}
