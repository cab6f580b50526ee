// SPDX-License-Identifier: Apache-2.0
//! Opens a file or a pipe: its format, its compression, how much has been read.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dovetail_log::Format;

use super::Identity;
use super::arrow::STREAM_START;
use super::split::SplitError;

const READ_BUFFER: usize = 256 << 10;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ARROW_FILE: &[u8] = b"ARROW1";
const PARQUET: &[u8] = b"PAR1";

/// Why an input cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be opened or read.
    #[error("cannot read `{name}`: {source}")]
    Read {
        /// The input.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// Its format is not known: the command line must say it.
    #[error("`{name}`: {reason}")]
    Format {
        /// The input.
        name: String,
        /// What to do about it.
        reason: String,
    },
    /// Its text cannot be cut into requests.
    #[error("`{name}`: {source}")]
    Split {
        /// The input.
        name: String,
        /// Why.
        source: SplitError,
    },
    /// Its columns cannot be read.
    #[error("`{name}` cannot be read as {format}: {reason}")]
    Columns {
        /// The input.
        name: String,
        /// As what it was read.
        format: InputFormat,
        /// Why not.
        reason: String,
    },
}

/// What `dovetail ingest` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// One JSON object per line.
    Ndjson,
    /// One JSON array of objects.
    Json,
    /// With a header line.
    Csv,
    /// Arrow IPC, a stream or a file.
    Arrow,
    /// Parquet, sent as Arrow.
    Parquet,
}

impl InputFormat {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ndjson,
        Self::Json,
        Self::Csv,
        Self::Arrow,
        Self::Parquet,
    ];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    /// Whether it is cut as text.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Ndjson | Self::Json | Self::Csv)
    }

    /// The format of the bodies it is sent in.
    pub fn wire(self) -> Format {
        match self {
            Self::Ndjson => Format::Ndjson,
            Self::Json => Format::Json,
            Self::Csv => Format::Csv,
            Self::Arrow | Self::Parquet => Format::Arrow,
        }
    }

    /// What the extension of a file says, if it is one we know. `.json` says nothing: in practice it is
    /// an array or an object per line.
    fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = [".gz", ".zst", ".zstd"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Self::Arrow),
            "parquet" | "pq" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// What the first bytes say.
    fn of_content(start: &[u8]) -> Option<Self> {
        if start.starts_with(PARQUET) {
            return Some(Self::Parquet);
        }
        if start.starts_with(ARROW_FILE) || start.starts_with(&STREAM_START) {
            return Some(Self::Arrow);
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        match text.iter().find(|byte| !byte.is_ascii_whitespace())? {
            b'{' => Some(Self::Ndjson),
            b'[' => Some(Self::Json),
            _ => None,
        }
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = if text == "jsonl" { "ndjson" } else { text };
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == name)
            .ok_or_else(|| {
                format!("`{text}` is not a format: use ndjson, json, csv, arrow or parquet")
            })
    }
}

/// Bytes of an input read so far, shared with whoever shows them.
pub(super) type ReadSoFar = Arc<AtomicU64>;

/// Where the bytes come from.
pub(super) enum Source {
    /// Decompressed bytes.
    Bytes(Box<dyn BufRead + Send>),
    /// A plain file, for formats that are read from its end.
    File(File),
}

/// An open input.
pub struct Input {
    /// For messages.
    pub name: String,
    /// Its format.
    pub format: InputFormat,
    /// Its size before decompression; not known of a pipe.
    pub size: Option<u64>,
    /// How much of that size has been read.
    pub read: Arc<AtomicU64>,
    /// The content of a file.
    pub content: Option<Identity>,
    pub(super) source: Source,
}

