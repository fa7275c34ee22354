//! Chooses from all rows that are possible a few, so that every pair of values that any of them has is in one
//! of the few: most faults need two things to come together, few need three.

/// One row: for each axis the number of its value, below [`VALUES`].
pub(crate) type Row<const AXES: usize> = [u8; AXES];

/// How far apart the searches begin: a prime, so that they begin everywhere.
const STRIDE: usize = 7919;

/// Most values of an axis.
const VALUES: usize = 16;

/// The pairs of values that were met.
struct Met<const AXES: usize>(Vec<bool>);

impl<const AXES: usize> Met<AXES> {
    fn new() -> Self {
        Self(vec![false; AXES * AXES * VALUES * VALUES])
    }

    /// The places of a row's pairs.
    fn places(row: &Row<AXES>) -> impl Iterator<Item = usize> + '_ {
        (0..AXES).flat_map(move |one| {
            (one + 1..AXES).map(move |other| {
                let axes = one * AXES + other;
                let values = usize::from(row[one]) * VALUES + usize::from(row[other]);
                axes * VALUES * VALUES + values
            })
        })
    }

    /// How many pairs of a row were not met before.
    fn fresh(&self, row: &Row<AXES>) -> usize {
        Self::places(row).filter(|place| !self.0[*place]).count()
    }

    fn meet(&mut self, row: &Row<AXES>) {
        Self::places(row).for_each(|place| self.0[place] = true);
    }
}

/// The numbers of rows of `possible` that have all its pairs which `given` has not, most useful ones first. The
/// same rows give the same answer.
pub(crate) fn cover<const AXES: usize>(possible: &[Row<AXES>], given: &[Row<AXES>]) -> Vec<usize> {
    let mut met = Met::new();
    given.iter().for_each(|row| met.meet(row));
    let mut chosen = Vec::new();
    loop {
        // The first of the best ones, from another place on each time: what decides nothing is to vary too.
        let first = chosen.len() * STRIDE;
        let mut best = (0, 0);
        for step in 0..possible.len() {
            let index = (first + step) % possible.len();
            let fresh = met.fresh(&possible[index]);
            if fresh > best.0 {
                best = (fresh, index);
            }
        }
        let (fresh, index) = best;
        if fresh == 0 {
            return chosen;
        }
        met.meet(&possible[index]);
        chosen.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::{Met, cover};

    #[test]
    fn every_possible_pair_is_in_a_chosen_row() {
        let mut possible = Vec::new();
        for (a, b) in (0..5).flat_map(|a| (0..4).map(move |b| (a, b))) {
            for c in 0..3 {
                // Not everything goes together.
                if !(a == 4 && b > 1) {
                    possible.push([a, b, c]);
                }
            }
        }
        let given = [possible[7]];
        let chosen = cover(&possible, &given);
        let mut met = Met::new();
        given.iter().for_each(|row| met.meet(row));
        for (number, index) in chosen.iter().enumerate() {
            assert!(
                met.fresh(&possible[*index]) > 0,
                "row {number} is of no use"
            );
            met.meet(&possible[*index]);
        }
        assert!(possible.iter().all(|row| met.fresh(row) == 0));
        assert!(chosen.len() < 25, "{} rows for 18 pairs", chosen.len());
    }
}
