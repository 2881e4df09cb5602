#!/bin/bash
# dns01_txt.env_vars.EXEC_PATH of these tests, called by acme-proxy by the contract of lego's exec provider:
#   dns01.sh present|cleanup FQDN VALUE
# Sets the TXT record at pebble-challtestsrv, whose management listens on port $CHALLTESTSRV_PORT of this machine, and
# writes its arguments down in $CALLS.
set -eu

action=$1 fqdn=$2 value=$3
echo "$action $fqdn $value" >>"$CALLS"

case $action in
  present) path=set-txt body="{\"host\": \"$fqdn\", \"value\": \"$value\"}" ;;
  cleanup) path=clear-txt body="{\"host\": \"$fqdn\"}" ;;
  *) echo "unknown action $action" >&2; exit 1 ;;
esac
exec 3<>"/dev/tcp/127.0.0.1/$CHALLTESTSRV_PORT"
printf 'POST /%s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s' "$path" "${#body}" "$body" >&3
read -r _ status _ <&3
[ "$status" = 200 ] || { echo "pebble-challtestsrv answers $status" >&2; exit 1; }
