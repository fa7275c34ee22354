//! Hostile requests: random bytes and mutated right ones, for every operation of every interface.
//! Whatever comes, dispatch returns, with a reply that a client can read, and no handle gets lost.

use super::Slot;
use crate::client::Refusal;
use crate::codec;
use crate::interface::{
    self, InterfaceReference, console, net_device, network, pci, service, supervisor,
};
use crate::message::{MAX_BYTES, MAX_HANDLES};
use crate::server::{Answer, Caller, Outcome, Outgoing, Received};
use crate::{Handle, Label};
use core::net::{IpAddr, SocketAddr};

/// Serves everything: takes what comes and refuses it, counting handles and operations that ran.
#[derive(Default)]
struct Everything {
    ran: u64,
    handles: usize,
}

impl Everything {
    fn run<T, E>(&mut self, handles: usize, error: E) -> Result<T, E> {
        self.ran += 1;
        self.handles += handles;
        Err(error)
    }
}

macro_rules! refuse_all {
    ($module:ident :: $server:ident, $error:ident :: $variant:ident;
     $($op:ident ( $($arg:ident : $type:ty),* ) $handles:literal -> $reply:ty;)+) => {
        impl $module::$server for Everything {
            $(fn $op(&mut self, _: &mut Caller<'_>, $($arg: $type),*)
                -> Result<$reply, $module::$error> {
                $(let _ = $arg;)*
                self.run($handles, $module::$error::$variant)
            })+
        }
    };
}

refuse_all! { service::ServiceServer, ConnectError::NotPermitted;
    connect(a: u16) 0 -> ((), Handle);
}
refuse_all! { supervisor::SupervisorServer, SupervisorError::OutOfRange;
    tasks(a: u16) 0 -> supervisor::TaskList;
    kill(a: &str) 0 -> ();
    power(a: supervisor::PowerAction) 0 -> ();
    time() 0 -> supervisor::TimeReport;
    system() 0 -> supervisor::SystemReport;
    cpu(a: u16) 0 -> crate::info::CpuInfo;
    heartbeat(a: u32) 0 -> ();
    log(a: u64) 0 -> supervisor::LogPiece;
    show_log(a: u64, b: Handle) 1 -> u64;
    stop_bell(a: u64, b: Handle) 1 -> ();
    stopped() 0 -> ();
}
refuse_all! { console::ConsoleServer, ConsoleError::OutOfRange;
    write(a: &[u8]) 0 -> u32;
    read(a: u16) 0 -> Answer<console::Typed>;
    attach(a: u32, b: bool, c: u64, d: Handle, e: Handle) 2 -> (u64, Handle);
}
refuse_all! { pci::PciServer, PciError::OutOfRange;
    list(a: u16) 0 -> pci::FunctionList;
    claim(a: pci::Match) 0 -> pci::PciFunction;
    read_config(a: u16, b: u8) 0 -> u32;
    bar(a: u8) 0 -> (pci::BarKind, Handle);
    interrupt(a: u16, b: bool, c: u64, d: Handle) 1 -> (pci::InterruptKind, Handle);
    set_bus_master(a: bool) 0 -> ();
    virtio_structure(a: pci::VirtioStructure) 0 -> Option<pci::VirtioLocation>;
    dma_attach(a: Handle) 1 -> pci::DmaRegion;
    dma_detach(a: u32) 0 -> ();
    reset() 0 -> ();
}
refuse_all! { net_device::NetDeviceServer, NetDeviceError::OutOfRange;
    attach(a: net_device::Geometry, b: u64, c: Handle, d: Handle, e: Handle, f: Handle) 4
        -> (net_device::Attached, Handle);
    detach() 0 -> ();
    statistics() 0 -> net_device::Statistics;
    link() 0 -> net_device::Link;
    cards() 0 -> u16;
}
refuse_all! { network::NetworkServer, NetworkError::OutOfRange;
    info() 0 -> network::InterfaceInfo;
    attach(a: u32, b: u64, c: Handle, d: Handle, e: Handle) 3
        -> (network::DoorbellBits, Handle);
    listen(a: u16, b: u16) 0 -> network::Socket;
    accept(a: network::Socket, b: network::RingPair) 0 -> network::Accepted;
    connect(a: SocketAddr, b: network::RingPair) 0 -> network::Socket;
    shutdown(a: network::Socket, b: network::Shutdown) 0 -> ();
    close(a: network::Socket) 0 -> ();
    status(a: network::Socket) 0 -> network::SocketStatus;
    bind(a: u16, b: network::StreamGeometry, c: Handle) 1 -> network::Socket;
    ping(a: IpAddr, b: u16, c: u32) 0 -> Answer<network::PingReply>;
    resolve(a: &str) 0 -> Answer<network::Addresses>;
    set_option(a: network::Socket, b: network::StreamOption) 0 -> ();
    reset(a: network::Socket) 0 -> ();
    share(a: network::StreamGeometry, b: Handle) 1 -> network::RingPair;
    unshare(a: network::RingPair) 0 -> ();
}

/// One interface's dispatch.
type Dispatch =
    fn(&mut Everything, &mut Caller<'_>, Label, &[u8], &mut Received, &mut Outgoing<'_>) -> Outcome;

const DISPATCHES: [(&InterfaceReference, Dispatch); 6] = [
    (&service::REFERENCE, service::dispatch),
    (&supervisor::REFERENCE, supervisor::dispatch),
    (&console::REFERENCE, console::dispatch),
    (&pci::REFERENCE, pci::dispatch),
    (&net_device::REFERENCE, net_device::dispatch),
    (&network::REFERENCE, network::dispatch),
];

/// Random numbers, the same in every run (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Mostly short requests, some of any length; small values, which get past more checks, often.
    fn bytes(&mut self) -> Vec<u8> {
        let longest = [8, 8, 8, 8, 24, 24, 24, MAX_BYTES][self.next() as usize % 8];
        let length = self.next() as usize % (longest + 1);
        let mask = [0x01, 0x07, 0xff][self.next() as usize % 3];
        (0..length)
            .map(|_| (self.next() >> 32) as u8 & mask)
            .collect()
    }
}

