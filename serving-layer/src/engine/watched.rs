// SPDX-License-Identifier: Apache-2.0
//! A leaf of a plan whose batches are handed on only while somebody waits for them.
//!
//! Operators that put nothing out before they have read everything yield once in 128 batches of a scan. Invariant: it
//! has the very properties of its leaf, so parents that are rebuilt over it stay as they were, with the filters that
//! they tell the scan while they run.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};

use super::interrupt::Interrupt;

/// Reads `leaf`, and stops when `interrupt` says so.
#[derive(Debug)]
pub(super) struct Watched {
    leaf: Arc<dyn ExecutionPlan>,
    interrupt: Interrupt,
}

impl Watched {
    pub(super) fn new(leaf: Arc<dyn ExecutionPlan>, interrupt: &Interrupt) -> Self {
        let interrupt = interrupt.clone();
        Self { leaf, interrupt }
    }
}

impl DisplayAs for Watched {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched")
    }
}

impl ExecutionPlan for Watched {
    fn name(&self) -> &str {
        "Watched"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.leaf.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.leaf]
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [leaf] = <[_; 1]>::try_from(children)
            .map_err(|_| DataFusionError::Internal("one leaf is watched".to_owned()))?;
        Ok(Arc::new(Self::new(leaf, &self.interrupt)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.leaf.execute(partition, context)?;
        Ok(self.interrupt.watch(rows))
    }
}
