// SPDX-License-Identifier: Apache-2.0
//! An input as a sequence of request bodies: reads on a thread of its own, cuts, hands over.

use std::collections::VecDeque;
use std::io::BufRead;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use dovetail_log::decode::guarded;
use tokio::sync::mpsc;

use super::arrow::{ArrowParts, read_file, read_parquet, read_stream};
use super::input::{Input, InputError, InputFormat, Source};
use super::split::{Framing, MAX_PART_BYTES, PART_BYTES, Part, Splitter};

/// Pieces that wait between reader and sender: enough to read ahead of one request.
const PIECES_AHEAD: usize = 16;
/// A pipe that has been silent for this long sends what it has.
const IDLE: Duration = Duration::from_millis(500);

/// What the reader thread hands over.
enum Piece {
    /// Some of a text.
    Text(Bytes),
    /// A body.
    Part(Part),
}

/// The request bodies of one input, in order.
pub struct Parts {
    name: String,
    pieces: mpsc::Receiver<Result<Piece, InputError>>,
    /// For text: cuts it. Taken when the text ends.
    splitter: Option<Splitter>,
    ready: VecDeque<Part>,
    /// After which pause in the input what there is goes out.
    flush_after: Option<Duration>,
}

impl Parts {
    /// Starts to read `input`. With `flush_when_idle` a pause of the input sends what there is, so that
    /// events of a slow pipe arrive soon; where parts end then depends on time.
    pub fn read(input: Input, flush_when_idle: bool) -> Self {
        let framing = match input.format {
            InputFormat::Ndjson => Some(Framing::Lines),
            InputFormat::Csv => Some(Framing::Csv),
            InputFormat::Json => Some(Framing::JsonArray),
            InputFormat::Arrow | InputFormat::Parquet => None,
        };
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let name = input.name.clone();
        // Not a task: a thread that waits for a silent pipe must not hold up the end of the program.
        std::thread::spawn(move || read_guarded(input, &sender));
        Self {
            name,
            pieces,
            splitter: framing.map(|framing| Splitter::new(framing, PART_BYTES, MAX_PART_BYTES)),
            ready: VecDeque::new(),
            flush_after: flush_when_idle.then_some(IDLE),
        }
    }

    /// The next body; `None` at the end of the input.
    ///
    /// # Errors
    /// When the input cannot be read or cut. Bodies before that are good.
    pub async fn next(&mut self) -> Result<Option<Part>, InputError> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Ok(Some(part));
            }
            let mut parts = Vec::new();
            let cut = match self.next_piece().await {
                Received::Piece(Piece::Part(part)) => return Ok(Some(part)),
                Received::Piece(Piece::Text(text)) => match &mut self.splitter {
                    Some(splitter) => splitter.push(&text, &mut parts),
                    None => Ok(()),
                },
                Received::Idle => {
                    parts.extend(self.splitter.as_mut().and_then(Splitter::flush));
                    Ok(())
                }
                Received::Failed(error) => return Err(error),
                Received::End => match self.splitter.take() {
                    Some(splitter) => splitter.finish(&mut parts),
                    None => return Ok(None),
                },
            };
            self.ready.extend(parts);
            cut.map_err(|source| InputError::Split {
                name: self.name.clone(),
                source,
            })?;
        }
    }

    async fn next_piece(&mut self) -> Received {
        let received = match self.flush_after {
            Some(pause) => match tokio::time::timeout(pause, self.pieces.recv()).await {
                Ok(received) => received,
                Err(_) => return Received::Idle,
            },
            None => self.pieces.recv().await,
        };
        match received {
            Some(Ok(piece)) => Received::Piece(piece),
            Some(Err(error)) => Received::Failed(error),
            None => Received::End,
        }
    }
}

enum Received {
    Piece(Piece),
    Failed(InputError),
    Idle,
    End,
}

type Sender = mpsc::Sender<Result<Piece, InputError>>;

/// The reader thread. Readers of other libraries panic on files that are damaged in ways they do not foresee;
/// that must not pass for the end of the input.
fn read_guarded(input: Input, sender: &Sender) {
    let (name, format) = (input.name.clone(), input.format);
    if guarded(AssertUnwindSafe(|| read(input, sender))).is_none() {
        let reason = "it is damaged, or uses types that are not read here".to_owned();
        let error = InputError::Columns {
            name,
            format,
            reason,
        };
        // Nobody listens: nothing to say.
        let _ = sender.blocking_send(Err(error));
    }
}

/// Reads all of the input. It ends when the input does, or when nobody listens any more.
fn read(input: Input, sender: &Sender) {
    let name = input.name.clone();
    let outcome = match input.source {
        Source::Bytes(reader) if input.format.is_text() => read_text(reader, &name, sender),
        _ => read_columns(input, sender),
    };
    if let Err(error) = outcome {
        // Nobody listens: nothing to say.
        let _ = sender.blocking_send(Err(error));
    }
}

