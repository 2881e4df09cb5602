#!/bin/sh
# Makes the release archive, with SHA256SUMS in it and beside it: dist.sh PROGRAM DIRECTORY. The same sources and program give the
# same bytes; SOURCE_DATE_EPOCH is the time of the files in it.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
program=$1
directory=$2
version=$("$program" --version | cut -d ' ' -f 2)
name=acme-proxy-$version-linux-$(uname -m)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

mkdir -p "$stage/$name/docs" "$directory"
install -m 0755 "$program" "$stage/$name/acme-proxy"
install -m 0755 "$here/install.sh" "$stage/$name/install.sh"
cp "$here/ca.json" "$here/LICENSE" "$here/README.md" "$stage/$name/"
cp -r "$here/systemd" "$stage/$name/systemd"
cp -r "$here/docs/." "$stage/$name/docs/"
if [ -d "$here/deploy/monitoring" ]; then
    mkdir "$stage/$name/deploy"
    cp -r "$here/deploy/monitoring" "$stage/$name/deploy/monitoring"
fi
(cd "$stage/$name" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | sed 's|^\./||' | xargs sha256sum) >"$stage/SHA256SUMS"
mv "$stage/SHA256SUMS" "$stage/$name/SHA256SUMS"

chmod -R u=rwX,go=rX "$stage/$name"
tar --create --sort=name --owner=root:0 --group=root:0 --mtime="@${SOURCE_DATE_EPOCH:-0}" --format=gnu \
    --directory "$stage" "$name" | gzip -n >"$directory/$name.tar.gz.new"
mv "$directory/$name.tar.gz.new" "$directory/$name.tar.gz"
(cd "$directory" && sha256sum "$name.tar.gz") >"$directory/SHA256SUMS"
echo "$directory/$name.tar.gz"
