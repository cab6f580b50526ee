// SPDX-License-Identifier: Apache-2.0
use arrow::array::{ArrayRef, UInt8Array};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use dovetail_model::ProblemKind;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::*;

const MIB: usize = 1 << 20;

fn batch(bytes: usize) -> RecordBatch {
    let column: ArrayRef = Arc::new(UInt8Array::from(vec![0; bytes]));
    RecordBatch::try_from_iter([("x", column)]).unwrap()
}

/// Two answers may hold as much as one may have ahead.
fn of_two() -> (Arc<dyn MemoryPool>, ReadersShare) {
    let pool = GreedyMemoryPool::new(SHARE * 2 * AHEAD_BYTES);
    let pool: Arc<dyn MemoryPool> = Arc::new(pool);
    let waits = Waits {
        begin: Duration::from_millis(200),
        reader: Duration::from_millis(50),
    };
    let share = ReadersShare::with_waits(&pool, 2, waits);
    (pool, share)
}

/// What comes in the end, however long that takes here.
async fn soon<T>(coming: impl Future<Output = T>) -> T {
    let coming = timeout(Duration::from_secs(60), coming).await;
    coming.expect("it comes")
}

#[tokio::test]
async fn an_answer_has_so_many_bytes_ahead_of_its_reader_or_one_batch() {
    let (pool, share) = of_two();
    let mut answer = share.answer_without_place().part(true);
    let (half, large) = (batch(AHEAD_BYTES / 2), batch(AHEAD_BYTES));
    let first = answer.rows(&half).await.unwrap();
    let second = answer.rows(&half).await.unwrap();
    let mut third = Box::pin(answer.rows(&large));
    assert!(third.as_mut().now_or_never().is_none());
    // What waits is there, too.
    assert_eq!(pool.reserved(), 2 * AHEAD_BYTES);
    drop(first);
    assert!(third.as_mut().now_or_never().is_none());
    drop(second);
    let third = third.await.unwrap();
    assert!(answer.rows(&batch(1)).now_or_never().is_none());
    assert_eq!(pool.reserved(), AHEAD_BYTES);
    drop(third);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn where_readers_hold_their_share_no_answer_begins_and_others_wait_for_their_own_reader() {
    let (pool, share) = of_two();
    let answers = [(); 4].map(|()| share.answer_without_place());
    let [mut slow, mut other, mut begun, mut late] = answers.clone().map(|a| a.part(true));
    let [.., waiting] = answers;
    let piece = batch(3 * MIB / 2);
    let mine = begun.rows(&piece).await.unwrap();
    let _slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let others = other.rows(&batch(AHEAD_BYTES - 3 * MIB / 2)).await.unwrap();

    let refused = late.rows(&piece).await.unwrap_err();
    let problem = problem_of(&refused);
    assert_eq!(problem.kind, ProblemKind::Busy);
    for part in ["--query-memory", "readers of all answers may have 8.0 MB"] {
        assert!(problem.detail.contains(part), "{problem}");
    }
    let refused = waiting.collected(&piece).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Busy);
    // Of what is small there cannot be much.
    late.rows(&batch(SMALL_BYTES)).await.unwrap();
    waiting.collected(&batch(SMALL_BYTES)).await.unwrap();
    drop(waiting.fetched_for_reader().hold(MIB).await.unwrap());
    // The other half is for computing.
    assert_eq!(pool.reserved(), 2 * AHEAD_BYTES);

    // Its reader has not read it: no more for now.
    let mut more = Box::pin(begun.rows(&piece));
    assert!(more.as_mut().now_or_never().is_none());
    drop(mine);
    let mine = soon(more).await.unwrap();
    // Or until others have.
    let mut more = Box::pin(begun.rows(&piece));
    assert!(more.as_mut().now_or_never().is_none());
    drop(others);
    let _more = more.await.unwrap();
    assert!(late.rows(&piece).await.is_ok());
    drop(mine);
    assert_eq!(pool.reserved(), AHEAD_BYTES + 3 * MIB / 2);
}

