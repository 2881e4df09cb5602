# Two commands to know: `make demo` and `make test`. `make help` lists the others.

CARGO ?= cargo
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
POWERCUT_CYCLES ?= 200
SOAK_CYCLES ?= 1000
CHAOS_MINUTES ?= 60
CHAOS_KILLS ?= 100
RACE_SCHEDULES ?= 10000
LIVES_CASES ?= 100000
CERTIFICATES ?= 100000
FUZZ_SECONDS ?= 600

.PHONY: help demo test check unit clients suite powercut powercut-short chaos chaos-short soak races series lives fuzz fuzz-short bench delivery delivery-installer delivery-packages booted FORCE build dist deb image install needs needs-fuzz needs-test needs-delivery clean

help: ## Lists the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: needs ## Issues a certificate on this machine, step by step; SERVE=1 keeps it running for certbot
	@echo "Building, which takes a few minutes the first time ..."
	@$(CARGO) build --quiet --locked --bin acme-proxy --example demo
	@SERVE=$(SERVE) $(TARGET_DIR)/debug/examples/demo

test: check unit clients suite powercut-short chaos-short fuzz-short delivery ## Proves the project: everything below but bench, in short forms
	@echo "All of make test has passed."

check: needs ## Format, lints with warnings denied, one crypto provider
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@for crate in ring native-tls; do \
	  if $(CARGO) tree --locked -e normal,build -i $$crate 2>/dev/null | grep -q .; then \
	    echo "$$crate is linked into the daemon: the only crypto provider is aws-lc-rs" >&2; exit 1; fi; done

unit: needs needs-test ## Unit and integration tests
	$(CARGO) test --locked --lib --test it --examples -- --test-threads=8
	$(CARGO) test --locked --doc

clients: needs needs-test ## certbot, lego and other clients against acme-proxy against Pebble
	$(CARGO) test --locked --test e2e

suite: needs needs-test ## instant-acme's own server tests, with acme-proxy in front of Pebble
	$(CARGO) build --locked --bin acme-proxy --example pebble_front
	$(CARGO) test --locked --test suite

powercut-short: needs ## 20 simulated power cuts
	@$(MAKE) --no-print-directory powercut POWERCUT_CYCLES=20

powercut: needs ## Simulated power cuts under load: what was acknowledged must be there (POWERCUT_CYCLES=200)
	$(CARGO) build --locked --example powercut
	$(SUDO) $(TARGET_DIR)/debug/examples/powercut run --cycles $(POWERCUT_CYCLES)

chaos-short: needs ## Two minutes of the next one
	@$(MAKE) --no-print-directory chaos CHAOS_MINUTES=2 CHAOS_KILLS=0

chaos: needs ## Replicas killed, cut off and restarted, the database failing over, under load; then what clients were told is checked (CHAOS_MINUTES=60 CHAOS_KILLS=100 CHAOS_SEED=)
	@./tests/needs.sh postgresql:postgres
	$(CARGO) build --locked --bin acme-proxy --example chaos
	$(TARGET_DIR)/debug/examples/chaos run --minutes $(CHAOS_MINUTES) --kills $(CHAOS_KILLS) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

soak: needs ## kill -9 at each step of issuance and at random, again and again (SOAK_CYCLES=1000)
	SOAK_CYCLES=$(SOAK_CYCLES) $(CARGO) test --locked --test it -- --nocapture recovery::f24_kill_9

races: needs ## Races between clients, worker and clock, in random schedules (RACE_SCHEDULES=10000)
	RACE_SCHEDULES=$(RACE_SCHEDULES) $(CARGO) test --locked --test it -- --nocapture races::

series: needs ## As many series of metrics with many certificates as with one (CERTIFICATES=100000)
	CERTIFICATES=$(CERTIFICATES) $(CARGO) test --locked --test it -- --nocapture monitoring::there_are_no_more

lives: needs ## Random lives of orders against a model of RFC 8555 section 7.1.6 (LIVES_CASES=100000)
	LIVES_CASES=$(LIVES_CASES) $(CARGO) test --locked --test it -- --nocapture lives::

fuzz-short: needs needs-fuzz ## 10 seconds of each fuzz target
	CARGO=$(CARGO) ./fuzz/run.sh 10

fuzz: needs needs-fuzz lives ## The lives above, then each fuzz target for a while (FUZZ_SECONDS=600)
	CARGO=$(CARGO) ./fuzz/run.sh $(FUZZ_SECONDS)

bench: needs ## Issuances per second, latency, CPU, memory, syncs; replicas; a million orders; release build (BENCH=sled,postgresql,stored)
	@./tests/needs.sh postgresql:postgres
	$(CARGO) build --locked --release --bin acme-proxy --examples
	$(TARGET_DIR)/release/examples/bench

