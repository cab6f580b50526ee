// SPDX-License-Identifier: Apache-2.0
//! Arrow and Parquet input as Arrow bodies of a bounded size.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::buffer::Buffer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamDecoder};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::input::ReadSoFar;
use super::split::Part;

/// Batches are cut into slices of about this size, so that parts come out close to their target.
const SLICE_BYTES: usize = 256 << 10;

/// What a message of an Arrow IPC stream starts with.
pub(super) const STREAM_START: [u8; 4] = [0xff; 4];

/// Batches of an input, one after the other.
type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Reads an Arrow IPC stream.
pub(super) fn read_stream(
    mut reader: Box<dyn BufRead + Send>,
) -> Result<(SchemaRef, Batches), ArrowError> {
    // The reader takes the first bytes of anything else as a length, and allocates it.
    if !reader.fill_buf()?.starts_with(&STREAM_START) {
        let reason = "it does not start as an Arrow IPC stream does";
        return Err(ArrowError::ParseError(reason.to_owned()));
    }
    let mut batches = StreamBatches {
        reader,
        decoder: StreamDecoder::new(),
        read: Buffer::default(),
        ended: false,
    };
    // The schema comes before the first batch, which waits in `first`.
    let first = batches.next_batch()?;
    let schema = batches
        .decoder
        .schema()
        .ok_or_else(|| ArrowError::ParseError("it ends before its schema".to_owned()))?;
    Ok((schema, Box::new(first.map(Ok).into_iter().chain(batches))))
}

/// Decodes what has been read and no more: `StreamReader` allocates whatever length a message claims.
struct StreamBatches {
    reader: Box<dyn BufRead + Send>,
    decoder: StreamDecoder,
    /// Read and not decoded yet.
    read: Buffer,
    ended: bool,
}

impl StreamBatches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        while !self.ended {
            if let Some(batch) = self.decoder.decode(&mut self.read)? {
                return Ok(Some(batch));
            }
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                self.ended = true;
                self.decoder.finish()?;
            }
            self.read = Buffer::from_slice_ref(bytes);
            let length = bytes.len();
            self.reader.consume(length);
        }
        Ok(None)
    }
}

impl Iterator for StreamBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_batch();
        self.ended |= next.is_err();
        next.transpose()
    }
}

/// Reads a file in Arrow's file format.
pub(super) fn read_file(
    file: File,
    size: u64,
    read: ReadSoFar,
) -> Result<(SchemaRef, Batches), ArrowError> {
    let reader = FileReader::try_new(BufReader::new(file), None)?;
    let batches = reader.num_batches().max(1) as u64;
    let schema = reader.schema();
    let counted = reader.enumerate().map(move |(index, batch)| {
        read.store(size * (index as u64 + 1) / batches, Ordering::Relaxed);
        batch
    });
    Ok((schema, Box::new(counted)))
}

/// Reads a Parquet file.
pub(super) fn read_parquet(
    file: File,
    size: u64,
    read: ReadSoFar,
) -> Result<(SchemaRef, Batches), ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let total = builder.metadata().file_metadata().num_rows().max(1) as u64;
    let schema = Arc::clone(builder.schema());
    let mut rows = 0;
    let counted = builder.build()?.inspect(move |batch| {
        rows += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
        read.store(size * rows / total, Ordering::Relaxed);
    });
    Ok((schema, Box::new(counted)))
}

/// Collects batches into Arrow IPC streams. Where one ends depends on the batches alone.
pub(super) struct ArrowParts {
    schema: SchemaRef,
    target: usize,
    open: Option<StreamWriter<Vec<u8>>>,
    rows: u64,
    rows_in_open: u64,
}

impl ArrowParts {
    pub(super) fn new(schema: &SchemaRef, target: usize) -> Self {
        // Metadata is not part of an event, and would be repeated in every part.
        let fields: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| Field::clone(field).with_metadata(Default::default()))
            .collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            target,
            open: None,
            rows: 0,
            rows_in_open: 0,
        }
    }

    /// Takes a batch and gives each part that is full to `emit`; stops when that says so.
    pub(super) fn push(
        &mut self,
        batch: &RecordBatch,
        emit: &mut dyn FnMut(Part) -> bool,
    ) -> Result<bool, ArrowError> {
        let bytes_per_row = batch.get_array_memory_size() / batch.num_rows().max(1) + 1;
        let rows_per_slice = (SLICE_BYTES / bytes_per_row).max(1);
        let mut offset = 0;
        while offset < batch.num_rows() {
            let rows = rows_per_slice.min(batch.num_rows() - offset);
            let slice = batch.slice(offset, rows);
            let slice = RecordBatch::try_new(Arc::clone(&self.schema), slice.columns().to_vec())?;
            offset += rows;
            if self.open.is_none() {
                self.open = Some(StreamWriter::try_new(Vec::new(), &self.schema)?);
            }
            if let Some(open) = &mut self.open {
                open.write(&slice)?;
                self.rows_in_open += rows as u64;
                if open.get_ref().len() >= self.target && !self.close()?.is_none_or(&mut *emit) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What is left at the end.
    pub(super) fn close(&mut self) -> Result<Option<Part>, ArrowError> {
        let Some(open) = self.open.take() else {
            return Ok(None);
        };
        let line_shift = self.rows;
        self.rows += std::mem::take(&mut self.rows_in_open);
        Ok(Some(Part {
            bytes: Bytes::from(open.into_inner()?),
            line_shift,
        }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::ipc::reader::StreamReader;

    use super::*;

    #[test]
    fn parts_hold_all_rows_in_order_and_are_cut_alike_twice() {
        let batch = RecordBatch::try_from_iter([
            (
                "n",
                Arc::new(Int64Array::from_iter_values(0..50_000)) as Arc<dyn arrow::array::Array>,
            ),
            (
                "s",
                Arc::new(StringArray::from_iter_values(
                    (0..50_000).map(|n| n.to_string()),
                )),
            ),
        ])
        .unwrap();
        let cut = || {
            let mut all = Vec::new();
            let mut parts = ArrowParts::new(&batch.schema(), 100_000);
            for half in [batch.slice(0, 20_001), batch.slice(20_001, 29_999)] {
                let go_on = parts.push(&half, &mut |part| {
                    all.push(part);
                    true
                });
                assert!(go_on.unwrap());
            }
            all.extend(parts.close().unwrap());
            all
        };
        let parts = cut();
        assert!(parts.len() > 3, "{}", parts.len());
        assert_eq!(parts, cut());
        let mut rows = Vec::new();
        for part in &parts {
            let before: usize = rows.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(part.line_shift, before as u64);
            let reader = StreamReader::try_new(part.bytes.as_ref(), None).unwrap();
            rows.extend(reader.map(Result::unwrap));
        }
        assert_eq!(concat_batches(&batch.schema(), &rows).unwrap(), batch);
    }

    /// Hands out a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl std::io::Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = buffer.len().min(7).min(self.0.len() - self.1);
            buffer[..length].copy_from_slice(&self.0[self.1..self.1 + length]);
            self.1 += length;
            Ok(length)
        }
    }

    #[test]
    fn a_stream_is_read_in_pieces_and_only_as_a_whole() {
        let n = Arc::new(Int64Array::from_iter_values(0..100));
        let batch = RecordBatch::try_from_iter([("n", n as _)]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch.slice(0, 0)).unwrap();
        writer.write(&batch.slice(50, 50)).unwrap();
        let stream = writer.into_inner().unwrap();

        let read = |bytes: &[u8]| -> Result<usize, ArrowError> {
            let reader = BufReader::with_capacity(11, Slow(bytes.to_vec(), 0));
            let (schema, batches) = read_stream(Box::new(reader))?;
            assert_eq!(schema, batch.schema());
            batches.map(|batch| Ok(batch?.num_rows())).sum()
        };
        assert_eq!(read(&stream).unwrap(), 150);
        // The end-of-stream marker may be missing, or a part of it is too little.
        assert_eq!(read(&stream[..stream.len() - 8]).unwrap(), 150);
        assert!(read(&stream[..stream.len() - 12]).is_err());
        // A second stream behind the first is not left out in silence.
        assert!(read(&[&stream[..], &stream].concat()).is_err());
    }
}
