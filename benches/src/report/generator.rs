//! Runs `pannier bench --json` and reads what it measured.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde::Deserialize;

/// What was measured in one run. Fields that the report does not need are left out.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Measured {
    pub(super) operations_with_warm_up: u64,
    pub(super) operations_per_second: f64,
    pub(super) keys_per_second: f64,
    pub(super) errors: u64,
    pub(super) hit_rate: Option<f64>,
    pub(super) latency_us: Latencies,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Latencies {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// What the preload did.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Preload {
    pub(super) puts: u64,
    pub(super) errors: u64,
    pub(super) value_bytes: u64,
    pub(super) mib_per_second: f64,
}

#[derive(Debug, Deserialize)]
struct Output {
    preload: Option<Preload>,
    measured: Option<Measured>,
    error: Option<String>,
}

/// The load generator.
#[derive(Debug)]
pub(super) struct Generator {
    program: PathBuf,
}

impl Generator {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Loads the key set, if there is one, and measures as the flags say.
    ///
    /// # Errors
    /// When the generator breaks down, a call fails or a key is not found.
    pub(super) fn measure(&self, target: &str, flags: &[String]) -> Result<Measured, String> {
        let output = self.run(target, flags)?;
        let measured = output.measured.ok_or("the generator measured nothing")?;
        if measured.errors > 0 {
            let error = output.error.unwrap_or_default();
            return Err(format!(
                "{} calls to {target} failed: {error}",
                measured.errors
            ));
        }
        match measured.hit_rate {
            Some(rate) if rate < 1.0 => Err(format!(
                "only {:.3} % of the reads from {target} were hits",
                rate * 100.0
            )),
            _ => Ok(measured),
        }
    }

    /// Only puts the key set. Puts that fail are counted.
    pub(super) fn preload(&self, target: &str, flags: &[String]) -> Result<Preload, String> {
        let flags: Vec<_> = flags
            .iter()
            .cloned()
            .chain(["--operations=0".to_owned()])
            .collect();
        let output = self.run(target, &flags)?;
        output
            .preload
            .ok_or_else(|| "the generator put nothing".to_owned())
    }

    /// Puts the key set; a put that fails is an error.
    pub(super) fn preload_all(&self, target: &str, flags: &[String]) -> Result<Preload, String> {
        let preload = self.preload(target, flags)?;
        match preload.errors {
            0 => Ok(preload),
            errors => Err(format!(
                "{errors} of {} puts to {target} failed",
                preload.puts
            )),
        }
    }

    fn run(&self, target: &str, flags: &[String]) -> Result<Output, String> {
        let output = Command::new(&self.program)
            .args(["--addr", target, "--namespace", "bench", "--json", "bench"])
            .args(flags)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "the generator ended with {}: {message}",
                output.status
            ));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("the generator's output cannot be read: {error}"))
    }
}
