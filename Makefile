# make demo    shows a leak caught and blocked, and the same program passing through a SOCKS proxy
# make test    all tests
# make         the program: target/release/sockstrace
# make deb     a Debian package, with manual pages and completions (needs cargo-deb)
#
# On Debian what is missing is installed first (as root, or with sudo); a Rust toolchain must be there.

CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)
sockstrace := $(target)/release/sockstrace

.PHONY: all build demo test kernels cpython bench bench-redirect deb check deps clean

all: build

build:
	@tests/deps.sh build
	$(CARGO) build --locked --release

demo:
	@tests/deps.sh demo
	$(CARGO) build --locked --release
	tests/demo.sh $(sockstrace)

test:
	@tests/deps.sh test
	$(CARGO) test --locked --workspace --no-fail-fast

# Tests under other kernels (Debian's 6.1 and 6.12), in qemu: up to 40 minutes; as root. One of them, or other
# tests: make kernels SERIES=6.1, and see tests/kernels/run.sh.
kernels:
	@tests/deps.sh kernels
	tests/kernels/run.sh $(SERIES)

# CPython's own test suites, untraced and traced (about 10 minutes)
cpython: build
	@tests/deps.sh test
	tests/cpython.py $(sockstrace)

# What calls and programs cost beside native, the bare kernel interface and strace: a table of ratios, also as a
# page. One group, or one workload: make bench ONLY=calls
bench:
	@tests/deps.sh test
	$(CARGO) bench --locked --bench ratios -- $(ONLY)

# A download and setting a connection up, redirected, beside other ways through a SOCKS proxy: ten minutes.
bench-redirect: build
	@tests/deps.sh bench
	benches/redirect.py $(sockstrace)

deb: build
	@$(CARGO) deb --version > /dev/null 2>&1 || { echo "cargo-deb is not installed: cargo install cargo-deb"; exit 1; }
	packaging/generate.sh $(sockstrace) target/package
	$(CARGO) deb --locked --no-build --strip --output $(target)/debian/sockstrace.deb
	tests/deb.sh $(target)/debian/sockstrace.deb

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@if $(CARGO) deny --version > /dev/null 2>&1; then $(CARGO) deny --locked check licenses bans sources; \
	else echo "cargo-deny is not installed: licences are not checked"; fi

deps:
	@tests/deps.sh test

clean:
	$(CARGO) clean