fn read_text(
    mut reader: Box<dyn BufRead + Send>,
    name: &str,
    sender: &Sender,
) -> Result<(), InputError> {
    loop {
        let text = match reader.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(text) => Bytes::copy_from_slice(text),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let name = name.to_owned();
                return Err(InputError::Read { name, source });
            }
        };
        reader.consume(text.len());
        if sender.blocking_send(Ok(Piece::Text(text))).is_err() {
            return Ok(());
        }
    }
}

fn read_columns(input: Input, sender: &Sender) -> Result<(), InputError> {
    let Input {
        name,
        format,
        size,
        read,
        source,
        ..
    } = input;
    let failed = |e: arrow::error::ArrowError| InputError::Columns {
        name: name.clone(),
        format,
        reason: e.to_string(),
    };
    let size = size.unwrap_or_default();
    let (schema, batches) = match source {
        Source::Bytes(reader) => read_stream(reader),
        Source::File(file) if format == InputFormat::Arrow => read_file(file, size, read),
        Source::File(file) => read_parquet(file, size, read),
    }
    .map_err(failed)?;
    let mut parts = ArrowParts::new(&schema, PART_BYTES);
    let mut emit = |part| sender.blocking_send(Ok(Piece::Part(part))).is_ok();
    for batch in batches {
        let batch = batch.map_err(failed)?;
        if !parts.push(&batch, &mut emit).map_err(failed)? {
            return Ok(());
        }
    }
    if let Some(part) = parts.close().map_err(failed)? {
        emit(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    async fn parts_of(name: &str, content: &[u8]) -> Result<Vec<Part>, InputError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut parts = Parts::read(Input::open(&path, None)?, false);
        let mut all = Vec::new();
        while let Some(part) = parts.next().await? {
            all.push(part);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_large_file_comes_in_several_bodies() {
        let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
        let content = line.repeat(3 * PART_BYTES / line.len());
        let parts = parts_of("a.ndjson", content.as_bytes()).await.unwrap();
        assert_eq!(parts.len(), 3);
        let joined: Vec<u8> = parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
        assert_eq!(joined, content.as_bytes());
    }

    #[tokio::test]
    async fn the_shipped_flights_come_as_arrow_bodies() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../demo/flights.parquet");
        let input = Input::open(&path, None).unwrap();
        let size = input.size.unwrap();
        let read = std::sync::Arc::clone(&input.read);
        let mut parts = Parts::read(input, false);
        let mut rows = 0;
        while let Some(part) = parts.next().await.unwrap() {
            assert_eq!(part.line_shift, rows);
            let reader =
                arrow::ipc::reader::StreamReader::try_new(part.bytes.as_ref(), None).unwrap();
            rows += reader.map(|b| b.unwrap().num_rows() as u64).sum::<u64>();
        }
        assert_eq!(rows, 342_425);
        assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), size);
    }

    #[tokio::test]
    async fn what_is_not_of_its_format_is_named() {
        for (name, content, word) in [
            ("a.parquet", "hello", "as parquet"),
            ("a.arrow", "hello", "as arrow"),
            ("a.json", "[1, 2", "ends before"),
        ] {
            let error = parts_of(name, content.as_bytes()).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(word), "{text}");
        }
    }

    #[tokio::test]
    async fn a_file_that_makes_its_reader_panic_is_an_error_not_an_end() {
        let schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
            "n",
            arrow::datatypes::DataType::Int64,
            true,
        )]);
        let writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &schema).unwrap();
        let mut stream = writer.into_inner().unwrap();
        // An integer of 45 bits.
        let width = stream.windows(4).rposition(|four| four == [64, 0, 0, 0]);
        stream[width.unwrap()] = 45;
        let error = parts_of("a.arrow", &stream).await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[tokio::test]
    async fn a_silent_pipe_sends_what_it_has() {
        let (sender, pieces) = mpsc::channel(1);
        let mut parts = Parts {
            name: "pipe".to_owned(),
            pieces,
            splitter: Some(Splitter::new(Framing::Lines, PART_BYTES, MAX_PART_BYTES)),
            ready: VecDeque::new(),
            flush_after: Some(Duration::from_millis(1)),
        };
        let text = Bytes::from_static(b"{\"a\":1}\n{\"a\"");
        sender.send(Ok(Piece::Text(text))).await.unwrap();
        let part = parts.next().await.unwrap().unwrap();
        assert_eq!(part.bytes, "{\"a\":1}\n");
        let text = Bytes::from_static(b":2}");
        sender.send(Ok(Piece::Text(text))).await.unwrap();
        drop(sender);
        let part = parts.next().await.unwrap().unwrap();
        assert_eq!(part.bytes, "{\"a\":2}");
        assert!(parts.next().await.unwrap().is_none());
    }
}
