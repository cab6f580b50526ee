// SPDX-License-Identifier: Apache-2.0
//! A store on which writers of generations' files wait at a gate, so that a test sees who computes at one moment, and whose
//! catalog can be out of reach.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use async_trait::async_trait;
use dovetail_model::ViewId;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// A store in memory with a gate in front of the files of generations. It is open at first.
#[derive(Debug)]
pub struct GatedStore {
    inner: InMemory,
    open: watch::Sender<bool>,
    catalog_lost: AtomicBool,
    at_gate: Mutex<AtGate>,
    /// Whether whoever is at the gate keeps its thread there, as an engine does that does not give way.
    stuck: Mutex<bool>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct AtGate {
    now: Vec<String>,
    seen: BTreeSet<Vec<String>>,
}

impl GatedStore {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            open: watch::Sender::new(true),
            catalog_lost: AtomicBool::new(false),
            at_gate: Mutex::default(),
            stuck: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    /// Opens or closes the gate.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// Loses the catalog, or brings it back: no request for it is answered meanwhile.
    pub fn set_catalog_lost(&self, lost: bool) {
        self.catalog_lost.store(lost, Ordering::Relaxed);
    }

    /// Keeps the threads of whoever comes to the gate, until this is taken back.
    pub fn set_stuck(&self, stuck: bool) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
        self.freed.notify_all();
    }

    fn is_stuck(&self) -> bool {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while_stuck(&self) {
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let freed = self.freed.wait_while(stuck, |stuck| *stuck);
        drop(freed.unwrap_or_else(PoisonError::into_inner));
    }

    fn check_reach(&self, path: &Path) -> Result<()> {
        if path.as_ref().starts_with("catalog/") && self.catalog_lost.load(Ordering::Relaxed) {
            return Err(Error::Generic {
                store: "gated",
                source: "connection refused".into(),
            });
        }
        Ok(())
    }

    /// The views whose files wait at the gate now.
    pub fn waiting(&self) -> Vec<ViewId> {
        let at_gate = self.at_gate.lock().unwrap_or_else(PoisonError::into_inner);
        at_gate.now.iter().map(|id| id_of(id)).collect()
    }

    /// Each set of views that ever had a file at the gate at one moment.
    pub fn seen(&self) -> Vec<Vec<ViewId>> {
        let at_gate = self.at_gate.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = at_gate.seen.iter();
        seen.map(|ids| ids.iter().map(|id| id_of(id)).collect())
            .collect()
    }

    /// `view` arrives at the gate, or leaves it.
    fn note(&self, view: &str, arrives: bool) {
        let mut at_gate = self.at_gate.lock().unwrap_or_else(PoisonError::into_inner);
        if arrives {
            at_gate.now.push(view.to_owned());
        } else if let Some(place) = at_gate.now.iter().position(|id| id == view) {
            at_gate.now.remove(place);
        }
        let mut now = at_gate.now.clone();
        now.sort_unstable();
        at_gate.seen.insert(now);
    }
}

fn id_of(text: &str) -> ViewId {
    text.parse().expect("the id of a view")
}

/// Of a generation's file, the view's id.
fn view_of_file(path: &Path) -> Option<&str> {
    let mut parts = path.as_ref().split('/');
    let is_of_views = parts.next() == Some("views");
    let view = parts.next().filter(|_| is_of_views)?;
    (parts.next() == Some("files") && parts.count() == 1).then_some(view)
}

/// Leaves the gate, also when the put is given up.
struct Arrived<'a>(&'a GatedStore, &'a str);

impl Drop for Arrived<'_> {
    fn drop(&mut self) {
        self.0.note(self.1, false);
    }
}

impl fmt::Display for GatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for GatedStore {
    async fn put_opts(
        &self,
        path: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.check_reach(path)?;
        let Some(view) = view_of_file(path) else {
            return self.inner.put_opts(path, data, options).await;
        };
        self.note(view, true);
        let _arrived = Arrived(self, view);
        self.wait_while_stuck();
        let mut open = self.open.subscribe();
        let opened = open.wait_for(|open| *open).await;
        drop(opened.expect("the sender lives as long as the store"));
        self.inner.put_opts(path, data, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.check_reach(path)?;
        // A run reads its base on its own thread, and writes files on others, which it can leave behind.
        if let Some(view) = view_of_file(path)
            && self.is_stuck()
        {
            self.note(view, true);
            let _arrived = Arrived(self, view);
            self.wait_while_stuck();
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