impl Input {
    /// Opens a file. Its format is `format`, or what its name or content says.
    ///
    /// # Errors
    /// When it cannot be read or its format is not known.
    pub fn open(path: &Path, format: Option<InputFormat>) -> Result<Self, InputError> {
        let name = path.display().to_string();
        let failed = |source| InputError::Read {
            name: name.clone(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            // A named pipe or `/dev/stdin`: no size, no second reading.
            return Self::read_from(file, name, format.or(InputFormat::of_name(path)));
        }
        let content = Identity::of_content(&mut file).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let mut start = [0; 8];
        let got = file.read(&mut start).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let start = &start[..got];

        let format = format.or(InputFormat::of_name(path));
        let compressed = start.starts_with(GZIP) || start.starts_with(ZSTD);
        let mut input = match format.or(InputFormat::of_content(start)) {
            Some(format @ (InputFormat::Parquet | InputFormat::Arrow))
                if format == InputFormat::Parquet && !compressed
                    || start.starts_with(ARROW_FILE) =>
            {
                Self {
                    format,
                    source: Source::File(file),
                    read: ReadSoFar::default(),
                    name,
                    size: None,
                    content: None,
                }
            }
            _ => Self::read_from(file, name, format)?,
        };
        input.size = Some(metadata.len());
        input.content = Some(content);
        Ok(input)
    }

    /// The standard input.
    ///
    /// # Errors
    /// When it cannot be read or its format is not known.
    pub fn stdin(format: Option<InputFormat>) -> Result<Self, InputError> {
        Self::read_from(std::io::stdin(), "standard input".to_owned(), format)
    }

    /// Reads `raw`, decompressed if it is gzip or zstd.
    fn read_from(
        raw: impl Read + Send + 'static,
        name: String,
        format: Option<InputFormat>,
    ) -> Result<Self, InputError> {
        let failed = |source| InputError::Read {
            name: name.clone(),
            source,
        };
        let read = ReadSoFar::default();
        let counted = Counted {
            inner: raw,
            read: Arc::clone(&read),
        };
        let mut raw = BufReader::with_capacity(READ_BUFFER, counted);
        let start = raw.fill_buf().map_err(failed)?;
        let mut reader: Box<dyn BufRead + Send> = if start.starts_with(GZIP) {
            let plain = flate2::bufread::MultiGzDecoder::new(raw);
            Box::new(BufReader::with_capacity(READ_BUFFER, plain))
        } else if start.starts_with(ZSTD) {
            let plain = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
            Box::new(BufReader::with_capacity(READ_BUFFER, plain))
        } else {
            Box::new(raw)
        };
        let start = reader.fill_buf().map_err(failed)?;
        let needs_file = start.starts_with(PARQUET) || start.starts_with(ARROW_FILE);
        let format = format.or(InputFormat::of_content(start));
        let reason = match format {
            _ if start.is_empty() => None,
            Some(InputFormat::Parquet) => Some("Parquet is read from its end"),
            Some(InputFormat::Arrow) if needs_file => {
                Some("the Arrow file format is read from its end")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            let reason = format!("{reason}: name an uncompressed file instead of a pipe");
            return Err(InputError::Format { name, reason });
        }
        let Some(format) = format.or(start.is_empty().then_some(InputFormat::Ndjson)) else {
            let reason =
                "its format is not known: say --format ndjson, json, csv, arrow or parquet";
            return Err(InputError::Format {
                name,
                reason: reason.to_owned(),
            });
        };
        Ok(Self {
            name,
            format,
            size: None,
            read,
            content: None,
            source: Source::Bytes(reader),
        })
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read: ReadSoFar,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn text(input: Input) -> String {
        let Source::Bytes(mut reader) = input.source else {
            panic!("not a text");
        };
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn names_and_contents_tell_formats() {
        let cases: [(&str, &[u8], InputFormat); 7] = [
            ("a.jsonl", b"", InputFormat::Ndjson),
            ("a.json", b"\n{\"a\":1}\n", InputFormat::Ndjson),
            ("a.json", b"\xef\xbb\xbf[{}]", InputFormat::Json),
            ("a.CSV.gz", b"a\n1\n", InputFormat::Csv),
            ("a.bin", b"PAR1....PAR1", InputFormat::Parquet),
            ("a.bin", b"ARROW1\0\0", InputFormat::Arrow),
            ("a.bin", b"\xff\xff\xff\xff\0", InputFormat::Arrow),
        ];
        for (name, content, format) in cases {
            let (_dir, path) = file(name, content);
            assert_eq!(Input::open(&path, None).unwrap().format, format, "{name}");
        }
        let (_dir, path) = file("a.txt", b"a,b\n");
        let error = Input::open(&path, None).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("--format"), "{error}");
        assert!(Input::open(&path, Some(InputFormat::Csv)).is_ok());
    }

    #[test]
    fn compressed_input_is_read_plain_and_counted_raw() {
        let plain = "{\"a\":1}\n".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(plain.as_bytes()).unwrap();
        let zstd = zstd::encode_all(plain.as_bytes(), 3).unwrap();
        for (name, raw) in [("a.ndjson.gz", gzip.finish().unwrap()), ("a.zst", zstd)] {
            let (_dir, path) = file(name, &raw);
            let input = Input::open(&path, None).unwrap();
            assert_eq!(input.format, InputFormat::Ndjson);
            assert_eq!(input.size, Some(raw.len() as u64));
            let read = Arc::clone(&input.read);
            assert_eq!(text(input), plain);
            assert_eq!(read.load(Ordering::Relaxed), raw.len() as u64);
        }
    }

    #[test]
    fn what_is_read_from_its_end_cannot_come_compressed() {
        let raw = zstd::encode_all(&b"PAR1...."[..], 3).unwrap();
        let (_dir, path) = file("a.parquet.zst", &raw);
        let error = Input::open(&path, None).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("uncompressed file"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Input::open(Path::new("/no/such.csv"), None)
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().starts_with("cannot read `/no/such.csv`"));
    }
}
