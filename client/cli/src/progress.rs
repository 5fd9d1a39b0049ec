//! A progress bar for long transfers.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Values up to this size are through before a bar would be read.
const QUIET_BYTES_MAX: u64 = 8 * 1024 * 1024;

const TEMPLATE: &str = "{bytes:>10} / {total_bytes} {bar:30} {binary_bytes_per_sec} {eta}";

/// A bar on stderr; a silent one when stderr is no terminal or the value is small or of unknown
/// size. It vanishes when dropped.
pub(crate) fn bar(size_bytes: Option<u64>) -> ProgressBar {
    match size_bytes {
        Some(size) if size > QUIET_BYTES_MAX && std::io::stderr().is_terminal() => {
            let style = ProgressStyle::with_template(TEMPLATE)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(size)
                .with_style(style)
                .with_finish(indicatif::ProgressFinish::AndClear)
        }
        _ => ProgressBar::hidden(),
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressStyle;

    #[test]
    fn the_template_is_understood() {
        assert!(ProgressStyle::with_template(super::TEMPLATE).is_ok());
    }
}
