#!/bin/sh
# Makes what the tests of the packages want from PyPI and crates.io, unless it is there: tools.sh DIRECTORY.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
wanted=$(cat "$here/requirements.txt" "$0" | sha256sum)
[ "$(cat "$1/.wanted" 2>/dev/null)" != "$wanted" ] || exit 0
python3 -m venv --clear "$1"
"$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
# Without optimization it is there in a third of the time.
CARGO_TARGET_DIR=$1/build cargo install --quiet --locked --debug --no-default-features --root "$1" --version 3.8.0 cargo-deb
rm -rf "$1/build"
echo "$wanted" >"$1/.wanted"
