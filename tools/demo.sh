#!/bin/sh
# Two sidecars and one Redis as plain processes: what `make demo` shows.
#
# Everything lives in a temporary directory and on ports the system chooses, and is gone at the end.
# Needs pannierd and pannier (first argument: their directory) and redis-server.
set -eu

bin=$1
dir=$(mktemp -d)
processes=

cleanup() {
    for process in $processes; do
        kill "$process" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() {
    printf '\n# %s\n' "$*"
}

# Prints a command as it would be typed, then runs it against sidecar A or B.
on() {
    name=$1
    shift
    printf '%s$ pannier %s\n' "$name" "$*"
    eval "address=\$address_$name"
    PANNIER_ADDR=$address "$bin/pannier" "$@"
}

# The same for a read into a file, and says which tier answered.
read_on() {
    name=$1 key=$2
    printf '%s$ pannier get %s -o copy --json\n' "$name" "$key"
    eval "address=\$address_$name"
    code=0
    PANNIER_ADDR=$address "$bin/pannier" get "$key" -o "$dir/copy" --json >"$dir/answer" || code=$?
    grep -oE '"(hit|tier|stale)": *[a-z"]+' "$dir/answer" | tr '\n' ' '
    echo "(exit code $code)"
}

# Waits until a sidecar says about its part `shared` what is asked for.
until_shared() {
    name=$1 wanted=$2 tries=0
    eval "address=\$address_$name"
    until PANNIER_ADDR=$address "$bin/pannier" stats --json | grep -q "\"shared_state\": *\"$wanted\""; do
        tries=$((tries + 1))
        if [ "$tries" -gt 100 ]; then
            echo "sidecar $name is not $wanted" >&2
            exit 1
        fi
        sleep 0.1
    done
}

start_redis() {
    redis-server --port 0 --unixsocket "$dir/redis.sock" --save '' --appendonly yes \
        --dir "$dir" >"$dir/redis.log" 2>&1 &
    redis=$!
    processes="$processes $redis"
}

start_sidecar() {
    name=$1
    "$bin/pannierd" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --data-dir "$dir/$name" \
        --redis-url "unix://$dir/redis.sock" >"$dir/$name.out" 2>"$dir/$name.log" &
    processes="$processes $!"
    tries=0
    until grep -q "^pannierd ready" "$dir/$name.out" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 100 ]; then
            cat "$dir/$name.log" >&2
            exit 1
        fi
        sleep 0.1
    done
    address=$(sed -n 's/^pannierd ready grpc=\([^ ]*\) .*/\1/p' "$dir/$name.out")
    eval "address_$name=\$address"
}

command -v redis-server >/dev/null || {
    echo "redis-server is missing: apt-get install redis-server" >&2
    exit 1
}

start_redis
start_sidecar A
start_sidecar B
until_shared A attached
until_shared B attached
head -c 2000000 /dev/urandom >"$dir/artifact"

say "A puts a file of 2 MB; B gets it, byte for byte, from Redis, and next time from its own disk"
on A put build "$dir/artifact" --ttl 10m
read_on B build
cmp "$dir/artifact" "$dir/copy" && echo "the same bytes"
read_on B build

say "B invalidates it; A no longer has it"
on B invalidate build
read_on A build

say "Redis is killed; both go on. What they have is served, marked stale"
on A put greeting --value hello
read_on B greeting
kill -9 "$redis"
until_shared A detached
until_shared B detached
read_on B greeting

say "A invalidates it while Redis is away: kept on disk until it is back"
on A invalidate greeting

say "Redis is back, with its data; B must not see the old value"
start_redis
until_shared A attached
until_shared B attached
read_on B greeting
on A stats | grep -A 2 '^shared tier'
