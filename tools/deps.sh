#!/bin/sh
# Looks for the system packages Pannier needs and installs the missing ones where it may.
#
#   tools/deps.sh run     what building and running need: a C and C++ compiler (RocksDB, zstd) and
#                         libclang (bindgen reads RocksDB's header)
#   tools/deps.sh test    that, and what the tests and checks need: redis-server, redis-cli,
#                         openssl, promtool, Chromium with chromedriver, Python 3.11, rustfmt,
#                         clippy
#
# Root on Debian or a derivative: installs them with apt-get. Anybody else there: prints the one
# line to run and exits 1. Any other system: prints what is needed and exits 1. Detection is by
# what is there, not by package names, so a compiler from elsewhere is as good.
set -eu

PATH="$PATH:${HOME:-/root}/.cargo/bin"

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# --- what is there -------------------------------------------------------------------------------

has() {
    command -v "$1" >/dev/null 2>&1
}

# True when one of the paths (an expanded glob) exists.
any_exists() {
    for path in "$@"; do
        if [ -e "$path" ]; then
            return 0
        fi
    done
    return 1
}

has_cxx() {
    has "${CXX:-c++}" && has "${CC:-cc}"
}

# The folders where bindgen looks for the library by itself.
has_libclang_library() {
    if has llvm-config && any_exists "$(llvm-config --libdir)"/libclang[.-]*; then
        return 0
    fi
    any_exists /usr/lib/llvm-*/lib/libclang[.-]*so* /usr/lib/*-linux-gnu/libclang[.-]*so* \
        /usr/lib64/libclang[.-]*so* /usr/lib64/llvm*/lib*/libclang[.-]*so* \
        /usr/lib/libclang[.-]*so* \
        /usr/local/lib/libclang[.-]*so* /usr/local/llvm*/lib*/libclang[.-]*so* \
        /opt/homebrew/opt/llvm/lib/libclang.dylib \
        /Library/Developer/CommandLineTools/usr/lib/libclang.dylib
}

# The library alone does not parse anything: it needs clang's own stddef.h.
has_libclang_headers() {
    any_exists /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h \
        /usr/local/lib*/clang/*/include/stddef.h /usr/local/llvm*/lib*/clang/*/include/stddef.h \
        /usr/lib64/llvm*/lib*/clang/*/include/stddef.h \
        /opt/homebrew/opt/llvm/lib/clang/*/include/stddef.h \
        /Library/Developer/CommandLineTools/usr/lib/clang/*/include/stddef.h
}

has_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        return 0 # The developer knows where it is.
    fi
    has_libclang_library && has_libclang_headers
}

has_python() {
    has python3 && python3 -c 'import tomllib' 2>/dev/null
}

# Fills `packages` (Debian's names) and `needs` (words for everybody else).
look() {
    packages=
    needs=
    has_cxx || want g++ "a C and C++17 compiler"
    has_libclang || want libclang-dev "libclang with its headers (LIBCLANG_PATH if it is elsewhere)"
    has make || want make "make"
    if [ "$1" = test ]; then
        has redis-server || want redis-server "redis-server 6.2 or later, in PATH"
        has redis-cli || want redis-tools "redis-cli, in PATH"
        has openssl || want openssl "openssl 3.0 or later, in PATH"
        has chromium || has google-chrome \
            || want chromium "Chromium or Google Chrome 111 or later, in PATH"
        has chromedriver || want chromium-driver "chromedriver of the same version, in PATH"
        has promtool || want prometheus "promtool, of Prometheus 2.42 or later, in PATH"
        has_python || want python3 "Python 3.11 or later as python3"
    fi
}

want() {
    packages="${packages:+$packages }$1"
    needs="$needs
  - $2"
}

# --- installing ----------------------------------------------------------------------------------

# The network of a build machine fails now and then.
retry() {
    for pause in 3 10 30 0; do
        if "$@"; then
            return 0
        fi
        if [ "$pause" -gt 0 ]; then
            echo "failed: $*; again in $pause s" >&2
            sleep "$pause"
        fi
    done
    return 1
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 "$@" </dev/null
}

# The tests start their own servers; a package must not start one. Debian asks this script before
# it starts a service: 101 means no. One that is there already stays as it is.
POLICY=/usr/sbin/policy-rc.d
forbid_services() {
    if [ ! -e "$POLICY" ]; then
        trap 'rm -f "$POLICY"' EXIT
        trap 'exit 1' INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod 755 "$POLICY"
    fi
}

install_packages() {
    echo "installing: $packages"
    forbid_services
    retry apt_get update || die "apt-get update failed"
    # shellcheck disable=SC2086 # a list of package names
    retry apt_get install --no-install-recommends $packages \
        || die "apt-get install failed: $packages"
    for service in redis-server prometheus; do
        case " $packages " in
        *" $service "*)
            # Nor at the next boot.
            if [ -d /run/systemd/system ]; then
                systemctl disable --now "$service.service" >/dev/null 2>&1 || true
            fi
            ;;
        esac
    done
}

# --- cargo ---------------------------------------------------------------------------------------

# With rustup the first call fetches the toolchain that rust-toolchain.toml pins. Without rustup a
# cargo of that version or later does as well.
check_cargo() {
    has cargo || die \
        "cargo is missing: install Rust with rustup (https://rustup.rs) or from your system;" \
        "rust-toolchain.toml names the version."
    retry cargo --version >/dev/null || die "cargo does not run; see above"
    if [ "$1" = test ]; then
        cargo fmt --version >/dev/null 2>&1 || die \
            "rustfmt is missing: rustup component add rustfmt, or your system's package of it"
        cargo clippy --version >/dev/null 2>&1 || die \
            "clippy is missing: rustup component add clippy, or your system's package of it"
    fi
}

main() {
    case "${1:-}" in
    run | test) ;;
    *) die "usage: tools/deps.sh run|test" ;;
    esac
    look "$1"
    if [ -n "$packages" ]; then
        if ! has apt-get; then
            die "Pannier needs, and this system lacks:$needs"
        fi
        if [ "$(id -u)" -ne 0 ]; then
            die "missing packages; please run:" "  sudo apt-get install -y $packages"
        fi
        install_packages
        look "$1"
        if [ -n "$packages" ]; then
            die "installed, and still not found:$needs"
        fi
    fi
    check_cargo "$1"
}

main "$@"
