//! A link to Redis that is longer than it is: what goes through takes a fixed time each way.
//!
//! Threads that sleep, not tasks: a timer of the runtime is coarser than the delay.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const READ_BYTES: usize = 64 << 10;

/// Listens on loopback and forwards to `target`, every read `each_way` later. Its threads end with
/// their connections, the one that accepts with the process.
pub(super) fn start(target: SocketAddr, each_way: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for accepted in listener.incoming() {
            // A connection that cannot be forwarded is closed, which its owner sees.
            let _ = accepted.and_then(|near| serve(near, target, each_way));
        }
    });
    Ok(address)
}

fn serve(near: TcpStream, target: SocketAddr, each_way: Duration) -> io::Result<()> {
    let far = TcpStream::connect(target)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        thread::spawn(move || {
            // Either side has gone: the other is told.
            let _ = forward(&from, &to, each_way);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
    Ok(())
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, each_way: Duration) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        thread::sleep(each_way);
        to.write_all(&buffer[..length])?;
    }
}
