//! One bare acknowledgement, built from the segment that it answers, for connections that have no
//! socket any more.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, TCP_HEADER_LEN, TcpControl, TcpRepr, TcpSeqNumber,
};

use crate::peek::Segment;
use crate::wire::{Port, Wire};

/// Sends <SEQ=SEG.ACK><ACK=`next`><CTL=ACK> to who sent the segment (RFC 9293, section 3.10.7.4). The peer has acknowledged all that this host sent, so SEG.ACK is SND.NXT.
pub(super) fn acknowledge<W: Wire>(port: &mut Port<'_, W>, segment: &Segment, next: u32) {
    if !segment.ack || !port.wire.can_transmit() {
        return;
    }
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
    port.send(ip.buffer_len(), |packet| {
        ip.emit(&mut *packet, &checksums);
        let mut header = smoltcp::wire::TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        tcp.emit(&mut header, &source, &destination, &checksums);
    });
}
