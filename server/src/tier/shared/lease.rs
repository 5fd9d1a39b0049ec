//! Leases in Redis: a record without a value in the place of the entry that somebody is computing.
//!
//! `SET NX` gives one: in one step it says that nothing is there and that nobody is at it. The
//! lifetime of the key is the holder's time. Whatever changes the key (a put, an invalidation,
//! `DEL` by another program) ends the lease with it, and Redis tells everybody of it as of any
//! change.

use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;

use super::{
    LOOKS_MAX, Result, SharedName, SharedTier, There,
    call::{Call, bytes_of, count_of},
    connection::Metering,
    end,
    scripts::REMOVE_SAME,
    trouble::unexpected,
};
use crate::{
    clock::Timestamp,
    record::{Beginning, Content, LEASE_BYTES, Record},
    stamp::Stamp,
    tier::{Leased, Stored},
};

impl SharedTier {
    /// Puts a lease in the place of an entry for `duration` if nothing is there, and tells what is
    /// if something is, in one round trip.
    pub async fn lease(
        &self,
        name: &SharedName,
        lease: &Record,
        duration: Duration,
    ) -> Result<Leased> {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let sent = self.clock.now();
        let key = name.as_bytes();
        let calls = vec![
            Call::write(key, lease.as_bytes().clone(), millis, true),
            Call::beginning(key),
            Call::time_left(key),
        ];
        let replies = self.connection.calls(calls, Metering::Counted).await?;
        let [set, head, left] =
            <[_; 3]>::try_from(replies).map_err(|_| unexpected("a pipeline"))?;
        match set? {
            Value::Null => {}
            told if bytes_of(told.clone()).as_deref() == Some(b"OK") => return Ok(Leased::Given),
            _ => return Err(unexpected("SET")),
        }
        // Longer, perhaps, than entries of the namespace live.
        let until = match &left {
            Ok(Value::Integer(left)) => {
                sent.after(Duration::from_millis((*left).max(0).unsigned_abs()))
            }
            _ => sent,
        };
        let content = there(sent, head, left, name)?.map(|there| there.record.content);
        Ok(match content {
            Some(Content::Lease) => Leased::Held(until),
            Some(Content::Elsewhere) => Leased::Withheld,
            Some(Content::Value) | None => Leased::Taken,
        })
    }

    /// Removes the lease with this stamp if it is still there; tells whether it was.
    pub async fn remove_lease(&self, name: &SharedName, stamp: Stamp) -> Result<bool> {
        let stamp = Bytes::copy_from_slice(stamp.as_bytes());
        let args = [stamp, LEASE_BYTES.to_string().into()];
        let removed = self.run(&REMOVE_SAME, name.as_bytes(), &args).await?;
        Ok(count_of("a script", &removed)? > 0)
    }

    /// Notes that the entry of this version is being computed anew, for `duration`; tells whether
    /// nobody had.
    pub async fn mark_refresh(
        &self,
        key_prefix: &str,
        version: &Stamp,
        duration: Duration,
    ) -> Result<bool> {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        // No namespace begins so.
        let key = Bytes::from(format!("{key_prefix}!refresh:{version:?}"));
        let call = Call::write(&key, Bytes::from_static(b"1"), millis, true);
        match self.connection.call(call).await? {
            Value::Null => Ok(false),
            told if bytes_of(told.clone()).as_deref() == Some(b"OK") => Ok(true),
            _ => Err(unexpected("SET")),
        }
    }

    /// As [`SharedTier::check`], leases included.
    pub async fn check_or_lease(&self, name: &SharedName) -> Result<Option<There>> {
        let sent = self.clock.now();
        let key = name.as_bytes();
        let calls = vec![Call::beginning(key), Call::time_left(key)];
        let [head, left] = self.two(calls).await?;
        there(sent, head, left, name)
    }

    /// Writes if nothing is there but a lease, which ends by it.
    pub(super) async fn put_absent(
        &self,
        name: &SharedName,
        value: &Bytes,
        millis: i64,
    ) -> Result<Stored> {
        for _ in 0..LOOKS_MAX {
            let stored = self.set(name, value.clone(), millis, true).await?;
            if stored != Stored::Refused || name.is_raw() {
                return Ok(stored);
            }
            let lease = match self.check_or_lease(name).await? {
                // Gone meanwhile, or no record: another try tells.
                None => continue,
                Some(there) if there.record.content != Content::Lease => {
                    return Ok(Stored::Refused);
                }
                Some(there) => there.record.stamp,
            };
            let stored = self.put_version(name, value.clone(), millis, lease).await?;
            if stored != Stored::Refused {
                return Ok(stored);
            }
        }
        Ok(Stored::Refused)
    }
}

/// What the beginning of a value and its remaining lifetime say.
fn there(
    sent: Timestamp,
    head: Result<Value>,
    left: Result<Value>,
    name: &SharedName,
) -> Result<Option<There>> {
    let head = match head {
        Err(error) if error.is_wrong_type() => return Ok(None),
        head => bytes_of(head?).ok_or_else(|| unexpected("GETRANGE"))?,
    };
    let expires = end(sent, &left?, name)?;
    let there = Beginning::read(&head).zip(expires);
    Ok(there.map(|(record, expires)| There { record, expires }))
}
