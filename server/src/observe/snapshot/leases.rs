//! Figures of leases.

use super::super::{Observer, calls::Operation};
use crate::metrics::{Family, Kind};

impl Observer {
    pub(super) fn of_leases(&self, families: &mut Vec<Family>) {
        let counts = self.engine.lease_counts();
        let waiting = counts.waiting.get() as u64;
        #[rustfmt::skip]
        let plain = [
            ("cache.leases.waiting", "{request}", Kind::UpDownCounter, waiting,
             "Reads that ask for a lease or wait for the value of who has it."),
            ("cache.leases.granted", "{lease}", Kind::Counter, counts.granted.get(),
             "Leases given: callers told to compute a missing value."),
            ("cache.leases.refreshes", "{lease}", Kind::Counter, counts.refreshes.get(),
             "Leases given early: callers told to compute an entry anew before it ends."),
            ("cache.leases.waited", "{request}", Kind::Counter, counts.waited.get(),
             "Reads that began to wait for another caller's value."),
            ("cache.leases.timed_out", "{request}", Kind::Counter, counts.timed_out.get(),
             "Reads whose time was over before the value came."),
            ("cache.leases.refused", "{put}", Kind::Counter, counts.refused.get(),
             "Puts refused because their lease had ended."),
            ("cache.leases.crowded", "{request}", Kind::Counter, counts.crowded.get(),
             "Reads that took no part because too many did."),
        ];
        let help = "Time waited for the value that another caller has the lease to compute.";
        families.push(self.of_operation(Operation::Lease, "cache.lease.wait", help));
        for (name, unit, kind, value, help) in plain {
            families.push(Family::new(name, unit, kind, help).of(value));
        }
    }
}
