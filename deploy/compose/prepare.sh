#!/bin/sh
# Makes secrets/ beside compose.yaml, for the users that the containers run as: EAB_KID=... EAB_HMAC_KEY=... ./prepare.sh, as root.
# What is there already is left alone: a database belongs to its secret for good.
set -eu
umask 077
cd -- "$(dirname -- "$0")"

: "${EAB_KID:?the key id of the External Account Binding}" "${EAB_HMAC_KEY:?the key of the External Account Binding}"
[ ! -e secrets ] || {
    echo "prepare.sh: secrets/ is there already; move it away if you want other ones, and the database with it" >&2
    exit 1
}
trap 'rm -rf secrets.new' EXIT
rm -rf secrets.new
mkdir -p secrets.new/acme-proxy secrets.new/database
cd secrets.new
printf '%s' "$EAB_KID" >acme-proxy/kid
printf '%s' "$EAB_HMAC_KEY" >acme-proxy/hmac-key
openssl rand -base64 48 >acme-proxy/secret
openssl rand -hex 24 >acme-proxy/password
cp acme-proxy/password database/password
openssl rand -hex 24 >database/superuser

# A root that signs the server's certificate, and nothing after that.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=acme-proxy's database" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" -keyout root.key -out acme-proxy/root.pem
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=db1" \
    -CA acme-proxy/root.pem -CAkey root.key -addext "basicConstraints=critical,CA:FALSE" -addext "subjectAltName=DNS:db1" \
    -addext "extendedKeyUsage=serverAuth" -keyout database/server.key -out database/server.pem
rm root.key

# The users in the images of acme-proxy and of PostgreSQL.
chown -R 65532:65532 acme-proxy
chown -R 999:999 database
cd ..
chmod 755 secrets.new
mv secrets.new secrets
