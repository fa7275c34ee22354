//! Sorting lists of a few: the library's sort is for long ones, and twenty kilobytes of code for each kind
//! of entry.

/// Sorts by insertion, and keeps equal entries in their order. Cost: quadratic; the lists here have tens of
/// entries at most.
pub(crate) fn by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    for end in 1..list.len() {
        let mut place = end;
        while place > 0 && key(&list[place - 1]) > key(&list[place]) {
            list.swap(place - 1, place);
            place -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::by_key;

    #[test]
    fn lists_are_sorted_and_equal_entries_stay_in_order() {
        for length in 0..20u32 {
            let mut list: Vec<(u32, u32)> = (0..length).map(|n| (n * 7 % 5, n)).collect();
            let mut expected = list.clone();
            expected.sort_by_key(|entry| entry.0);
            by_key(&mut list, |entry| entry.0);
            assert_eq!(list, expected);
        }
    }
}
