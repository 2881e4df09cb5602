#!/bin/sh
# pebble-challtestsrv by the options of its latest version: Debian's calls -dnsserver -dns01, and knows no -doh.
set -eu

count=$#
while [ "$count" -gt 0 ]; do
  option=$1 value=$2
  shift 2
  count=$((count - 2))
  case $option in
    -dnsserver) set -- "$@" -dns01 "$value" ;;
    -doh) ;;
    *) set -- "$@" "$option" "$value" ;;
  esac
done
exec pebble-challtestsrv "$@"
