#!/bin/sh
# Builds the fuzz targets and runs each of them for a while: ./fuzz/run.sh SECONDS [TARGET...]
#
# The targets are laid out for cargo-fuzz, but it is not needed: any cargo and a C++ compiler (for libFuzzer) do. The
# flags are cargo-fuzz's for coverage. There is no sanitizer, which only a nightly compiler has: no unsafe code is ours,
# and the assertions, overflow and bounds checks of debug builds are on.
set -eu

seconds=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
target_dir=${CARGO_TARGET_DIR:-$here/../target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-trace-compares"

echo "Building the fuzz targets with $(rustc --version), without a sanitizer ..."
RUSTFLAGS="$coverage" ${CARGO:-cargo} build --quiet --locked --release --manifest-path "$here/Cargo.toml" \
  --target "$host" --target-dir "$target_dir"

[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' "$here/Cargo.toml")
for name in "$@"; do
  corpus=$target_dir/corpus/$name
  artifacts=$target_dir/artifacts/$name
  mkdir -p "$corpus" "$artifacts"
  log=$target_dir/$name.log
  # New inputs go to the first directory; the seeds are only read.
  if "$target_dir/$host/release/$name" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$artifacts/" "$corpus" "$here/seeds/$name" >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz $name: $runs runs in $seconds s, clean"
  else
    tail -n 30 "$log" >&2
    echo "fuzz $name: FAILED. The input is in $artifacts; run it again with $target_dir/$host/release/$name FILE" >&2
    exit 1
  fi
done
