//! Where and of what the report was made: figures without it mean nothing.

use std::{fs, path::Path, time::SystemTime};

use super::process::{Programs, version};

/// Every version that was built, by name: the lock file of the workspace.
const LOCK_FILE: &str = include_str!("../../../Cargo.lock");
/// Libraries whose version matters for the figures.
const LIBRARIES: [&str; 5] = ["tonic", "tokio", "rocksdb", "librocksdb-sys", "fred"];

/// A table of the machine and the versions.
pub(super) fn describe(programs: &Programs, scratch: &Path) -> String {
    let libraries: Vec<_> = LIBRARIES
        .iter()
        .filter_map(|name| locked_version(name))
        .collect();
    let rows = [
        (
            "date",
            humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        ),
        ("processor", processor()),
        ("memory", memory()),
        ("kernel", first_line("/proc/sys/kernel/osrelease")),
        ("file system of the data", file_system(scratch)),
        ("load before the start", first_line("/proc/loadavg")),
        (
            "daemon",
            version(programs.pannierd().as_os_str()).unwrap_or_else(unknown),
        ),
        (
            "generator",
            version(programs.pannier().as_os_str()).unwrap_or_else(unknown),
        ),
        ("libraries", libraries.join(", ")),
    ];
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("| {name} | {value} |\n"))
        .collect();
    format!("| | |\n|---|---|\n{rows}")
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_else(unknown)
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    format!("{cores} cores, {model}")
}

fn memory() -> String {
    field("/proc/meminfo", "MemTotal")
        .and_then(|total| total.strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or_else(unknown, |kibibytes| format!("{} MiB", kibibytes / 1024))
}

/// The value of the first line `name : value`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()))
}

/// The type of the file system with the longest mount point above `path`.
fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(mount_point, _)| path.starts_with(mount_point))
        .max_by_key(|(mount_point, _)| mount_point.len())
        .map_or_else(unknown, |(_, kind)| kind.to_owned())
}

fn locked_version(name: &str) -> Option<String> {
    let (_, after) = LOCK_FILE.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    let (version, _) = after.split_once('"')?;
    Some(format!("{name} {version}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{file_system, locked_version};

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(locked_version("tonic").is_some_and(|text| text.starts_with("tonic 0.")));
        assert_eq!(locked_version("no-such-library"), None);
    }

    #[test]
    fn the_proc_file_system_is_recognised() {
        assert_eq!(file_system(Path::new("/proc/self")), "proc");
    }
}
