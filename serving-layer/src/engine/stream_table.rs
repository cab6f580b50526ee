// SPDX-License-Identifier: Apache-2.0
//! A stream as a table: the raw log and the live tail behind it, with one seam between them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, col, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use datafusion::scalar::ScalarValue;
use dovetail_log::raw::{EventTimeRange, RawScan};
use dovetail_model::{EXCLUDED, Exclusion, Position, Span};
use dovetail_seam::{HeldCut, HeldEvents};
use dovetail_view::exclusion_predicate;

use super::external;
use super::fetched::Fetched;

/// Reads the stream of a cut.
#[derive(Debug)]
pub(crate) struct StreamTable {
    cut: Arc<HeldCut>,
    events: HeldEvents,
    /// Events before this position are read.
    upto: Position,
    exclusions: Vec<Exclusion>,
    /// The columns that the question can see.
    schema: SchemaRef,
    fetched: Fetched,
}

impl StreamTable {
    /// `upto` is the cut's position, or one that is archived. `exclusions` are those in force; `system_columns` says whether the question may name `_partition`,
    /// `_offset`, `_arrived_at` and `_excluded`.
    pub(crate) fn new(
        cut: Arc<HeldCut>,
        events: HeldEvents,
        upto: Position,
        exclusions: Vec<Exclusion>,
        system_columns: bool,
    ) -> Self {
        let declared = &cut.stream.schema;
        let schema = if system_columns {
            let mut fields = declared.events().fields().to_vec();
            // Never null in fact, but a predicate may be, and the engine sees no further.
            fields.push(Arc::new(Field::new(EXCLUDED, DataType::Boolean, true)));
            Arc::new(Schema::new(fields))
        } else {
            declared.declared()
        };
        Self {
            cut,
            events,
            upto,
            exclusions,
            schema,
            fetched: Fetched::default(),
        }
    }

    /// The raw log and the tail as one plan over the events schema.
    async fn events(
        &self,
        session: &dyn Session,
        event_time: Option<EventTimeRange>,
        columns: &[usize],
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let HeldEvents {
            raw,
            archived,
            tail,
        } = &self.events;
        let whole = self.upto == self.cut.position;
        let end = if whole { archived } else { &self.upto };
        let scan = raw
            .scan(RawScan {
                columns: Some(columns.to_vec()),
                event_time,
                target_partitions: partitions,
                ..RawScan::of(Span::up_to(end.clone()))
            })
            .map_err(external)?;
        if !whole || *archived == self.cut.position {
            return Ok(scan);
        }
        let reserved = self.fetched.reserve(&session.runtime_env().memory_pool);
        let mut account = |bytes| reserved.grow(bytes);
        let tail = tail.fetch(columns, &mut account).await;
        let tail = tail.map_err(external)?;
        let tail = MemorySourceConfig::try_new_exec(&[tail], scan.schema(), None)?;
        UnionExec::try_new(vec![scan, tail])
    }

    /// The bounds that the filters set on the event time, to prune segments with.
    fn event_time_range(&self, filters: &[Expr]) -> Option<EventTimeRange> {
        let column = &self.cut.stream.schema.event_time.as_ref()?.column;
        let mut range = EventTimeRange::default();
        for filter in filters {
            let Expr::BinaryExpr(binary) = filter else {
                continue;
            };
            let (Expr::Column(name), Expr::Literal(value, _)) =
                (binary.left.as_ref(), binary.right.as_ref())
            else {
                continue;
            };
            let (true, Some(us)) = (name.name == *column, microseconds(value)) else {
                continue;
            };
            match binary.op {
                Operator::GtEq | Operator::Gt => {
                    range.from = Some(range.from.map_or(us, |from| from.max(us)))
                }
                Operator::Lt => range.to = Some(range.to.map_or(us, |to| to.min(us))),
                Operator::LtEq => {
                    let to = us.saturating_add(1);
                    range.to = Some(range.to.map_or(to, |bound| bound.min(to)));
                }
                Operator::Eq => {
                    range = EventTimeRange {
                        from: Some(us),
                        to: Some(us.saturating_add(1)),
                    };
                }
                _ => {}
            }
        }
        (range != EventTimeRange::default()).then_some(range)
    }
}

/// A literal of the event time's type in microseconds; a date is its midnight.
fn microseconds(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampMicrosecond(us, None) => *us,
        ScalarValue::Date32(days) => days.map(|days| i64::from(days) * 86_400_000_000),
        _ => None,
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let events = self.cut.stream.schema.events();
        let width = events.fields().len();
        let needs_excluded = wanted.iter().any(|index| *index >= width);
        let range = self.event_time_range(filters);
        let partitions = session.config().target_partitions();
        if !needs_excluded {
            return self.events(session, range, &wanted, partitions).await;
        }
        let all: Vec<usize> = (0..width).collect();
        let plan = self.events(session, range, &all, partitions).await?;
        let excluded =
            exclusion_predicate(&self.exclusions, &self.cut.stream.schema).map_err(external)?;
        let excluded: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(
            excluded,
            Operator::IsNotDistinctFrom,
            lit(true),
        ));
        let expressions = wanted.iter().map(|index| {
            if *index >= width {
                return Ok(ProjectionExpr {
                    expr: Arc::clone(&excluded),
                    alias: EXCLUDED.to_owned(),
                });
            }
            let name = events.field(*index).name();
            Ok(ProjectionExpr {
                expr: col(name, &events)?,
                alias: name.clone(),
            })
        });
        let expressions = expressions.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(expressions, plan)?))
    }
}
