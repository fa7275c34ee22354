//! Ranges of physical memory, and lists of them that are sorted, disjoint and page-aligned. What the
//! ranges are used for is the kernel's business.

use core::fmt;

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;

/// Most ranges in a list. Firmware maps have a few dozen entries; neighbours are joined.
pub const MAX_RANGES: usize = 256;

/// Physical addresses from `start` up to, and without, `end`; both multiples of [`PAGE`] in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
}

impl Range {
    /// The range of `length` bytes at `start`; `None` where it would pass the end of the address space.
    pub fn of(start: u64, length: u64) -> Option<Range> {
        Some(Range {
            start,
            end: start.checked_add(length)?,
        })
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds no address.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether every address of `other` is in this range.
    pub fn contains(self, other: Range) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The whole pages inside.
    pub fn inner_pages(self) -> Range {
        let start = self
            .start
            .checked_next_multiple_of(PAGE)
            .unwrap_or(u64::MAX);
        Range {
            start,
            end: (self.end / PAGE * PAGE).max(start),
        }
    }

    /// The pages that it touches.
    pub fn outer_pages(self) -> Range {
        let last = u64::MAX / PAGE * PAGE;
        Range {
            start: self.start / PAGE * PAGE,
            end: self.end.checked_next_multiple_of(PAGE).unwrap_or(last),
        }
    }
}

/// A list has no room for another range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRanges;

/// A list of ranges: sorted, disjoint, not touching, none empty.
#[derive(Clone, Default)]
pub struct Ranges {
    list: heapless::Vec<Range, MAX_RANGES>,
}

impl Ranges {
    /// An empty list.
    pub const fn new() -> Ranges {
        Ranges {
            list: heapless::Vec::new(),
        }
    }

    /// The ranges, in order of address.
    pub fn as_slice(&self) -> &[Range] {
        &self.list
    }

    /// Sum of the lengths in bytes.
    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|range| range.bytes()).sum()
    }

    /// Whether one of the ranges holds all of `range`.
    pub fn contains(&self, range: Range) -> bool {
        self.list.iter().any(|held| held.contains(range))
    }

    /// Whether one of the ranges shares an address with `range`.
    pub fn overlaps(&self, range: Range) -> bool {
        self.list.iter().any(|held| held.overlaps(range))
    }

    /// Adds a range and joins it with what it overlaps or touches.
    pub fn add(&mut self, range: Range) -> Result<(), TooManyRanges> {
        if range.is_empty() {
            return Ok(());
        }
        let mut joined = range;
        self.list.retain(|held| {
            let apart = held.end < joined.start || joined.end < held.start;
            if !apart {
                joined = Range {
                    start: held.start.min(joined.start),
                    end: held.end.max(joined.end),
                };
            }
            apart
        });
        let place = self.list.iter().position(|held| held.start > joined.start);
        self.list
            .insert(place.unwrap_or(self.list.len()), joined)
            .map_err(|_| TooManyRanges)
    }

    /// Takes a range out, cutting what it overlaps.
    pub fn remove(&mut self, range: Range) -> Result<(), TooManyRanges> {
        if range.is_empty() {
            return Ok(());
        }
        let mut place = 0;
        while let Some(held) = self.list.get(place).copied() {
            if !held.overlaps(range) {
                place += 1;
                continue;
            }
            self.list.remove(place);
            for rest in [
                Range {
                    start: held.start,
                    end: range.start,
                },
                Range {
                    start: range.end,
                    end: held.end,
                },
            ] {
                if !rest.is_empty() {
                    self.list.insert(place, rest).map_err(|_| TooManyRanges)?;
                    place += 1;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.as_slice()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_RANGES, Range, Ranges, TooManyRanges};

    fn list(ranges: &[(u64, u64)]) -> Ranges {
        let mut list = Ranges::new();
        for (start, end) in ranges {
            list.add(Range {
                start: *start,
                end: *end,
            })
            .unwrap();
        }
        list
    }

    fn pairs(list: &Ranges) -> Vec<(u64, u64)> {
        list.as_slice()
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    #[test]
    fn adding_sorts_and_joins() {
        assert_eq!(
            pairs(&list(&[(40, 50), (10, 20), (20, 25), (24, 30)])),
            [(10, 30), (40, 50)]
        );
        assert_eq!(pairs(&list(&[(10, 20), (30, 40), (0, 100)])), [(0, 100)]);
        assert_eq!(pairs(&list(&[(10, 20), (30, 40), (20, 30)])), [(10, 40)]);
        assert_eq!(pairs(&list(&[(5, 5), (7, 6)])), []);
    }

    #[test]
    fn removing_cuts() {
        let mut ranges = list(&[(0, 100), (200, 300)]);
        ranges.remove(Range { start: 40, end: 60 }).unwrap();
        ranges
            .remove(Range {
                start: 90,
                end: 210,
            })
            .unwrap();
        ranges
            .remove(Range {
                start: 290,
                end: 400,
            })
            .unwrap();
        assert_eq!(pairs(&ranges), [(0, 40), (60, 90), (210, 290)]);
        ranges
            .remove(Range {
                start: 0,
                end: u64::MAX,
            })
            .unwrap();
        assert_eq!(pairs(&ranges), []);
    }

    #[test]
    fn random_operations_agree_with_a_bit_map() {
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        let (mut ranges, mut map) = (Ranges::new(), [false; 200]);
        for _ in 0..5000 {
            let start = random(200);
            let range = Range {
                start,
                end: (start + random(30)).min(200),
            };
            let adds = random(2) == 0;
            if adds {
                ranges.add(range).unwrap()
            } else {
                ranges.remove(range).unwrap()
            }
            map[range.start as usize..range.end as usize].fill(adds);
            for pair in ranges.as_slice().windows(2) {
                assert!(pair[0].end < pair[1].start, "sorted and apart: {ranges:?}");
            }
            for (address, held) in map.iter().enumerate() {
                let one = Range {
                    start: address as u64,
                    end: address as u64 + 1,
                };
                assert_eq!(ranges.contains(one), *held, "{address} after {range:?}");
            }
        }
    }

    #[test]
    fn a_full_list_says_so() {
        let mut ranges = Ranges::new();
        for index in 0..MAX_RANGES as u64 {
            ranges
                .add(Range {
                    start: index * 10,
                    end: index * 10 + 5,
                })
                .unwrap();
        }
        assert_eq!(
            ranges.add(Range {
                start: 1 << 40,
                end: 1 << 41
            }),
            Err(TooManyRanges)
        );
        assert_eq!(
            ranges.add(Range { start: 5, end: 10 }),
            Ok(()),
            "joining makes room"
        );
    }

    #[test]
    fn rounding_to_pages_never_overflows() {
        let odd = Range {
            start: 1,
            end: 8191,
        };
        assert_eq!(
            odd.outer_pages(),
            Range {
                start: 0,
                end: 8192
            }
        );
        assert!(odd.inner_pages().is_empty());
        let last = Range {
            start: u64::MAX - 5,
            end: u64::MAX,
        };
        assert!(last.inner_pages().is_empty());
        assert!(last.outer_pages().end <= u64::MAX / 4096 * 4096);
    }
}