/// Dispatches one request and checks all that holds whatever the request is. Returns whether an
/// operation ran.
fn attempt(dispatch: Dispatch, label: Label, request: &[u8], handles: usize) -> bool {
    let mut server = Everything::default();
    let sent: Vec<_> = (0..handles as u64)
        .map(|number| Handle(number + 1))
        .collect();
    let mut received = Received::new(&sent);
    let mut buffer = [0; MAX_BYTES];
    let mut outgoing = Outgoing::new(&mut buffer);
    let mut slot = Slot;
    let mut caller = Caller::new(1, &mut slot);
    let outcome = dispatch(
        &mut server,
        &mut caller,
        label,
        request,
        &mut received,
        &mut outgoing,
    );
    let context = format!("{label:?} {request:?} with {handles} handles");
    assert_eq!(outcome, Outcome::Reply, "{context}");
    assert!(outgoing.handles().is_empty(), "{context}");
    assert_eq!(
        server.handles + received.len(),
        handles,
        "no handle is lost: {context}"
    );
    if server.ran == 1 {
        assert_eq!(outgoing.label(), Refusal::ANSWERED, "{context}");
        assert_eq!(outgoing.bytes().first(), Some(&1), "an error: {context}");
        assert!(received.is_empty(), "{context}");
    } else {
        assert_eq!(server.ran, 0, "{context}");
        let refusal = Refusal::from_label(outgoing.label());
        assert!(
            refusal.is_some() && outgoing.bytes().is_empty(),
            "{context}"
        );
    }
    server.ran == 1
}

#[test]
fn random_requests_end_as_an_answer_or_a_refusal_in_every_interface() {
    let mut random = Random(0x5eed);
    for (interface, dispatch) in DISPATCHES {
        for operation in interface.operations {
            let mut ran = 0;
            for _ in 0..4_000 {
                let bytes = random.bytes();
                let handles = if random.next().is_multiple_of(4) {
                    random.next() as usize % (MAX_HANDLES + 1)
                } else {
                    operation.takes.len()
                };
                let label = interface::label(interface.number, operation.number);
                ran += u32::from(attempt(dispatch, label, &bytes, handles));
            }
            // Else the bytes never get past the decoder, and the test tests little.
            assert!(
                ran > 0,
                "{}.{} was never reached",
                interface.name,
                operation.name
            );
        }
    }
}

#[test]
fn random_labels_are_refused_unless_they_are_operations() {
    let mut random = Random(0x1abe1);
    for (interface, dispatch) in DISPATCHES {
        let known = |label: Label| {
            let numbers = interface
                .operations
                .iter()
                .map(|operation| operation.number);
            numbers
                .map(|number| interface::label(interface.number, number))
                .any(|own| own == label)
        };
        for round in 0..4_000 {
            let label = match round % 2 {
                0 => Label(random.next() as u32),
                _ => interface::label(random.next() as u16 % 8, random.next() as u16 % 16),
            };
            let ran = attempt(dispatch, label, &random.bytes(), 0);
            assert!(!ran || known(label), "{label:?} ran in {}", interface.name);
        }
    }
}

#[test]
fn every_mutation_of_a_right_request_is_handled() {
    let mut right = [0; 64];
    let geometry = network::StreamGeometry { ring_bytes: 4096 };
    let arguments = (53_u16, geometry);
    let length = codec::encode(&arguments, &mut right).unwrap();
    let label = interface::label(network::NUMBER, 9);
    assert!(
        attempt(network::dispatch, label, &right[..length], 1),
        "the request is right"
    );
    for position in 0..length {
        assert!(
            !attempt(network::dispatch, label, &right[..position], 1),
            "cut at {position}"
        );
        for bit in 0..8 {
            let mut wrong = right;
            wrong[position] ^= 1 << bit;
            attempt(network::dispatch, label, &wrong[..length], 1);
        }
    }
}

#[test]
fn random_replies_are_values_or_errors() {
    let mut random = Random(0x4e91);
    for _ in 0..20_000 {
        let bytes = random.bytes();
        let _ = codec::decode::<Result<supervisor::TaskList, supervisor::SupervisorError>>(&bytes);
        let _ = codec::decode::<Result<network::InterfaceInfo, network::NetworkError>>(&bytes);
        let _ = codec::decode::<Result<pci::FunctionList, pci::PciError>>(&bytes);
        let _ = crate::startup::Startup::decode(&bytes);
        if let Ok(tasks) = crate::manifest::Tasks::read(&bytes) {
            // A malformed task ends the iteration.
            assert!(tasks.count() <= usize::from(u16::MAX));
        }
    }
}
