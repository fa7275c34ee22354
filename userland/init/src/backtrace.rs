//! Walks the frame pointers of a dead thread's stack. The stack belongs to a task that may have been
//! made to misbehave: every step is checked, and there is a last one.

use heapless::Vec;

/// Most return addresses that are reported.
pub const MAX_FRAMES: usize = 16;

/// Return addresses.
pub type Addresses = Vec<u64, MAX_FRAMES>;

/// The return addresses of a stack, the innermost first.
///
/// `read` gives the quadword of the stack at an address, or `None` outside of the stack. Programs
/// keep frame pointers: at the frame pointer lies the caller's, above it the return address.
pub fn walk(frame_pointer: u64, read: impl Fn(u64) -> Option<u64>) -> Addresses {
    let mut addresses = Vec::new();
    let mut frame = frame_pointer;
    while frame != 0 && frame.is_multiple_of(8) && !addresses.is_full() {
        let Some(above) = frame.checked_add(8) else {
            break;
        };
        let (Some(next), Some(address)) = (read(frame), read(above)) else {
            break;
        };
        if address == 0 || addresses.push(address).is_err() {
            break;
        }
        // The stack grows downwards: a caller's frame lies above, or the chain is broken.
        if next <= frame {
            break;
        }
        frame = next;
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::{MAX_FRAMES, walk};

    const BASE: u64 = 0x7000;

    fn on(stack: &[u64]) -> impl Fn(u64) -> Option<u64> + '_ {
        |address| {
            let offset = address.checked_sub(BASE)?;
            stack.get(usize::try_from(offset / 8).ok()?).copied()
        }
    }

    #[test]
    fn a_sound_chain_is_followed_to_its_end() {
        let stack = [0x7018, 0xa, 0, 0x7028, 0xb, 0, 0xc];
        assert_eq!(walk(0x7000, on(&stack)), [0xa, 0xb, 0xc]);
        let stack = [0x7010, 0xa, 0x7020, 0xb, 0, 0xc];
        assert_eq!(walk(0x7000, on(&stack)), [0xa, 0xb, 0xc]);
    }

    #[test]
    fn wild_pointers_end_the_walk() {
        assert!(walk(0, on(&[1, 2])).is_empty());
        assert!(walk(0x7001, on(&[1, 2])).is_empty());
        assert!(walk(u64::MAX - 7, on(&[1, 2])).is_empty());
        assert!(walk(0x7008, on(&[1, 2])).is_empty());
        assert_eq!(walk(0x7000, on(&[0xffff_ffff_ffff_fff8, 2])), [2]);
    }

    #[test]
    fn circles_and_long_chains_end() {
        assert_eq!(walk(0x7000, on(&[0x7000, 0xa])), [0xa]);
        let long: Vec<u64> = (0..200)
            .map(|position| {
                if position % 2 == 0 {
                    BASE + position * 8 + 16
                } else {
                    0xa
                }
            })
            .collect();
        assert_eq!(walk(BASE, on(&long)).len(), MAX_FRAMES);
    }
}