/// Each part may have made its next rows; they must not wait for each other.
#[tokio::test]
async fn the_parts_of_an_answer_wait_in_turn() {
    let (_pool, share) = of_two();
    let [mut slow, mut other] = [(); 2].map(|()| share.answer_without_place().part(true));
    let answer = share.answer_without_place();
    let [mut first, mut second] = [(); 2].map(|()| answer.part(true));
    let piece = batch(MIB);
    let mine = first.rows(&piece).await.unwrap();
    let _slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let _other = other.rows(&batch(AHEAD_BYTES - MIB)).await.unwrap();
    let mut parts = [Box::pin(first.rows(&piece)), Box::pin(second.rows(&piece))];
    for part in &mut parts {
        assert!(part.as_mut().now_or_never().is_none());
    }
    drop(mine);
    for part in parts {
        drop(soon(part).await.unwrap());
    }
}

/// An aggregate cuts its result into batches once it has let go of its account.
#[tokio::test]
async fn what_batches_are_cut_from_is_there_until_the_last_one_is_read() {
    let (pool, share) = of_two();
    let answer = share.answer_without_place();
    let whole = batch(AHEAD_BYTES);
    let rows = whole.num_rows() / 8;
    let mut part = answer.part(true);
    let mut held = vec![];
    for cut in 0..8 {
        let room = part.rows(&whole.slice(cut * rows, rows)).await.unwrap();
        // It takes a little more than its values.
        assert_eq!(pool.reserved() / KIB, AHEAD_BYTES / KIB);
        held.push(room);
    }
    drop(part);
    let last = held.pop();
    drop(held);
    assert_eq!(pool.reserved() / KIB, AHEAD_BYTES / KIB);
    drop(last);
    assert_eq!(pool.reserved(), 0);

    // Unless somebody has an account of it.
    let _cut = answer.part(false).rows(&whole.slice(0, rows)).await;
    assert_eq!(pool.reserved(), rows);
}

/// Then even a step that needs nothing would be refused.
#[tokio::test]
async fn an_account_that_is_full_gets_no_fuller() {
    let (pool, share) = of_two();
    let computing = MemoryConsumer::new("sort").register(&pool);
    let limit = SHARE * 2 * AHEAD_BYTES;
    computing.grow(limit - MIB);
    let answer = share.answer_without_place();
    let mut part = answer.part(true);
    let rows = part.rows(&batch(2 * MIB)).await.unwrap();
    let chunk = answer.encoded(2 * MIB);
    assert_eq!(pool.reserved(), limit - MIB);
    computing.shrink(4 * MIB);
    let more = part.rows(&batch(2 * MIB)).await.unwrap();
    assert_eq!(pool.reserved(), limit - 3 * MIB);
    drop((rows, chunk, more));
    assert_eq!(pool.reserved(), limit - 5 * MIB);
}

