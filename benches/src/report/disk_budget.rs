//! Whether the local tier stays within its budget while far more is put than fits.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{
    Bench,
    generator::Preload,
    section::{Section, number},
};

const BUDGET: &str = "256MiB";
const BUDGET_MIB: f64 = 256.0;
const OVERSHOOT_PERCENT_MAX: f64 = 10.0;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// Unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let data = bench.folder("disk")?.join("data");
    let listen = "127.0.0.1:0";
    let daemon = bench
        .programs
        .start_pannierd(listen, &data, &["--disk-budget", BUDGET])?;
    let flags = [
        format!("--keys={}", bench.effort.budget_puts),
        "--value-size=256KiB".to_owned(),
        "--in-flight=4".to_owned(),
    ];
    let (sizes, preload) =
        while_sampling(&data, || bench.generator.preload(daemon.address(), &flags));
    let preload = preload?;
    daemon.stop()?;
    Ok(section(&sizes, &preload))
}

fn section(sizes: &[f64], preload: &Preload) -> Section {
    let worst = sizes.iter().copied().fold(0.0, f64::max);
    let last = sizes.last().copied().unwrap_or_default();
    let overshoot = (worst / BUDGET_MIB - 1.0).max(0.0) * 100.0;
    let mut section = Section::new("Disk budget");
    section.note(format!(
        "`--disk-budget {BUDGET}`; {} random values of 256 KiB each are put under different keys, \
         {:.0} MiB in all, 4 connections with 4 calls in flight. Meanwhile the blocks of all files \
         of the data folder are added up every {} ms, {} times.",
        preload.puts,
        to_mib(preload.value_bytes),
        SAMPLE_INTERVAL.as_millis(),
        sizes.len(),
    ));
    section.at_most(
        "worst size beyond the budget",
        overshoot,
        OVERSHOOT_PERCENT_MAX,
        " %",
    );
    section.at_most("puts that failed", preload.errors as f64, 0.0, "");
    section.inform("worst size", format!("{} MiB", number(worst)));
    section.inform("size at the end", format!("{} MiB", number(last)));
    section.inform(
        "written",
        format!("{} MiB/s", number(preload.mib_per_second)),
    );
    section
}

/// Does `work` and meanwhile takes the size of `folder`, in MiB, again and again.
fn while_sampling<T>(folder: &Path, work: impl FnOnce() -> T) -> (Vec<f64>, T) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut sizes = Vec::new();
            loop {
                let last = done.load(Ordering::Relaxed);
                sizes.push(to_mib(size_on_disk(folder)));
                if last {
                    return sizes;
                }
                thread::sleep(SAMPLE_INTERVAL);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (sampler.join().unwrap_or_default(), result)
    })
}

/// Bytes of the blocks of all files below `folder`; files that vanish meanwhile count nothing.
fn size_on_disk(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        let inside = if metadata.is_dir() {
            size_on_disk(&entry.path())
        } else {
            0
        };
        Some(metadata.blocks() * BLOCK_BYTES + inside)
    };
    entries.filter_map(size).sum()
}

fn to_mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{size_on_disk, while_sampling};

    #[test]
    fn files_in_folders_are_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("it is not there yet");
        fs::write(inner.join("file"), vec![1; 1 << 20]).expect("it is writable");
        assert!(size_on_disk(folder.path()) >= 1 << 20);
        let (sizes, answer) = while_sampling(folder.path(), || 42);
        assert_eq!(answer, 42);
        assert!(sizes.iter().all(|size| *size >= 1.0) && !sizes.is_empty());
    }
}
