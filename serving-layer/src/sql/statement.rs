// SPDX-License-Identifier: Apache-2.0
//! What a statement asks for.

use std::fmt;

use dovetail_model::{Column, KafkaSettings, StreamSchema, VolumeTrigger};

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Changes what there is; needs the admin role.
    Define(Definition),
    /// Lists what there is.
    Show(Show),
    /// A SELECT or EXPLAIN, as its text without a trailing semicolon.
    Query(String),
}

/// Streams and views share one name space and much of their grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A stream.
    Stream,
    /// A view.
    View,
}

impl ObjectKind {
    /// `stream` or `view`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::View => "view",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A statement that changes what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    /// `CREATE STREAM [IF NOT EXISTS] name (…) [WITH (…)]`
    CreateStream(CreateStream),
    /// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name [WITH (…)] AS SELECT …`
    CreateView(CreateView),
    /// `ALTER STREAM name ADD COLUMN name type, ALTER COLUMN name DROP NOT NULL`
    AlterStream(AlterStream),
    /// `ALTER STREAM name SKIP HOLE`: it goes on without what its topic lost.
    SkipHole {
        /// The stream.
        name: String,
    },
    /// `ALTER VIEW name SET (…)`
    AlterView(AlterView),
    /// `DROP STREAM|VIEW [IF EXISTS] name`
    Drop {
        /// What it drops.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Whether it may be missing.
        if_exists: bool,
    },
    /// `UNDROP STREAM|VIEW name`: the one of that name that was dropped last.
    Undrop {
        /// What it restores.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
}

impl Definition {
    /// The statement's leading words, such as `CREATE STREAM`.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::CreateStream(_) => "CREATE STREAM",
            Self::CreateView(_) => "CREATE VIEW",
            Self::AlterStream(_) | Self::SkipHole { .. } => "ALTER STREAM",
            Self::AlterView(_) => "ALTER VIEW",
            Self::Drop { kind, .. } => match kind {
                ObjectKind::Stream => "DROP STREAM",
                ObjectKind::View => "DROP VIEW",
            },
            Self::Undrop { kind, .. } => match kind {
                ObjectKind::Stream => "UNDROP STREAM",
                ObjectKind::View => "UNDROP VIEW",
            },
        }
    }

    /// The name of the stream or view.
    pub fn name(&self) -> &str {
        match self {
            Self::CreateStream(CreateStream { name, .. })
            | Self::CreateView(CreateView { name, .. })
            | Self::AlterStream(AlterStream { name, .. })
            | Self::SkipHole { name }
            | Self::AlterView(AlterView { name, .. })
            | Self::Drop { name, .. }
            | Self::Undrop { name, .. } => name,
        }
    }
}

/// `CREATE STREAM`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateStream {
    /// Its name; passes [`dovetail_model::check_name`].
    pub name: String,
    /// Whether it may be there already.
    pub if_not_exists: bool,
    /// Its columns and options; passes [`StreamSchema::check`].
    pub schema: StreamSchema,
    /// The Kafka topic that it reads; none for a stream of the embedded log.
    pub kafka: Option<Box<KafkaSettings>>,
}

/// `CREATE VIEW`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateView {
    /// Its name; passes [`dovetail_model::check_name`].
    pub name: String,
    /// Whether it redefines a view that is there already.
    pub or_replace: bool,
    /// Whether it may be there already.
    pub if_not_exists: bool,
    /// Its schedules.
    pub options: ViewOptions,
    /// The SELECT, as text without a trailing semicolon.
    pub select: String,
}

/// The schedules of a view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// Cron (five fields, UTC) of full runs; checked.
    pub recompute: Option<String>,
    /// Archived volume at which a full run starts.
    pub recompute_after: VolumeTrigger,
    /// Seconds between incremental runs, at least 1.
    pub refresh_s: Option<u64>,
}

/// `ALTER STREAM … ADD COLUMN …, ALTER COLUMN … DROP NOT NULL`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlterStream {
    /// The stream.
    pub name: String,
    /// The columns to add, all nullable: earlier events have no value for them.
    pub add: Vec<AddColumn>,
    /// The columns that may be NULL from now on.
    pub drop_not_null: Vec<String>,
}

/// `ADD COLUMN [IF NOT EXISTS] name type`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddColumn {
    /// The column.
    pub column: Column,
    /// Whether a column of that name, of whatever type, may be there already; then it stays as it is.
    pub if_not_exists: bool,
}

/// `ALTER VIEW … SET (…)`. An option that is not named stays; `NULL` takes it away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlterView {
    /// The view.
    pub name: String,
    /// The new cron of full runs, if it changes.
    pub recompute: Option<Option<String>>,
    /// The new events at which a full run starts, if they change.
    pub recompute_after_events: Option<Option<u64>>,
    /// The new bytes at which a full run starts, if they change.
    pub recompute_after_bytes: Option<Option<u64>>,
    /// The new seconds between incremental runs, if they change.
    pub refresh_s: Option<Option<u64>>,
}

/// A statement that lists what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// `SHOW STREAMS`
    Streams,
    /// `SHOW VIEWS`
    Views,
    /// `SHOW TABLES`: both.
    Tables,
    /// `SHOW RUNS`
    Runs,
    /// `DESCRIBE name`: the columns of a stream or view.
    Columns(String),
    /// `SHOW CREATE STREAM|VIEW name`: its declaration.
    Create(ObjectKind, String),
}
