// SPDX-License-Identifier: Apache-2.0
//! Damaged files are refused by name and place; only a torn last frame is dropped.

use super::*;

/// Three appends, in a world that is not closed: without a seal. With the end of each frame, the first
/// being the end of the header.
async fn three_frames() -> (World, String, Vec<usize>) {
    let world = World::new();
    let log = world.open();
    let name = world.segment_names().remove(0);
    let end = || world.disk.contents(&name).unwrap().len();
    let mut ends = vec![end()];
    for i in 0..3i64 {
        let one = Append {
            dead_letters: vec![letter("x")],
            ..keyed(i * 3..i * 3 + 3, &format!("k{i}"), 1)
        };
        log.append(one).await.unwrap();
        ends.push(end());
    }
    let unsealed = world.disk.contents(&name).unwrap();
    log.close().await;
    world.disk.set_contents(&name, Some(unsealed));
    (world, name, ends)
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

#[tokio::test]
async fn every_flipped_byte_is_noticed() {
    let (world, name, ends) = three_frames().await;
    let whole = world.disk.contents(&name).unwrap();
    for at in 0..whole.len() {
        world.disk.set_contents(&name, Some(flip(&whole, at)));
        let found = world.recover();
        if at >= ends[2] {
            // The last frame: it cannot be told from one that a crash tore.
            let recovered = found.unwrap();
            let dropped = recovered.dropped.unwrap();
            assert_eq!(dropped.position as usize, ends[2], "byte {at}");
            assert_eq!((recovered.next, dropped.offset), (Offset(8), Offset(8)));
            assert_eq!((recovered.frames, recovered.keys), (2, 2));
            continue;
        }
        match found.unwrap_err() {
            LogError::Corrupt {
                file,
                position,
                offset,
                ..
            } => {
                let frame = ends.iter().filter(|end| **end <= at).count();
                let starts = [0, ends[0], ends[1]];
                let (start, first) = (starts[frame], frame.saturating_sub(1) * 4);
                assert_eq!(file, name);
                assert_eq!(position as usize, start, "byte {at}");
                assert_eq!(offset, Offset(first as u64));
            }
            other => panic!("byte {at}: {other}"),
        }
        // Nothing was changed by the attempt.
        assert_eq!(world.disk.contents(&name).unwrap(), flip(&whole, at));
    }
}

/// Behind a seal, which a close writes, and behind a new segment, the last frame is as safe as any.
#[tokio::test]
async fn after_a_close_no_flipped_byte_loses_an_event() {
    let (world, name, ends) = three_frames().await;
    world.open().close().await;
    let whole = world.disk.contents(&name).unwrap();
    assert!(whole.len() > ends[3]);
    for at in ends[2]..whole.len() {
        world.disk.set_contents(&name, Some(flip(&whole, at)));
        match world.recover() {
            Err(LogError::Corrupt { offset, .. }) => {
                assert!(at < ends[3], "byte {at}");
                assert_eq!(offset, Offset(8));
            }
            Ok(recovered) => {
                assert!(at >= ends[3], "byte {at}");
                assert_eq!(recovered.next, Offset(12));
                assert_eq!(recovered.dropped.unwrap().position as usize, ends[3]);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_file_cut_anywhere_opens_with_its_whole_frames() {
    let (world, name, ends) = three_frames().await;
    let whole = world.disk.contents(&name).unwrap();
    for len in 0..=whole.len() {
        world.disk.set_contents(&name, Some(whole[..len].to_vec()));
        if len < ends[0] {
            // No crash can leave that: a segment gets its name when its header is durable.
            let error = world.recover().unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
            continue;
        }
        let recovered = world.recover().unwrap();
        let frames = ends[1..].iter().filter(|end| **end <= len).count();
        assert_eq!(recovered.frames as usize, frames, "{len} bytes");
        assert_eq!(recovered.next, Offset(frames as u64 * 4));
        assert_eq!(recovered.dropped.is_some(), !ends.contains(&len));
        assert_eq!(world.disk.contents(&name).unwrap().len(), ends[frames]);
        let log = world.open();
        let next = log.append(append(50..51)).await.unwrap().next;
        assert_eq!(next, Offset(frames as u64 * 4 + 1));
        assert_eq!(read_all(&log).len(), frames * 3 + 1);
        log.close().await;
        for extra in world.segment_names().into_iter().skip(1) {
            world.disk.set_contents(&extra, None);
        }
    }
}

/// A torn frame full of zeros, as some file systems leave it, and one with garbage.
#[tokio::test]
async fn a_torn_frame_of_zeros_or_garbage_is_dropped() {
    let (world, name, ends) = three_frames().await;
    let whole = world.disk.contents(&name).unwrap();
    for filler in [0u8, 0xA5] {
        for keep in [0, 10, 64, 100] {
            let mut bytes = whole.clone();
            bytes[ends[2] + keep..].fill(filler);
            world.disk.set_contents(&name, Some(bytes));
            assert_eq!(world.recover().unwrap().next, Offset(8));
        }
    }
}

async fn five_segments() -> (World, Vec<String>) {
    let world = World::with_small_segments();
    let log = world.open();
    for i in 0..5i64 {
        log.append(keyed(i..i + 1, &format!("k{i}"), 1))
            .await
            .unwrap();
    }
    log.close().await;
    let names = world.segment_names();
    assert_eq!(names.len(), 5);
    (world, names)
}

#[tokio::test]
async fn a_sealed_segment_is_verified_to_its_last_byte() {
    let (world, names) = five_segments().await;
    for name in &names[..4] {
        let whole = world.disk.contents(name).unwrap();
        for at in 0..whole.len() {
            world.disk.set_contents(name, Some(flip(&whole, at)));
            let error = world.recover().unwrap_err();
            assert!(error.to_string().contains(name.as_str()), "{error}");
            world.disk.set_contents(name, Some(whole[..at].to_vec()));
            world.recover().unwrap_err();
        }
        world.disk.set_contents(name, Some(whole));
    }
    assert_eq!(world.recover().unwrap().next, Offset(5));
}

#[tokio::test]
async fn a_missing_or_exchanged_segment_is_noticed() {
    let (world, names) = five_segments().await;
    for (index, name) in names[..4].iter().enumerate() {
        let whole = world.disk.contents(name).unwrap();
        world.disk.set_contents(name, None);
        match world.recover().unwrap_err() {
            LogError::Missing { sequence, .. } => assert_eq!(sequence, index as u64),
            other => panic!("{other}"),
        }
        world.disk.set_contents(name, Some(whole));
    }
    // The same segment of another log: same names, same offsets, another history.
    let foreign = {
        let world = World::with_small_segments();
        world.clock.advance(1);
        let log = world.open();
        for i in 0..5i64 {
            log.append(append(i + 7..i + 8)).await.unwrap();
        }
        log.close().await;
        world.disk.contents(&names[2]).unwrap()
    };
    world.disk.set_contents(&names[2], Some(foreign));
    let error = world.recover().unwrap_err();
    assert!(error.to_string().contains("does not follow"), "{error}");
}

/// Sound in itself and at the right offsets, but of another history: not even the last frame passes for
/// torn then.
#[tokio::test]
async fn a_frame_of_another_log_is_noticed() {
    let (world, name, ends) = three_frames().await;
    let whole = world.disk.contents(&name).unwrap();
    let (other, _, other_ends) = three_frames().await;
    other
        .disk
        .set_contents(&name, Some(whole[..ends[1]].to_vec()));
    other.clock.advance(1);
    let log = other.open();
    for i in 1..3i64 {
        let one = Append {
            dead_letters: vec![letter("x")],
            ..keyed(i * 3..i * 3 + 3, &format!("k{i}"), 1)
        };
        log.append(one).await.unwrap();
    }
    let foreign = other.disk.contents(&name).unwrap();
    log.close().await;
    assert_eq!(ends, other_ends);
    for (from, to, named) in [(ends[1], ends[2], ends[2]), (ends[2], ends[3], ends[2])] {
        let mut bytes = whole.clone();
        bytes[from..to].copy_from_slice(&foreign[from..to]);
        world.disk.set_contents(&name, Some(bytes));
        match world.recover().unwrap_err() {
            LogError::Corrupt { position, .. } => assert_eq!(position as usize, named),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn the_oldest_segment_is_missed_after_forgetting_too() {
    let (world, names) = five_segments().await;
    let log = world.open();
    log.forget(Offset(2)).unwrap();
    log.close().await;
    let keys = world.disk.contents(recovery::KEYS_FILE).unwrap();
    for at in 0..keys.len() {
        world
            .disk
            .set_contents(recovery::KEYS_FILE, Some(flip(&keys, at)));
        let error = world.recover().unwrap_err();
        assert!(error.to_string().contains("`keys` is damaged"), "{error}");
    }
    world.disk.set_contents(recovery::KEYS_FILE, Some(keys));
    assert_eq!(world.recover().unwrap().oldest, Offset(2));
    // A deletion that a crash undid is done again.
    world.disk.set_contents(&names[1], Some(vec![1, 2, 3]));
    assert_eq!(world.recover().unwrap().oldest, Offset(2));
    assert_eq!(world.segment_names()[0], names[2]);
    world.disk.set_contents(&names[2], None);
    let error = world.recover().unwrap_err();
    assert!(
        matches!(error, LogError::Missing { sequence: 2, .. }),
        "{error}"
    );
    for name in &names {
        world.disk.set_contents(name, None);
    }
    let error = world.recover().unwrap_err();
    assert!(
        matches!(error, LogError::Missing { sequence: 2, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_format_is_named() {
    let (world, name, _) = three_frames().await;
    let mut bytes = world.disk.contents(&name).unwrap();
    let len = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    bytes[12..16].copy_from_slice(&2u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[12..20 + len]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    world.disk.set_contents(&name, Some(bytes));
    let error = world.recover().unwrap_err();
    let expected = "has format version 2, and this build reads versions up to 1";
    assert!(error.to_string().contains(expected), "{error}");
}

/// What reads back wrong long after the open is an error then, not an answer.
#[tokio::test]
async fn damage_after_the_open_is_noticed_by_a_reader() {
    let (world, name, ends) = three_frames().await;
    let log = world.open();
    let whole = world.disk.contents(&name).unwrap();
    world
        .disk
        .set_contents(&name, Some(flip(&whole, ends[1] + 70)));
    let items: Vec<_> = log.read(Offset(0), Offset(12)).collect();
    assert_eq!(items.len(), 2, "an error ends it");
    let error = items[1].as_ref().unwrap_err();
    assert!(
        matches!(
            error,
            LogError::Corrupt {
                offset: Offset(4),
                ..
            }
        ),
        "{error}"
    );
}
