//! What a press of the power button leads to, and what an interrupt that was none. Where presses come
//! from is a [`Source`]'s.

use core::time::Duration;

/// Interrupts without a press within [`WINDOW`] that are borne. More can only be a line that somebody
/// else holds: acknowledging it for ever would leave the machine no time for anything else.
const MOST_STRAYS: u32 = 100;
/// See [`MOST_STRAYS`].
const WINDOW: Duration = Duration::from_secs(1);
/// How often the button is looked at where its interrupt is of no use.
const PERIOD: Duration = Duration::from_secs(1);
/// How soon init is asked again when it did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Where presses come from.
pub trait Source {
    /// Whether the button was pressed since the last [`Source::forget`]. Whatever else raises the same
    /// interrupt is switched off.
    fn look(&mut self) -> bool;

    /// The press is dealt with.
    fn forget(&mut self);
}

/// What init says to a wish to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It does.
    Accepted,
    /// It does not, and another time would not either.
    Refused,
    /// It did not answer.
    None,
}

/// What is asked of the system: the task has the real one, the tests a fake.
pub trait System {
    /// Monotonic time.
    fn now(&self) -> Duration;
    /// Asks init to shut down.
    fn shut_down(&mut self) -> Answer;
    /// Lets the interrupt come again.
    fn acknowledge(&mut self);
    /// The interrupt comes without end and is not used any more.
    fn gave_line_up(&mut self);
}

/// How presses become known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// By the interrupt; so many since then were of no press.
    Interrupt { strays: u32, since: Duration },
    /// By looking, the next time then.
    Looking { next: Duration },
}

/// The power button.
#[derive(Debug)]
pub struct Button<B, S> {
    source: B,
    system: S,
    hearing: Hearing,
    /// When init is asked again.
    retry: Option<Duration>,
}

impl<B: Source, S: System> Button<B, S> {
    /// A button with or without an interrupt. It is looked at for the first time at once.
    pub fn new(source: B, system: S, has_interrupt: bool) -> Self {
        let now = system.now();
        let hearing = if has_interrupt {
            Hearing::Interrupt {
                strays: 0,
                since: now,
            }
        } else {
            Hearing::Looking { next: now }
        };
        let mut button = Button {
            source,
            system,
            hearing,
            retry: None,
        };
        if button.source.look() {
            button.pressed();
        }
        button
    }

    /// The interrupt came. A level-triggered one is masked until it is acknowledged.
    pub fn interrupted(&mut self) {
        if self.source.look() {
            self.pressed();
        } else {
            self.stray();
        }
    }

    /// When [`Button::tick`] is next needed.
    pub fn deadline(&self) -> Option<Duration> {
        match (self.retry, self.hearing) {
            (Some(retry), _) => Some(retry),
            (None, Hearing::Looking { next }) => Some(next),
            (None, Hearing::Interrupt { .. }) => None,
        }
    }

    /// Does what is due.
    pub fn tick(&mut self) {
        let now = self.system.now();
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        if let Hearing::Looking { next } = &mut self.hearing {
            *next = now + PERIOD;
        }
        if self.source.look() {
            self.pressed();
        } else if self.retry.take().is_some() {
            // The press is gone without an answer: the interrupt of it is still to be acknowledged.
            self.listen();
        }
    }

    /// Until init has answered the press stays where it is: it would outlive this task.
    fn pressed(&mut self) {
        if self.system.shut_down() == Answer::None {
            self.retry = Some(self.system.now() + RETRY);
            return;
        }
        self.retry = None;
        self.source.forget();
        self.listen();
    }

    fn listen(&mut self) {
        if matches!(self.hearing, Hearing::Interrupt { .. }) {
            self.system.acknowledge();
        }
    }

