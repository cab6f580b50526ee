// SPDX-License-Identifier: Apache-2.0
//! Which runs to merge next: geometric tiers, as in a log-structured merge tree.

use std::ops::Range;

/// Runs of one tier that are merged together.
pub const FAN_IN: usize = 8;

/// The tier of a run: how often [`FAN_IN`] divides its size.
fn tier(size: usize) -> u32 {
    size.max(1).ilog(FAN_IN)
}

/// The runs to merge next, as a range of `sizes` (the bytes of each run, oldest first), or None when the stack is in
/// shape. `allowed` says whether merging a range would respect the pinned edges and the memory there is.
///
/// Among windows of [`FAN_IN`] adjacent runs it takes the one whose largest tier is smallest, and of those
/// the oldest. No run of a window is larger than the others together: so whenever a state is copied, the
/// run that holds it has at least doubled, and it is copied a logarithmic number of times.
pub fn next_merge(sizes: &[usize], allowed: impl Fn(Range<usize>) -> bool) -> Option<Range<usize>> {
    let top = |window: &[usize]| window.iter().map(|size| tier(*size)).max().unwrap_or(0);
    (0..sizes.len().saturating_sub(FAN_IN - 1))
        .map(|start| start..start + FAN_IN)
        .filter(|range| {
            let window = &sizes[range.clone()];
            let giant = window.iter().max().copied().unwrap_or(0);
            let others = window.iter().sum::<usize>() - giant;
            giant <= others.max(1) && allowed(range.clone())
        })
        .min_by_key(|range| (top(&sizes[range.clone()]), range.start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_stack_is_left_alone() {
        assert_eq!(next_merge(&[1; FAN_IN - 1], |_| true), None);
        assert_eq!(next_merge(&[1; FAN_IN], |_| true), Some(0..FAN_IN));
    }

    #[test]
    fn small_runs_merge_before_large_ones() {
        let rows: Vec<usize> = [vec![100_000; FAN_IN], vec![10; FAN_IN]].concat();
        assert_eq!(next_merge(&rows, |_| true), Some(FAN_IN..2 * FAN_IN));
    }

    #[test]
    fn a_giant_is_not_copied_for_a_few_small_runs() {
        let rows: Vec<usize> = [vec![1_000_000], vec![10; FAN_IN - 1]].concat();
        assert_eq!(next_merge(&rows, |_| true), None);
    }

    #[test]
    fn a_pinned_edge_is_not_crossed() {
        let pin = 4;
        let crosses = |range: Range<usize>| range.start < pin && pin < range.end;
        let range = next_merge(&[1; 3 * FAN_IN], |range| !crosses(range)).unwrap();
        assert!(!crosses(range));
    }

    proptest! {
        /// Merging saves nothing, as with distinct groups or lists of all values: the worst case for the stack's
        /// height and the copying.
        #[test]
        fn the_stack_stays_logarithmic(batches in 1usize..3000, size in 1usize..50) {
            let mut stack: Vec<usize> = vec![];
            let mut copied = 0usize;
            for _ in 0..batches {
                stack.push(size);
                while let Some(range) = next_merge(&stack, |_| true) {
                    let merged: usize = stack[range.clone()].iter().sum();
                    copied += merged;
                    stack.splice(range, [merged]);
                }
            }
            let doublings = (batches * size).ilog2() as usize + 1;
            prop_assert!(stack.len() <= FAN_IN * doublings, "{} runs for {batches} batches", stack.len());
            prop_assert!(copied <= batches * size * doublings, "copied {copied}");
        }
    }
}
