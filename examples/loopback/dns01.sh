#!/bin/bash
# Publishes TXT records at the DNS server of the tests (challenge_dns.rs), whose management listens on port $DNS_PORT of
# this machine, by the contract of lego's exec provider:
#   dns01.sh present|cleanup FQDN VALUE
# Writes its arguments down in $CALLS, if that is set.
set -eu

action=$1 fqdn=$2 value=$3
[ -z "${CALLS:-}" ] || echo "$action $fqdn $value" >>"$CALLS"

case $action in
  present) path=set-txt ;;
  cleanup) path=clear-txt ;;
  *) echo "unknown action $action" >&2; exit 1 ;;
esac
body="{\"host\": \"$fqdn\", \"value\": \"$value\"}"
exec 3<>"/dev/tcp/127.0.0.1/$DNS_PORT"
printf 'POST /%s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s' "$path" "${#body}" "$body" >&3
read -r _ status _ <&3
[ "$status" = 200 ] || { echo "the DNS server answers $status" >&2; exit 1; }