    fn stray(&mut self) {
        let now = self.system.now();
        let Hearing::Interrupt { strays, since } = &mut self.hearing else {
            return;
        };
        if now.saturating_sub(*since) > WINDOW {
            (*strays, *since) = (0, now);
        }
        *strays += 1;
        if *strays > MOST_STRAYS {
            self.hearing = Hearing::Looking { next: now + PERIOD };
            self.system.gave_line_up();
        } else {
            self.listen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Button, MOST_STRAYS, PERIOD, RETRY, System, WINDOW};
    use crate::fake::{Chipset, Window};
    use crate::fixed::FixedEvents;
    use core::cell::{Cell, RefCell};
    use core::time::Duration;
    use std::rc::Rc;

    /// A system that counts what is asked of it.
    #[derive(Clone, Default)]
    struct Fake(Rc<Counts>);

    #[derive(Default)]
    struct Counts {
        now: Cell<Duration>,
        /// What init will answer; accepted at the end.
        answers: RefCell<Vec<Answer>>,
        asked: Cell<u32>,
        acknowledged: Cell<u32>,
        given_up: Cell<u32>,
    }

    impl Fake {
        fn pass(&self, time: Duration) {
            self.0.now.set(self.0.now.get() + time);
        }
    }

    impl System for Fake {
        fn now(&self) -> Duration {
            self.0.now.get()
        }

        fn shut_down(&mut self) -> Answer {
            self.0.asked.set(self.0.asked.get() + 1);
            self.0
                .answers
                .borrow_mut()
                .pop()
                .unwrap_or(Answer::Accepted)
        }

        fn acknowledge(&mut self) {
            self.0.acknowledged.set(self.0.acknowledged.get() + 1);
        }

        fn gave_line_up(&mut self) {
            self.0.given_up.set(self.0.given_up.get() + 1);
        }
    }

    fn button(has_interrupt: bool) -> (Chipset, Fake, Button<FixedEvents<Window>, Fake>) {
        let (chipset, system) = (Chipset::new(), Fake::default());
        let mut events = chipset.events();
        events.start(true);
        let button = Button::new(events, system.clone(), has_interrupt);
        (chipset, system, button)
    }

    #[test]
    fn press_is_told_once_and_the_interrupt_let_go() {
        let (chipset, system, mut button) = button(true);
        assert_eq!(button.deadline(), None, "nothing is to be looked at");
        chipset.press();
        button.interrupted();
        assert_eq!((system.0.asked.get(), system.0.acknowledged.get()), (1, 1));
        chipset.see(|registers| assert!(!registers.interrupts()));
        chipset.press();
        button.interrupted();
        assert_eq!(system.0.asked.get(), 2, "each press is told");
    }

    #[test]
    fn press_stays_until_init_has_answered() {
        let (chipset, system, mut button) = button(true);
        system.0.answers.borrow_mut().extend([Answer::None; 2]);
        chipset.press();
        button.interrupted();
        for asked in 1..3 {
            assert_eq!(
                (system.0.asked.get(), system.0.acknowledged.get()),
                (asked, 0)
            );
            chipset.see(|registers| assert!(registers.interrupts(), "the press is still there"));
            button.tick();
            assert_eq!(system.0.asked.get(), asked, "not before its time");
            system.pass(RETRY);
            button.tick();
        }
        assert_eq!((system.0.asked.get(), system.0.acknowledged.get()), (3, 1));
        assert_eq!(button.deadline(), None);
    }

    #[test]
    fn press_that_goes_away_unanswered_lets_the_interrupt_go() {
        let (chipset, system, mut button) = button(true);
        system.0.answers.borrow_mut().push(Answer::None);
        chipset.press();
        button.interrupted();
        chipset.set(|registers| registers.pm1[0].status = 0);
        system.pass(RETRY);
        button.tick();
        assert_eq!((system.0.asked.get(), system.0.acknowledged.get()), (1, 1));
        assert_eq!(button.deadline(), None);
    }

    #[test]
    fn refused_press_is_forgotten() {
        let (chipset, system, mut button) = button(true);
        system.0.answers.borrow_mut().push(Answer::Refused);
        chipset.press();
        button.interrupted();
        assert_eq!(system.0.acknowledged.get(), 1);
        chipset.see(|registers| assert!(!registers.interrupts()));
    }

    #[test]
    fn press_of_before_the_start_is_told_at_once() {
        let (chipset, system) = (Chipset::new(), Fake::default());
        chipset.press();
        let mut events = chipset.events();
        events.start(false);
        let _button = Button::new(events, system.clone(), true);
        assert_eq!(system.0.asked.get(), 1);
    }

    #[test]
    fn line_that_somebody_else_holds_is_given_up_and_the_button_still_works() {
        let (chipset, system, mut button) = button(true);
        for _ in 0..MOST_STRAYS {
            button.interrupted();
        }
        assert_eq!(system.0.given_up.get(), 0);
        button.interrupted();
        assert_eq!(system.0.given_up.get(), 1);
        assert_eq!(system.0.acknowledged.get(), MOST_STRAYS, "it stays masked");
        chipset.press();
        system.pass(PERIOD);
        button.tick();
        assert_eq!(system.0.asked.get(), 1);
        assert_eq!(system.0.acknowledged.get(), MOST_STRAYS);
    }

    #[test]
    fn strays_now_and_then_are_borne() {
        let (_, system, mut button) = button(true);
        for _ in 0..10 * MOST_STRAYS {
            button.interrupted();
            system.pass(WINDOW / (MOST_STRAYS / 2));
        }
        assert_eq!(system.0.given_up.get(), 0);
    }

    #[test]
    fn without_an_interrupt_the_button_is_looked_at() {
        let (chipset, system, mut button) = button(false);
        button.tick();
        assert_eq!(button.deadline(), Some(PERIOD));
        chipset.press();
        system.pass(PERIOD);
        button.tick();
        assert_eq!((system.0.asked.get(), system.0.acknowledged.get()), (1, 0));
        assert_eq!(button.deadline(), Some(2 * PERIOD));
    }
}
