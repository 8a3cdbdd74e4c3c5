//! Where the large bodies lie that were read last.

use std::collections::VecDeque;
use std::sync::Arc;

use super::manifest::{Manifest, Place};
use super::request::Seq;

/// So many are kept.
const KEPT: usize = 16;

/// The manifests of the large bodies read last, so that each piece does not need them all again.
#[derive(Default)]
pub(super) struct Manifests(VecDeque<(Seq, Place, Arc<Manifest>)>);

impl Manifests {
    pub(super) fn known(&self, seq: Seq, place: Place) -> Option<Arc<Manifest>> {
        let mut known = self.0.iter();
        let found = known.find(|(of, at, _)| (*of, *at) == (seq, place))?;
        Some(found.2.clone())
    }

    pub(super) fn remember(&mut self, seq: Seq, place: Place, manifest: Manifest) -> Arc<Manifest> {
        let manifest = Arc::new(manifest);
        self.0.truncate(KEPT - 1);
        self.0.push_front((seq, place, manifest.clone()));
        manifest
    }
}