#[tokio::test]
async fn an_answer_begins_once_there_is_room_in_the_order_of_asking() {
    let (pool, share) = of_two();
    let [mut slow, mut other, mut first, mut second] =
        [(); 4].map(|()| share.answer_without_place().part(true));
    let slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let other = other.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let piece = batch(3 * MIB / 2);
    let mut first = Box::pin(first.rows(&piece));
    assert!(first.as_mut().now_or_never().is_none());
    // What waits is made already: there is not much of it.
    let refused = second.rows(&piece).now_or_never().expect("at once");
    assert!(refused.is_err());
    let files = share.answer_without_place().fetched_for_reader();
    let mut fetching = files.hold(AHEAD_BYTES);
    assert!(fetching.as_mut().now_or_never().is_none());
    drop(other);
    let first = first.await.unwrap();
    assert!(fetching.as_mut().now_or_never().is_none());
    drop(slow);
    let group = fetching.await.unwrap();
    assert_eq!(pool.reserved(), AHEAD_BYTES + 3 * MIB / 2);
    drop((first, group, files));
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn a_reader_that_stalls_gives_way_to_an_answer_that_waits() {
    let (_pool, share) = of_two();
    let mut held = vec![];
    let mut cut_off = vec![];
    // One is handed something and takes it, one does not, and one has next to nothing.
    for bytes in [AHEAD_BYTES, AHEAD_BYTES - SMALL_BYTES, SMALL_BYTES] {
        let memory = share.answer_without_place();
        held.push(memory.part(true).rows(&batch(bytes)).await.unwrap());
        let token = CancellationToken::new();
        memory.gives_way_by(token.clone());
        memory.handed();
        cut_off.push((memory, token));
    }
    cut_off[0].0.asked();
    let mut late = share.answer_without_place().part(true);
    let piece = batch(3 * MIB / 2);
    tokio::select! {
        room = late.rows(&piece) => assert!(room.is_err()),
        () = cut_off[1].1.cancelled() => drop(held.remove(1)),
    }
    assert!(late.rows(&piece).await.is_ok());
    let is_cut_off = cut_off.iter().map(|(_, token)| token.is_cancelled());
    assert_eq!(is_cut_off.collect::<Vec<_>>(), [false, true, false]);
}

/// Then it can always go on, and there are no more of them than there is room for.
#[tokio::test]
async fn an_answer_keeps_the_room_of_a_row_group_and_its_parts_take_turns() {
    let (pool, share) = of_two();
    let begun = [(); 2].map(|()| share.answer_without_place());
    let files = begun.each_ref().map(AnswerMemory::fetched_for_reader);
    let group = files[0].hold(AHEAD_BYTES).await.unwrap();
    drop(files[1].hold(AHEAD_BYTES).await.unwrap());
    assert_eq!(pool.reserved(), 2 * AHEAD_BYTES);
    let late = share.answer_without_place();
    let refused = late.fetched_for_reader().hold(AHEAD_BYTES).await;
    let refused = problem_of(&refused.expect_err("there is no room"));
    assert_eq!(refused.kind, ProblemKind::Busy);

    let mut other = files[0].hold(AHEAD_BYTES);
    assert!(other.as_mut().now_or_never().is_none());
    drop(group);
    let group = soon(other).await.unwrap();
    let again = soon(files[1].hold(AHEAD_BYTES)).await.unwrap();
    // Its rows are never refused.
    let mut part = begun[0].part(true);
    let rows = soon(part.rows(&batch(2 * MIB))).await.unwrap();
    assert_eq!(pool.reserved(), 2 * AHEAD_BYTES);
    drop((files, group, again, part, rows, begun));
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn an_answer_that_began_with_rows_is_not_refused_for_its_row_groups() {
    let (_pool, share) = of_two();
    let begun = share.answer_without_place();
    let _rows = begun.part(true).rows(&batch(MIB)).await.unwrap();
    let [mut slow, mut other] = [(); 2].map(|()| share.answer_without_place().part(true));
    let _slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let _other = other.rows(&batch(AHEAD_BYTES - MIB)).await.unwrap();
    for _ in 0..2 {
        let group = begun.fetched_for_reader().hold(AHEAD_BYTES).await;
        assert!(group.is_ok());
    }
}

#[tokio::test]
async fn what_is_fetched_for_operators_waits_for_nobody_and_is_on_the_account() {
    let (pool, share) = of_two();
    let [mut slow, mut other] = [(); 2].map(|()| share.answer_without_place().part(true));
    let _slow = slow.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let _other = other.rows(&batch(AHEAD_BYTES)).await.unwrap();
    let before = pool.reserved();
    let answer = share.answer_without_place().fetched_for_operator();
    let fetch = || answer.hold(AHEAD_BYTES).now_or_never().unwrap().unwrap();
    let groups = [(); 3].map(|()| fetch());
    // As far as that is not full.
    assert_eq!(pool.reserved(), before + 2 * AHEAD_BYTES);
    drop(groups);
    assert_eq!(pool.reserved(), before);
}

#[tokio::test]
async fn as_many_compute_at_once_as_have_memory_and_who_stalls_gives_way() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(320 * MIB));
    let waits = Waits {
        reader: Duration::from_millis(50),
        ..Waits::default()
    };
    let share = ReadersShare::with_waits(&pool, 2, waits);
    let answers = [(); 7].map(|()| share.answer_without_place());
    let tokens = [(); 7].map(|()| CancellationToken::new());
    for (answer, token) in answers.iter().zip(&tokens) {
        answer.gives_way_by(token.clone());
    }
    let mut seats = vec![];
    for answer in &answers[..5] {
        seats.push(answer.seat(false).now_or_never().expect("at once").unwrap());
    }
    let [mut next, mut last] = [5, 6].map(|one: usize| Box::pin(answers[one].seat(false)));
    assert!(next.as_mut().now_or_never().is_none());
    assert!(last.as_mut().now_or_never().is_none());
    // In the order of asking.
    drop(seats.remove(0));
    let next = soon(next).await.unwrap();
    assert!(last.as_mut().now_or_never().is_none());
    // One that computes no more and one that reads keep theirs.
    answers[0].handed();
    answers[2].handed();
    tokio::select! {
        _ = &mut last => panic!("nobody has given way"),
        () = soon(tokens[2].cancelled()) => drop(seats.remove(1)),
    }
    drop(soon(last).await.unwrap());
    let cut_off = tokens.map(|token| token.is_cancelled());
    assert_eq!(cut_off, [false, false, true, false, false, false, false]);
    drop((seats, next));
}

