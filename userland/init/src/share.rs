//! How much memory each task gets: what the manifest wishes, or on a small machine at least what it
//! calls enough. What is shared out is init's own quota, so that no task finds its quota a promise that
//! the machine cannot keep.

use ipc::layout::PAGE_BYTES;
use ipc::manifest::Task;

/// Bytes of init's quota that are not shared out. Init takes some itself later; and it goes on paying for
/// what others still hold of a task that died, as a driver holds the network stack's packet pool (1 MiB, or
/// 2.5 where it has all it wishes) for a moment, while that task's next life gets its whole share.
const RESERVE: u64 = 2 << 20;
/// Bytes that init pays for with each task: its log and startup block, endpoints and badges.
const EACH: u64 = 64 << 10;

/// What the shares came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// Every task has what it wishes.
    Whole,
    /// Every task has what is enough for it, and its share of the rest.
    Partial,
    /// Not even what is enough is there, in bytes, beside init's own: the last tasks may not be made.
    TooLittle {
        /// What would be enough.
        needed: u64,
        /// What there is.
        free: u64,
    },
}

/// Settles `memory` and `heap` of every task, of `free` bytes in all.
///
/// What is left when each has its least goes to all in proportion to what they wish beyond it. A
/// task's heap grows with its memory, from its least to its most.
pub fn settle(tasks: &mut [Task<'_>], free: u64) -> Shares {
    let overhead = RESERVE.saturating_add(EACH.saturating_mul(tasks.len() as u64));
    let room = free.saturating_sub(overhead);
    let sum = |size: fn(&Task<'_>) -> u64| tasks.iter().map(size).fold(0, u64::saturating_add);
    let (least, most) = (sum(|task| task.memory_least), sum(|task| task.memory));
    if room >= most {
        return Shares::Whole;
    }
    let rest = room.saturating_sub(least);
    for task in tasks {
        share(task, rest, most - least.min(most));
    }
    if room < least {
        let needed = least.saturating_add(overhead);
        return Shares::TooLittle { needed, free };
    }
    Shares::Partial
}

/// Gives a task its part of `rest`, of which all tasks together wish for `wished`.
fn share(task: &mut Task<'_>, rest: u64, wished: u64) {
    let span = task.memory.saturating_sub(task.memory_least);
    let more = part(span, rest, wished);
    let heap_span = task.heap.saturating_sub(task.heap_least);
    task.heap = task.heap_least.saturating_add(part(heap_span, more, span));
    task.memory = task.memory_least.saturating_add(more);
}

/// `whole` times `share` by `of`, in whole pages, rounded down; 0 of nothing.
fn part(whole: u64, share: u64, of: u64) -> u64 {
    let product = u128::from(whole) * u128::from(share.min(of));
    let bytes = product.checked_div(u128::from(of)).unwrap_or(0);
    // At most `whole`, as the share is at most the whole of it.
    let bytes = u64::try_from(bytes).unwrap_or(whole);
    bytes / PAGE_BYTES * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::{EACH, RESERVE, Shares, settle};
    use crate::services::tests::task;
    use ipc::manifest::Task;

    const MIB: u64 = 1 << 20;

    /// One that takes what it is given, and one that always takes the same.
    fn tasks() -> [Task<'static>; 2] {
        let mut greedy = task("greedy", &[], &[]);
        (greedy.memory, greedy.memory_least) = (18 * MIB, 5 * MIB);
        (greedy.heap, greedy.heap_least) = (14 * MIB, 2 * MIB);
        let mut steady = task("steady", &[], &[]);
        (steady.memory, steady.memory_least) = (2 * MIB, 2 * MIB);
        [greedy, steady]
    }

    /// Shares out so much beyond what is not shared out.
    fn settled(bytes: u64) -> ([Task<'static>; 2], Shares) {
        let mut tasks = tasks();
        let shares = settle(&mut tasks, bytes + RESERVE + 2 * EACH);
        (tasks, shares)
    }

    #[test]
    fn a_large_machine_gives_what_is_wished() {
        assert_eq!(settled(20 * MIB), (tasks(), Shares::Whole));
        assert_eq!(settled(u64::MAX / 2), (tasks(), Shares::Whole));
    }

    #[test]
    fn a_small_one_gives_what_is_enough_and_shares_of_the_rest() {
        let ([greedy, steady], shares) = settled(7 * MIB);
        assert_eq!(shares, Shares::Partial);
        assert_eq!((greedy.memory, greedy.heap), (5 * MIB, 2 * MIB));
        assert_eq!(steady, tasks()[1]);
        // 6.5 of 13 MiB beyond its least.
        let ([greedy, _], _) = settled(7 * MIB + 13 * MIB / 2);
        assert_eq!((greedy.memory, greedy.heap), (23 * MIB / 2, 8 * MIB));
    }

    #[test]
    fn too_little_is_told_and_nobody_is_promised_more_than_enough() {
        let (small, shares) = settled(7 * MIB - 1);
        let needed = 7 * MIB + RESERVE + 2 * EACH;
        let free = needed - 1;
        assert_eq!(shares, Shares::TooLittle { needed, free });
        assert_eq!(small[0].memory, 5 * MIB);
        let mut tasks = tasks();
        assert!(matches!(settle(&mut tasks, 0), Shares::TooLittle { .. }));
        assert_eq!(settle(&mut [], 0), Shares::Whole);
    }

    #[test]
    fn shares_are_pages_that_fit_and_leave_what_is_no_heap_its_room() {
        for bytes in (7 * MIB..20 * MIB).step_by(99_991) {
            let ([greedy, steady], _) = settled(bytes);
            assert!(greedy.memory + steady.memory <= bytes, "{bytes}");
            assert!(greedy.memory + steady.memory + 4096 > bytes, "{bytes}");
            assert!((greedy.memory | greedy.heap).is_multiple_of(4096));
            let beside = greedy.memory - greedy.heap;
            assert!((3 * MIB..=4 * MIB).contains(&beside), "{bytes}: {beside}");
        }
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let mut tasks = tasks();
        for task in &mut tasks {
            (task.memory, task.heap) = (u64::MAX, u64::MAX);
        }
        assert_eq!(settle(&mut tasks, 64 * MIB), Shares::Partial);
        assert!(tasks.iter().all(|task| task.memory < 64 * MIB));
    }
}
