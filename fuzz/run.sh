#!/bin/sh
# Builds the fuzz targets and runs each of them for a while: ./fuzz/run.sh SECONDS [TARGET...]
#
# cargo-fuzz takes the same targets and corpus: `cargo +nightly fuzz run jws`, or `cargo fuzz run --sanitizer none jws`.
# Here any cargo and a C++ compiler (for libFuzzer) will do, because cargo-fuzz costs a fresh machine a minute to install
# and a build of every dependency once more, eight minutes of CPU. There is no sanitizer, which only a nightly compiler
# has: no unsafe code is ours, and the assertions and the checks for overflow and bounds are on. When cargo says that the
# lock file needs to be updated: `cargo update -w` in this directory.
set -eu

seconds=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
target_dir=${CARGO_TARGET_DIR:-$here/../target}
kept=$target_dir/fuzz

echo "Building the fuzz targets with $(rustc --version), without a sanitizer ..."
RUSTC_WRAPPER=$here/rustc.sh ${CARGO:-cargo} build --quiet --locked --bins --manifest-path "$here/Cargo.toml" \
  --target-dir "$target_dir"

[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' "$here/Cargo.toml")
for name in "$@"; do
  target=$target_dir/debug/$name
  corpus=$kept/corpus/$name
  failures=$kept/artifacts/$name
  log=$kept/$name.log
  mkdir -p "$corpus" "$failures"
  # New inputs go to the first directory; the seeds are only read. (cargo-fuzz adds to the seeds, which git ignores.)
  if "$target" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$failures/" "$corpus" "$here/corpus/$name" >"$log" 2>&1; then
    echo "fuzz $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $seconds s, clean"
  else
    tail -n 30 "$log" >&2
    echo "fuzz $name: FAILED; the input is in $failures, and $target FILE runs it again" >&2
    exit 1
  fi
done
