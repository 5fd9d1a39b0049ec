//! Ports for programs that cannot choose one themselves, or must come back on the same one.
//!
//! They lie below the range from which the system takes the ports of outgoing connections. So
//! nobody takes one by accident while its server is down, and a client that keeps trying a port
//! where nobody listens is never connected to itself.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

use rand::RngExt;

const FIRST: u16 = 11_000;
/// One below the range of Linux (`net.ipv4.ip_local_port_range`).
const LAST: u16 = 32_767;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on which nobody listens, and which this process gives to nobody else. Another process
/// may still take it: who starts a server there tries again with another one.
///
/// # Panics
/// When there is none.
pub(crate) fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = rand::rng();
    for _ in 0..10_000 {
        let port = random.random_range(FIRST..=LAST);
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("no port between {FIRST} and {LAST} is free");
}