#[tokio::test]
async fn who_has_a_place_and_stalls_gives_way_to_who_waits_for_one() {
    let (_pool, share) = of_two();
    let mut held = vec![];
    for reads in [true, false] {
        let place = share.place(false).now_or_never().expect("at once").unwrap();
        let answer = share.answer(&place);
        let token = CancellationToken::new();
        answer.gives_way_by(token.clone());
        answer.handed();
        if reads {
            answer.asked();
        }
        held.push((place, answer, token));
    }
    let mut waits = Box::pin(share.place(false));
    tokio::select! {
        _ = &mut waits => panic!("nobody has given way"),
        () = soon(held[1].2.cancelled()) => drop(held.remove(1)),
    }
    assert!(soon(waits).await.is_some());
    assert!(!held[0].2.is_cancelled());
}

#[tokio::test]
async fn who_may_take_longer_than_usual_leaves_a_quarter_to_others() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(MIB));
    let share = ReadersShare::with_waits(&pool, 8, Waits::default());
    let mut long = vec![];
    for _ in 0..6 {
        long.push(share.place(true).now_or_never().expect("at once").unwrap());
    }
    let mut waits = Box::pin(share.place(true));
    assert!(waits.as_mut().now_or_never().is_none());
    let usual = [(); 2].map(|()| share.place(false).now_or_never());
    assert!(usual.iter().all(Option::is_some));
    drop(usual);
    assert!(waits.as_mut().now_or_never().is_none());
    drop(long);
    assert!(soon(waits).await.is_some());
}

/// It would not help them.
#[tokio::test]
async fn who_waits_for_what_long_ones_have_cuts_off_no_other() {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(MIB));
    let waits = Waits {
        reader: Duration::from_millis(50),
        ..Waits::default()
    };
    let share = ReadersShare::with_waits(&pool, 4, waits);
    let mut held = vec![];
    for is_long in [false, true, true, true] {
        let place = share.place(is_long).now_or_never().expect("at once");
        let place = place.unwrap();
        let answer = share.answer(&place);
        let token = CancellationToken::new();
        answer.gives_way_by(token.clone());
        answer.handed();
        held.push((place, answer, token));
    }
    let mut waits = Box::pin(share.place(true));
    tokio::select! {
        _ = &mut waits => panic!("nobody has given way"),
        () = soon(held[1].2.cancelled()) => drop(held.remove(1)),
    }
    assert!(soon(waits).await.is_some());
    assert!(!held[0].2.is_cancelled());
}
