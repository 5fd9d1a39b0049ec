//! Logs: tracing, human on a terminal, JSON otherwise, on stderr.
//!
//! What is never logged: values, secrets; keys only shortened (`key::Shown`).

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::config::{LogFormat, TelemetryConfig};

/// Installs the log output of the process. Once; later calls do nothing.
pub fn install(config: &TelemetryConfig) {
    // The directives were checked when the configuration was read.
    let filter: Targets = config.log.parse().unwrap_or_default();
    let terminal = stderr().is_terminal();
    let human = match config.log_format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if human {
        fmt::layer()
            .with_writer(stderr)
            .with_ansi(terminal)
            .with_target(false)
            .boxed()
    } else {
        fmt::layer().json().with_writer(stderr).boxed()
    };
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
}
