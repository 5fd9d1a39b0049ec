#!/bin/sh
# Runs a command while holding a lock file: tools/with_lock.sh FILE COMMAND [ARG…]
#
# Clones share one build directory, and the binaries in it are those of the clone that built last.
# Under the lock one clone's tests keep the binaries they were built with. The lock is closed
# before the command starts, so a process that outlives its test does not hold it.
set -eu

lock=$1
shift
mkdir -p "$(dirname "$lock")"

# No flock of util-linux (macOS, BusyBox): the lock is a courtesy, not a condition.
flock --version 2>/dev/null | grep -q util-linux || exec "$@"

if ! flock --nonblock "$lock" true; then
    echo "another clone is testing in this build directory; waiting for $lock" >&2
fi
exec flock --close "$lock" "$@"
