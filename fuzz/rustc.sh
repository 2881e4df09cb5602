#!/bin/sh
# Called by cargo in place of rustc (RUSTC_WRAPPER): adds coverage for libFuzzer to the crates that are fuzzed. All
# others stay as the ordinary build has made them. The flags are cargo-fuzz's.
set -eu

rustc=$1
shift
case " $* " in
*" --crate-name acme_proxy "* | *" --crate-name x509_parser "* | *" --crate-name asn1_rs "* | *" --crate-name der_parser "*)
  set -- "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
  ;;
esac
exec "$rustc" "$@"
