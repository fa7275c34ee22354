//! The control queue (VIRTIO 1.2, section 5.1.6.5): one command, which sets the number of queue pairs.

use pci_function::{Area, dma};
use virtio::{Queue, VirtioError, VirtioTransport};

/// Class: receive steering (VIRTIO_NET_CTRL_MQ; section 5.1.6.5.5).
const CLASS_PAIRS: u8 = 4;
/// Command of it: the number of pairs (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET).
const SET_PAIRS: u8 = 0;
/// Acknowledgement: done (VIRTIO_NET_OK; section 5.1.6.5).
const DONE: u8 = 0;
/// What stands there until the device writes: VIRTIO_NET_ERR.
const NOT_DONE: u8 = 1;

/// Where class and command, the number and the acknowledgement lie in the page, and their lengths.
const COMMAND: (usize, usize) = (0, 2);
const NUMBER: (usize, usize) = (2, 2);
const ACKNOWLEDGEMENT: (usize, usize) = (4, 1);

/// Times the status is read until the device has not answered. Each reading is an exit to the
/// hypervisor, so this is a good part of a second.
const READINGS: u32 = 100_000;

/// The control queue, open. As for every queue the device is reset before it is dropped.
pub(crate) struct Control {
    queue: Queue<()>,
    /// What the command is written to.
    page: Area,
}

impl Control {
    /// Opens the control queue of this number.
    pub(crate) fn open<T: VirtioTransport>(
        transport: &mut T,
        number: u16,
        events: bool,
    ) -> Result<Control, VirtioError> {
        let page = dma::allocate(1)?;
        match Queue::open(transport, number, events) {
            Ok(queue) => Ok(Control { queue, page }),
            Err(error) => {
                dma::release(page);
                Err(error)
            }
        }
    }

    /// Asks the device to use so many pairs of queues, and waits for its acknowledgement.
    ///
    /// Errors: NotAcknowledged where it refuses or does not answer, and those of the queue.
    pub(crate) fn set_pairs<T: VirtioTransport>(
        &mut self,
        transport: &mut T,
        pairs: u16,
    ) -> Result<(), VirtioError> {
        let [low, high] = pairs.to_le_bytes();
        let bytes = [CLASS_PAIRS, SET_PAIRS, low, high, NOT_DONE];
        let part = |(offset, length)| self.page.part(offset, length);
        let written = self.page.store(0, bytes);
        let (Some(command), Some(number), Some(acknowledgement), Some(())) =
            (part(COMMAND), part(NUMBER), part(ACKNOWLEDGEMENT), written)
        else {
            return Err(VirtioError::BadBuffer);
        };
        // Each in a descriptor of its own, as a legacy device may want it (section 5.1.6.6).
        self.queue.add(&[command, number], &[acknowledgement], ())?;
        self.queue.disarm();
        if self.queue.should_notify() {
            transport.notify(self.queue.number());
        }
        for _ in 0..READINGS {
            if self.queue.pop()?.is_some() {
                let answer = acknowledgement.load::<1>(0);
                return match answer {
                    Some([DONE]) => Ok(()),
                    _ => Err(VirtioError::NotAcknowledged),
                };
            }
            transport.get_status();
        }
        Err(VirtioError::NotAcknowledged)
    }
}

impl Drop for Control {
    /// Gives the page back: the device was reset.
    fn drop(&mut self) {
        dma::release(self.page);
    }
}
