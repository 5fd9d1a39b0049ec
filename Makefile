# Pannier: everything a developer and the CI run. `make` alone lists the targets.

# One build directory for all clones on the machine: RocksDB takes about 25 CPU minutes to compile
# and is then there for the next clone. Clones that build at the same time wait for one another.
# The binaries in release/ are those of the clone that built last, hence every target that uses
# them builds first, and `make test` holds a lock. A directory of your own:
# `make CARGO_TARGET_DIR=target …`.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pannier-build

# One profile, one feature set: always `--release --workspace`. Features are unified over what is
# built together, so `-p one-crate` or another profile would compile RocksDB again (ADR 0005).
CARGO_FLAGS := --release --workspace --locked

# A fresh shell does not always know where rustup put cargo.
export PATH := $(PATH):$(HOME)/.cargo/bin
export CARGO_NET_RETRY ?= 5

# The check scripts leave no __pycache__ behind.
PYTHON := python3 -B

# Passed on by run, test, bench and report: `make run ARGS="--config pannierd.toml"`.
ARGS ?=

phase = @printf '==> %s %s\n' "$$(date +%H:%M:%S)" '$@'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

##@ Daily work

.PHONY: run
run: deps-run claim ## build what is missing and start pannierd in the foreground (ARGS="…")
	$(phase)
	cargo build $(CARGO_FLAGS) --bins
	exec "$(CARGO_TARGET_DIR)/release/pannierd" $(ARGS)

.PHONY: build
build: deps-run claim ## compile all crates and binaries
	$(phase)
	cargo build $(CARGO_FLAGS)

# The tests find pannierd and pannier beside their own executables, so build comes first; it comes
# again under the lock, where it costs nothing unless another clone has built in between.
.PHONY: test
test: deps build check ## all that the CI runs: build, check, every test (ARGS="…")
	$(phase)
	@sh tools/with_lock.sh "$(CARGO_TARGET_DIR)/pannier-test.lock" sh -c \
		'sh tools/claim_target.sh "$(CARGO_TARGET_DIR)" && cargo build --quiet $(CARGO_FLAGS) && cargo test $(CARGO_FLAGS) --no-fail-fast $(ARGS)'

# Faults at random against three daemons and one Redis, and what callers saw checked offline.
SECONDS ?= 60
SEED ?=
.PHONY: torture
torture: deps build ## coherence under random faults for long (SECONDS=1800 SEED=7)
	$(phase)
	@PANNIER_TORTURE_SECONDS="$(SECONDS)" $(if $(SEED),PANNIER_TORTURE_SEED="$(SEED)") \
		sh tools/with_lock.sh "$(CARGO_TARGET_DIR)/pannier-test.lock" sh -c \
		'cargo build --quiet $(CARGO_FLAGS) && \
		cargo test $(CARGO_FLAGS) --test torture -- --nocapture --test-threads 1'

# A build directory of its own, as a copy of this one: 2 to 3 GB below TMPDIR while it runs.
.PHONY: sabotage
sabotage: deps build ## break the daemon on purpose, see the tests catch it (ARGS="fence lease", 30 minutes)
	$(phase)
	$(PYTHON) -u tools/sabotage.py $(ARGS)

# The bench profile is the release profile, so this compiles nothing of RocksDB either.
.PHONY: bench
bench: deps build ## the criterion benches (ARGS="…" is passed to criterion)
	$(phase)
	cargo bench --workspace --locked --bench '*' -- $(ARGS)

.PHONY: report
report: deps-run build ## measure the daemon against bare tonic and Redis, write docs/benchmarks.md (ARGS="--quick")
	$(phase)
	"$(CARGO_TARGET_DIR)/release/report" --out docs/benchmarks.md $(ARGS)

.PHONY: demo
demo: deps build ## two sidecars and a Redis as plain processes, sharing a file
	$(phase)
	@sh tools/demo.sh "$(CARGO_TARGET_DIR)/release"

.PHONY: fmt
fmt: ## format the Rust code
	$(phase)
	cargo fmt --all

.PHONY: deps
deps: ## install the system packages that are missing (as root on Debian), or name them
	$(phase)
	@sh tools/deps.sh test

# See the script: other clones build into the same directory.
.PHONY: claim
claim:
	@sh tools/claim_target.sh "$(CARGO_TARGET_DIR)"

# What building and running need, without what only the tests need.
.PHONY: deps-run
deps-run:
	@sh tools/deps.sh run

.PHONY: clean
clean: ## remove what this workspace built; its dependencies (RocksDB) stay for the other clones
	$(phase)
	cargo clean --release --workspace --locked

##@ Checks

# The cheap ones first.
CHECKS := check-fmt check-size check-layers proto check-licenses check-deny check-tools \
	check-clippy check-doc

.PHONY: check
check: $(CHECKS) ## every check below

.PHONY: check-fmt
check-fmt: ## the code is formatted
	$(phase)
	cargo fmt --all -- --check

.PHONY: check-size
check-size: ## functions within 70 lines, files within 400, lines within 100 columns
	$(phase)
	$(PYTHON) tools/check_size.py

.PHONY: check-layers
check-layers: ## imports of server/src point only downstream, no cycle between modules
	$(phase)
	$(PYTHON) tools/check_layers.py

.PHONY: proto
proto: ## the API: lint, and no breaking change against the last release
	$(phase)
	$(PYTHON) tools/proto_check.py lint
	$(PYTHON) tools/proto_check.py breaking

.PHONY: check-licenses
check-licenses: ## licences, sources and banned crates of the dependencies, by deny.toml
	$(phase)
	$(PYTHON) tools/check_licenses.py

.PHONY: check-deny
check-deny: ## the same and known vulnerabilities by cargo-deny, where it is installed
	$(phase)
	@if cargo deny --version >/dev/null 2>&1; then \
		cargo deny --locked --workspace check; \
	else \
		echo "cargo-deny is not installed: advisories are not checked (cargo install cargo-deny)"; \
	fi

.PHONY: check-tools
check-tools: ## the check scripts' own tests
	$(phase)
	$(PYTHON) -m unittest discover --start-directory tools --pattern 'test_*.py'

.PHONY: check-clippy
check-clippy: deps-run ## clippy without a warning
	$(phase)
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

.PHONY: check-doc
check-doc: deps-run ## the documentation builds without a warning
	$(phase)
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps
