//! The search for a driver that has a card, and what is left unused.
//!
//! The drivers are asked in the order of the configuration. One that says that it has no card gives way to
//! the next; one that does not answer yet does not: it is being started, or restarted with connections
//! open over its card.

use alloc::vec::Vec;

use super::session::DRIVER_BIT;
use super::{Attachment, Refusal, Server, System};
use crate::time::{Nanoseconds, SECOND};

/// Pause between two attempts to find a driver, and before the second to learn of unused cards.
const PAUSE: Nanoseconds = SECOND / 5;
/// Times a driver is asked for its cards, within two minutes: the pauses double. Each may keep the clients
/// waiting, and a driver that hangs never answers.
const QUESTIONS: u32 = 10;
/// Smallest packet size that is believed (RFC 791, section 3.2: every host takes 576 bytes).
const SMALLEST_MTU: usize = 576;

/// Where the driver stands.
pub(super) enum Driver {
    /// None, or it is not known yet whether one is there: the next attempt is due then.
    Absent(Nanoseconds),
    Attached(Attachment),
}

/// What is known of the cards that are not used.
#[derive(Default)]
pub(super) struct Unused {
    /// The number of each driver's cards, as far as they were asked.
    cards: Vec<u16>,
    /// When the next of them is asked again.
    again: Nanoseconds,
    /// How often it was asked.
    asked: u32,
    /// What is left unused was said.
    said: bool,
}

impl Unused {
    /// When there is something to do about it, if ever.
    pub(super) fn deadline(&self) -> Option<Nanoseconds> {
        (!self.said).then_some(self.again)
    }
}

impl<S: System> Server<S> {
    /// Attaches to the first driver that has a card, if there is none yet and it is time to try.
    pub(super) fn find_driver(&mut self) {
        let now = self.system.now();
        let Driver::Absent(attempt) = self.driver else {
            return;
        };
        if attempt > now {
            return;
        }
        self.driver = Driver::Absent(now + PAUSE);
        // No driver has the rings: the last one's death was told, or none ever had them.
        if self.packets.reclaim().is_err() {
            return;
        }
        let shape = self.packets.shape();
        for driver in 0..self.system.drivers() {
            // A number of its own for each attempt: the end of one that failed is no news of the next.
            self.lifeline += 1;
            let attached = self.system.attach(driver, shape, DRIVER_BIT, self.lifeline);
            match attached {
                Ok(attachment) => return self.begin(now, driver, attachment),
                Err(Refusal::NoCard) => {}
                Err(Refusal::NotYet) => return self.packets.detach(),
            }
        }
        self.packets.detach();
        if !core::mem::replace(&mut self.missed, true) {
            self.system
                .log(format_args!("no network for now: no driver has a card"));
        }
    }

    fn begin(&mut self, now: Nanoseconds, driver: usize, attachment: Attachment) {
        self.missed = false;
        self.attachments += 1;
        let mut card = attachment.card;
        card.mtu = card.mtu.clamp(SMALLEST_MTU, self.packets.shape().mtu());
        self.stack.card_returned(now, card);
        self.driver = Driver::Attached(attachment);
        self.system.log(format_args!(
            "attached to the driver, time {}: {}",
            self.attachments,
            self.system.driver_name(driver)
        ));
        self.current = driver;
    }

    /// Lets the driver go: it died, or broke a ring.
    pub(super) fn driver_lost(&mut self, why: &str) {
        let now = self.system.now();
        let before = core::mem::replace(&mut self.driver, Driver::Absent(now));
        self.packets.detach();
        if let Driver::Attached(attachment) = before {
            self.system.log(format_args!("{why}"));
            self.system.close(attachment.session);
            self.system.close(attachment.doorbell);
        }
    }

    /// Asks the drivers for the number of their cards; false as long as one is to be asked again.
    fn learn_cards(&mut self) -> bool {
        while self.unused.cards.len() < self.system.drivers() {
            let driver = self.unused.cards.len();
            let cards = self.system.cards(driver);
            if cards.is_none() && self.unused.asked + 1 < QUESTIONS {
                self.unused.again = self.system.now() + (PAUSE << self.unused.asked);
                self.unused.asked += 1;
                return false;
            }
            if cards.is_none() {
                let name = self.system.driver_name(driver);
                self.system
                    .log(format_args!("{name} does not say which cards it has"));
            }
            self.unused.cards.push(cards.unwrap_or(0));
            self.unused.asked = 0;
        }
        true
    }

    /// Says once which cards the machine has beside the one in use.
    pub(super) fn tell_unused(&mut self) {
        let now = self.system.now();
        let attached = matches!(self.driver, Driver::Attached(_));
        if self.unused.said || !attached || now < self.unused.again {
            return;
        }
        if !self.learn_cards() {
            return;
        }
        self.unused.said = true;
        for (driver, cards) in self.unused.cards.iter().enumerate() {
            let unused = cards.saturating_sub(u16::from(driver == self.current));
            let name = self.system.driver_name(driver);
            match unused {
                0 => {}
                1 => self.system.log(format_args!("not used: a card of {name}")),
                _ => self
                    .system
                    .log(format_args!("not used: {unused} cards of {name}")),
            }
        }
    }
}
