//! Resident memory of a daemon that has nothing to do.

use std::thread;

use super::{Bench, section::Section, statistics::median};

/// MiB that an idle daemon may keep resident.
const RESIDENT_MIB_MAX: f64 = 40.0;
const MIB: f64 = (1 << 20) as f64;

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let folder = bench.folder("memory")?;
    let mut sizes = Vec::new();
    for start in 0..bench.effort.starts {
        let data = folder.join(start.to_string());
        let daemon = bench.programs.start_pannierd("127.0.0.1:0", &data, &[])?;
        thread::sleep(bench.effort.idle);
        sizes.push(daemon.resident_bytes()? / MIB);
        daemon.stop()?;
    }
    let mut section = Section::new("Memory");
    section.note(format!(
        "`VmRSS` of a daemon with default settings and an empty folder, {} after its start; median \
         of {} starts.",
        humantime::format_duration(bench.effort.idle),
        bench.effort.starts,
    ));
    section.at_most(
        "resident memory, idle",
        median(sizes),
        RESIDENT_MIB_MAX,
        " MiB",
    );
    Ok(section)
}
