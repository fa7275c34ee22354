//! One bare acknowledgement, built from the segment that it answers, for connections that have no
//! socket any more.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, IpAddress, IpProtocol, IpRepr, TCP_HEADER_LEN, TcpControl, TcpRepr, TcpSeqNumber,
};

use crate::peek::Segment;
use crate::wire::{ETHERNET_HEADER_BYTES, Wire};

/// Sends <SEQ=SEG.ACK><ACK=`next`><CTL=ACK> back to where `frame` came from (RFC 9293, section
/// 3.10.7.4). The peer has acknowledged all that this host sent, so SEG.ACK is SND.NXT.
pub(super) fn acknowledge(wire: &mut impl Wire, frame: &[u8], segment: &Segment, next: u32) {
    if !segment.ack || !wire.can_transmit() {
        return;
    }
    let Ok(received) = EthernetFrame::new_checked(frame) else {
        return;
    };
    let (source, destination) = (
        IpAddress::from(segment.flow.local.ip()),
        IpAddress::from(segment.flow.remote.ip()),
    );
    let tcp = TcpRepr {
        src_port: segment.flow.local.port(),
        dst_port: segment.flow.remote.port(),
        control: TcpControl::None,
        seq_number: TcpSeqNumber(segment.acknowledgement as i32),
        ack_number: Some(TcpSeqNumber(next as i32)),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, TCP_HEADER_LEN, 64);
    let checksums = ChecksumCapabilities::default();
    wire.transmit(ETHERNET_HEADER_BYTES + ip.buffer_len(), |buffer| {
        let mut sent = EthernetFrame::new_unchecked(buffer);
        sent.set_src_addr(received.dst_addr());
        sent.set_dst_addr(received.src_addr());
        sent.set_ethertype(received.ethertype());
        let packet = sent.payload_mut();
        ip.emit(&mut *packet, &checksums);
        let mut header = smoltcp::wire::TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        tcp.emit(&mut header, &source, &destination, &checksums);
        (None, ())
    });
}