# Only the last step differs from `cargo build`: the C library goes into the program, which then runs on any Linux.
STATIC := --locked --bin acme-proxy
STATIC_FLAGS := -- -C target-feature=+crt-static
DELIVERY := $(abspath $(TARGET_DIR))/delivery

delivery: needs needs-delivery ## install.sh, and the packages, in clean Debian roots
	$(CARGO) build --locked --example throwaway_ca
	$(CARGO) rustc $(STATIC) $(STATIC_FLAGS)
	@mkdir -p $(DELIVERY)
	strip -o $(DELIVERY)/acme-proxy $(TARGET_DIR)/debug/acme-proxy
	@$(MAKE) --no-print-directory -j2 --output-sync=target $(DELIVERY)/root $(DELIVERY)/tools
	@$(MAKE) --no-print-directory -j2 --output-sync=target delivery-installer delivery-packages

$(DELIVERY)/root: FORCE
	@$(SUDO) ./tests/delivery/root.sh $@

$(DELIVERY)/tools: FORCE
	@./tests/delivery/tools.sh $@

delivery-installer:
	@$(SUDO) ./tests/delivery/installer.sh $(DELIVERY)/acme-proxy $(DELIVERY)/root

delivery-packages:
	@$(SUDO) ./tests/delivery/packages.sh $(DELIVERY)/acme-proxy $(DELIVERY)/root $(DELIVERY)/tools $(abspath $(TARGET_DIR))/debug/examples/throwaway_ca

booted: needs needs-delivery ## The unit under a real systemd, in a container (needs systemd-nspawn); no part of make test
	@./tests/needs.sh systemd-container:systemd-nspawn
	$(CARGO) build --locked --example throwaway_ca
	$(CARGO) rustc $(STATIC) $(STATIC_FLAGS)
	@mkdir -p $(DELIVERY)
	strip -o $(DELIVERY)/acme-proxy $(TARGET_DIR)/debug/acme-proxy
	@$(MAKE) --no-print-directory $(DELIVERY)/root
	@$(SUDO) ./tests/delivery/booted.sh $(DELIVERY)/acme-proxy $(DELIVERY)/root $(abspath $(TARGET_DIR))/debug/examples/throwaway_ca

build: needs ## The release binary, which needs no library
	$(CARGO) rustc --release $(STATIC) $(STATIC_FLAGS)

dist: build ## The release archive with its checksum, in target/dist
	./deploy/dist.sh $(TARGET_DIR)/release/acme-proxy target/dist

deb: build $(DELIVERY)/tools ## The Debian package, in target/dist
	./deploy/debian/stage.sh $(TARGET_DIR)/release/acme-proxy target/deb
	PATH=$(DELIVERY)/tools/bin:$$PATH cargo-deb --no-build --no-strip --output target/dist/

image: build ## What an image is built from, in target/image; then: podman build -f deploy/container/Containerfile target/image
	./deploy/container/root.sh $(TARGET_DIR)/release/acme-proxy target/image/root
	mkdir -p target/image/store

install: build ## Installs binary, unit and a first ca.json; see install.sh for its variables
	$(SUDO) env BINARY=$(TARGET_DIR)/release/acme-proxy ./install.sh

# The build needs a C compiler and OpenSSL's headers (for josekit).
needs:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.91 or later (Debian: rustup)" >&2; exit 1; }
	@version=$$($(CARGO) --version | cut -d' ' -f2); [ "$$(printf '%s\n' 1.91 "$$version" | sort -V | head -n 1)" = 1.91 ] || \
	  { echo "cargo $$version is too old: install Rust 1.91 or later (Debian: rustup)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }
	@./tests/needs.sh pkg-config:pkg-config libssl-dev:openssl.pc

# For libFuzzer.
needs-fuzz:
	@command -v c++ >/dev/null || { echo "a C++ compiler is missing: apt-get install g++" >&2; exit 1; }

needs-test:
	@./tests/needs.sh certbot:certbot lego:lego dehydrated:dehydrated uacme:uacme caddy:caddy \
	  apache2-bin:apache2 acme-tiny:acme-tiny python3-venv:ensurepip.py pebble:pebble knot:knotd openssl:openssl \
	  systemd:systemd-analyze systemd:systemd-socket-activate python3-seccomp:seccomp.py \
	  prometheus:promtool haproxy:haproxy postgresql:postgres

needs-delivery:
	@./tests/needs.sh debootstrap:debootstrap shellcheck:shellcheck binutils:strip buildah:buildah curl:curl openssl:openssl python3-venv:ensurepip.py

clean: ## Removes what was built
	$(CARGO) clean
