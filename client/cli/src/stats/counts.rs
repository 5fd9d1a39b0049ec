//! Counters: of each namespace and of all.

use pannier_client::proto::{Counters, NamespaceStats};
use serde::Serialize;

use super::table::table;
use crate::output;

const HEAD: [&str; 9] = [
    "NAMESPACE",
    "HITS",
    "MISSES",
    "HIT RATE",
    "STALE",
    "PUTS",
    "INVALIDATIONS",
    "ERRORS",
    "REFUSALS",
];

/// What counted, of each namespace and of all together.
#[derive(Debug, Serialize)]
pub(super) struct Counts {
    total: CountsView,
    namespaces: Vec<NamespaceView>,
}

#[derive(Debug, Serialize)]
struct NamespaceView {
    namespace: String,
    #[serde(flatten)]
    counts: CountsView,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct CountsView {
    hits: u64,
    // Of the hits, those from the shared tier.
    shared_hits: u64,
    misses: u64,
    // Part of the reads that were hits, 0 to 1; null before the first read.
    hit_rate: Option<f64>,
    // Of the hits, those marked stale.
    stale: u64,
    puts: u64,
    invalidations: u64,
    errors: u64,
    refusals: u64,
}

impl Counts {
    pub(super) fn new(total: Option<Counters>, namespaces: Vec<NamespaceStats>) -> Self {
        let namespaces = namespaces.into_iter().map(|namespace| NamespaceView {
            namespace: namespace.namespace,
            counts: CountsView::new(namespace.counters.unwrap_or_default()),
        });
        Self {
            total: CountsView::new(total.unwrap_or_default()),
            namespaces: namespaces.collect(),
        }
    }

    pub(super) fn table(&self) -> String {
        let head = HEAD.map(str::to_owned).to_vec();
        let each = self.namespaces.iter().map(|it| {
            let name = output::printable(&it.namespace);
            it.counts.row(name)
        });
        let total = self.total.row("total".to_owned());
        let rows: Vec<_> = [head].into_iter().chain(each).chain([total]).collect();
        table(&rows)
    }
}

impl CountsView {
    fn new(counters: Counters) -> Self {
        let reads = counters.hits.saturating_add(counters.misses);
        Self {
            hits: counters.hits,
            shared_hits: counters.shared_hits,
            misses: counters.misses,
            hit_rate: (reads > 0).then(|| counters.hits as f64 / reads as f64),
            stale: counters.stale,
            puts: counters.puts,
            invalidations: counters.invalidations,
            errors: counters.errors,
            refusals: counters.refusals,
        }
    }

    fn row(&self, name: String) -> Vec<String> {
        let rate = self
            .hit_rate
            .map_or("-".to_owned(), |rate| format!("{:.1}%", rate * 100.0));
        vec![
            name,
            self.hits.to_string(),
            self.misses.to_string(),
            rate,
            self.stale.to_string(),
            self.puts.to_string(),
            self.invalidations.to_string(),
            self.errors.to_string(),
            self.refusals.to_string(),
        ]
    }
}
