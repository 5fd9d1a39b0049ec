//! The export of traces and metrics, and what the daemon tells about it.

use std::sync::Arc;

use crate::{
    config::Config,
    error::Result,
    export::{Counts, Exporter, Figures},
    observe::Observer,
    stats::Exported,
    trace::Waiting,
};

/// The export, if one is configured.
pub(super) struct Exporting(Option<Exporter>);

impl Exporting {
    /// Starts exporting what is configured. `Unavailable` when files of TLS cannot be used.
    pub(super) fn begin(
        config: &Config,
        observer: &Arc<Observer>,
        spans: Option<Waiting>,
    ) -> Result<Self> {
        let counts = Arc::<Counts>::default();
        let observed = Arc::clone(observer);
        let figures: Figures = Box::new(move || {
            let observer = Arc::clone(&observed);
            Box::pin(async move { observer.snapshot().await })
        });
        let exporter = Exporter::start(config, spans, figures, Arc::clone(&counts))?;
        if exporter.is_some() {
            let otlp = &config.telemetry.otlp;
            let to = [&otlp.traces, &otlp.metrics];
            let to = to.map(|to| to.as_ref().map(|to| to.endpoint.to_string()));
            let tracer = observer.tracer().clone();
            observer.ask_for_exports(move || {
                let [traces_to, metrics_to] = to.clone();
                Exported {
                    traces_to,
                    metrics_to,
                    spans_sent: counts.spans_sent.get(),
                    spans_dropped: tracer.dropped(),
                    spans_failed: counts.spans_failed.get(),
                    metrics_sent: counts.metrics_sent.get(),
                    metrics_failed: counts.metrics_failed.get(),
                    trouble: counts.trouble(),
                }
            });
        }
        Ok(Self(exporter))
    }

    /// Begins to send what is left.
    pub(super) fn stop(&self) {
        if let Some(exporter) = &self.0 {
            exporter.stop();
        }
    }

    /// Waits until that is done, within its limit.
    pub(super) async fn end(self) {
        if let Some(exporter) = self.0 {
            exporter.end().await;
        }
    }
}
