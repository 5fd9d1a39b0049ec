//! The scripts: what must be looked at and done in one step.
//!
//! They are called by digest and sent whole when Redis does not know them: at first, after
//! `SCRIPT FLUSH`, after a restart. They get stamps, never values, except for `if_version`: a large
//! argument costs a script several times what it costs a command. Stamps are compared byte by
//! byte: `<` on strings follows the server's locale.

use bytes::Bytes;
use fred::types::Value;

use super::{SharedTier, call::Call, connection::Metering, trouble::SharedError};

/// A script of one key.
pub(super) struct Script {
    /// SHA-1 of the source; a test compares it with Redis' own.
    digest: &'static str,
    source: &'static str,
}

/// Writes `ARGV[2]` for `ARGV[3]` ms if what is there has the stamp `ARGV[1]`. Replies 1 if it did.
pub(super) const PUT_VERSION: Script = Script {
    digest: "61fb584c8e6b2aaec46d4d83f7a1c35978dfca5b",
    source: "\
local found = redis.pcall('GETRANGE', KEYS[1], 0, 15)
if found ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
",
};

/// Removes what has a stamp before `ARGV[1]`, and what is no record. Replies 1 if it did.
pub(super) const REMOVE_OLDER: Script = Script {
    digest: "5259df4ca953a741cec8c3b4081f43ec01c5e09a",
    source: "\
local found = redis.pcall('GETRANGE', KEYS[1], 0, 18)
if type(found) == 'string' and #found == 19 and string.sub(found, 17) == 'PNR' then
  for at = 1, 16 do
    local there, limit = string.byte(found, at), string.byte(ARGV[1], at)
    if there > limit then return 0 end
    if there < limit then return redis.call('UNLINK', KEYS[1]) end
  end
  return 0
end
return redis.call('UNLINK', KEYS[1])
",
};

/// Removes what begins with `ARGV[1]` and, if that is given, is `ARGV[2]` bytes long. Replies 1 if
/// it did.
pub(super) const REMOVE_SAME: Script = Script {
    digest: "b65eb7ce5b50bee64e287e3d0f4a7b09fe8f8a5c",
    source: "\
local begin = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
if begin ~= ARGV[1] then return 0 end
if ARGV[2] and redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('UNLINK', KEYS[1])
",
};

impl Script {
    /// Digest and source.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (&'static str, &'static str) {
        (self.digest, self.source)
    }

    fn short(&self, key: &Bytes, args: &[Bytes]) -> Call {
        with_args(Call::named("EVALSHA").text(self.digest), key, args)
    }

    fn whole(&self, key: &Bytes, args: &[Bytes]) -> Call {
        with_args(Call::named("EVAL").text(self.source), key, args)
    }
}

fn with_args(call: Call, key: &Bytes, args: &[Bytes]) -> Call {
    let call = call.number(1).key(key);
    args.iter().fold(call, |call, arg| call.bytes(arg.clone()))
}

impl SharedTier {
    /// Runs a script for one key.
    pub(super) async fn run(
        &self,
        script: &Script,
        key: &Bytes,
        args: &[Bytes],
    ) -> Result<Value, SharedError> {
        let reply = self.connection.call(script.short(key, args)).await;
        match reply {
            Err(error) if error.is_no_script() => {
                self.connection.call(script.whole(key, args)).await
            }
            reply => reply,
        }
    }

    /// Runs a script for many keys in one go.
    pub(super) async fn run_each(
        &self,
        script: &Script,
        keys: &[Bytes],
        args: &[Bytes],
        metering: Metering,
    ) -> Result<Vec<Result<Value, SharedError>>, SharedError> {
        let calls = keys.iter().map(|key| script.short(key, args)).collect();
        let mut replies = self.connection.calls(calls, metering).await?;
        for (reply, key) in replies.iter_mut().zip(keys) {
            if reply.as_ref().is_err_and(SharedError::is_no_script) {
                // The first makes the script known to its node, after which digests will do; that
                // is rare enough to go one by one.
                *reply = self.run(script, key, args).await;
            }
        }
        Ok(replies)
    }
}
