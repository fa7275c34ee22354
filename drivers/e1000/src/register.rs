//! The device's registers, as far as this driver uses them (manual, section 13). All have 32 bits.

/// Device control, CTRL (section 13.4.1).
pub(crate) const CONTROL: usize = 0x0000;
/// Device status, STATUS (section 13.4.2).
pub(crate) const STATUS: usize = 0x0008;
/// EEPROM read, EERD (section 13.4.4).
pub(crate) const EEPROM: usize = 0x0014;
/// Flow control address low and high, type and timer: FCAL, FCAH, FCT, FCTTV (sections 13.4.8 to
/// 13.4.10, 13.4.12).
pub(crate) const FLOW_CONTROL: [usize; 4] = [0x0028, 0x002c, 0x0030, 0x0170];
/// Interrupt cause read, ICR: reading clears it (section 13.4.17).
pub(crate) const CAUSE: usize = 0x00c0;
/// Interrupt throttling, ITR (section 13.4.18).
pub(crate) const THROTTLING: usize = 0x00c4;
/// Interrupt mask set, IMS: ones let causes interrupt (section 13.4.20).
pub(crate) const MASK_SET: usize = 0x00d0;
/// Interrupt mask clear, IMC: ones keep causes from interrupting (section 13.4.21).
pub(crate) const MASK_CLEAR: usize = 0x00d8;
/// Receive control, RCTL (section 13.4.22).
pub(crate) const RECEIVE_CONTROL: usize = 0x0100;
/// Transmit control, TCTL (section 13.4.33).
pub(crate) const TRANSMIT_CONTROL: usize = 0x0400;
/// Transmit inter-packet gap, TIPG (section 13.4.34).
pub(crate) const PACKET_GAP: usize = 0x0410;
/// Receive delay timer, RDTR, and receive absolute delay, RADV (sections 13.4.30, 13.4.31).
pub(crate) const RECEIVE_DELAYS: [usize; 2] = [0x2820, 0x282c];
/// Receive descriptor control, RXDCTL (section 13.4.46).
pub(crate) const RECEIVE_DESCRIPTORS: usize = 0x2828;
/// Transmit interrupt delay, TIDV, and transmit absolute delay, TADV (sections 13.4.41, 13.4.44).
pub(crate) const TRANSMIT_DELAYS: [usize; 2] = [0x3820, 0x382c];
/// Transmit descriptor control, TXDCTL (section 13.4.43).
pub(crate) const TRANSMIT_DESCRIPTORS: usize = 0x3828;
/// Receive checksum control, RXCSUM (section 13.4.47).
pub(crate) const RECEIVE_CHECKSUM: usize = 0x5000;
/// Multicast table, MTA, of 128 words (section 13.5.1).
pub(crate) const MULTICAST_TABLE: usize = 0x5200;
/// Words of the multicast table.
pub(crate) const MULTICAST_WORDS: usize = 128;
/// First receive address, low and high: RAL and RAH (sections 13.5.2, 13.5.3).
pub(crate) const ADDRESS: [usize; 2] = [0x5400, 0x5404];

/// The registers of one descriptor ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingRegisters {
    /// Base address low, RDBAL or TDBAL (sections 13.4.25, 13.4.36).
    pub(crate) base_low: usize,
    /// Base address high, RDBAH or TDBAH (sections 13.4.26, 13.4.37).
    pub(crate) base_high: usize,
    /// Length in bytes, RDLEN or TDLEN (sections 13.4.27, 13.4.38).
    pub(crate) length: usize,
    /// Head, the device's: RDH or TDH (sections 13.4.28, 13.4.39).
    pub(crate) head: usize,
    /// Tail, the driver's: RDT or TDT (sections 13.4.29, 13.4.40).
    pub(crate) tail: usize,
}

/// The receive ring's.
pub(crate) const RECEIVE: RingRegisters = RingRegisters {
    base_low: 0x2800,
    base_high: 0x2804,
    length: 0x2808,
    head: 0x2810,
    tail: 0x2818,
};
/// The transmit ring's.
pub(crate) const TRANSMIT: RingRegisters = RingRegisters {
    base_low: 0x3800,
    base_high: 0x3804,
    length: 0x3808,
    head: 0x3810,
    tail: 0x3818,
};

/// Bits of device control (section 13.4.1).
pub(crate) mod control {
    /// Auto-speed detection (ASDE).
    pub(crate) const DETECT_SPEED: u32 = 1 << 5;
    /// Set link up (SLU).
    pub(crate) const LINK_UP: u32 = 1 << 6;
    /// Device reset (RST), which clears itself.
    pub(crate) const RESET: u32 = 1 << 26;
    /// What has to be off: link reset (LRST), inversion of loss-of-signal (ILOS), forced speed and
    /// duplex (FRCSPD, FRCDPX), flow control (RFCE, TFCE), VLAN tags taken off (VME), PHY reset.
    pub(crate) const OFF: u32 =
        1 << 3 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;
}

/// Bits of EEPROM read (section 13.4.4): the word's address is in bits 8 to 15, the word in bits 16 to 31.
pub(crate) mod eeprom {
    /// Read now (START).
    pub(crate) const START: u32 = 1 << 0;
    /// The word is there (DONE).
    pub(crate) const DONE: u32 = 1 << 4;
}

/// Device status: the link is up (LU; section 13.4.2).
pub(crate) const STATUS_LINK_UP: u32 = 1 << 1;

/// Interrupt causes (section 13.4.17).
pub(crate) mod cause {
    /// A transmit descriptor was written back (TXDW).
    pub(crate) const SENT: u32 = 1 << 0;
    /// The link's state has changed (LSC).
    pub(crate) const LINK: u32 = 1 << 2;
    /// A packet was received (RXT0: the receive timer, which is 0, has run out).
    pub(crate) const RECEIVED: u32 = 1 << 7;
}

/// Bits of receive control (section 13.4.22). Left 0: store bad packets (SBP), so that the device drops
/// them; long packets (LPE), so that it drops what is longer than 1,522 bytes; buffer size (BSIZE),
/// which is 2,048 bytes then.
pub(crate) mod receive_control {
    /// Receive (EN).
    pub(crate) const ENABLE: u32 = 1 << 1;
    /// All multicast packets (MPE): the network stack chooses.
    pub(crate) const ALL_MULTICAST: u32 = 1 << 4;
    /// Broadcast packets (BAM).
    pub(crate) const BROADCAST: u32 = 1 << 15;
    /// Leave the frame check sequence out (SECRC).
    pub(crate) const STRIP_CHECKSUM: u32 = 1 << 26;
}

/// Bits of transmit control (section 13.4.33).
pub(crate) mod transmit_control {
    /// Transmit (EN).
    pub(crate) const ENABLE: u32 = 1 << 1;
    /// Pad short packets (PSP).
    pub(crate) const PAD_SHORT: u32 = 1 << 3;
    /// Collision threshold (CT) of 15, for the 16 attempts of Ethernet, and collision distance (COLD) of
    /// 64 byte times, that of full duplex (section 14.5).
    pub(crate) const COLLISIONS: u32 = 15 << 4 | 64 << 12;
}

/// Inter-packet gap for copper: IPGT 10, IPGR1 8, IPGR2 6 (section 13.4.34).
pub(crate) const COPPER_GAP: u32 = 10 | 8 << 10 | 6 << 20;

/// The first receive address is valid (AV; section 13.5.3).
pub(crate) const ADDRESS_VALID: u32 = 1 << 31;
