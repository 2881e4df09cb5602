#!/bin/sh
# Makes acme-proxy's database, owned by a user of its own, when the server is started for the first time.
set -eu

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username=postgres --set=password="$(cat "/run/secrets/database/password")" <<'END'
CREATE ROLE acmeproxy LOGIN PASSWORD :'password';
CREATE DATABASE acmeproxy OWNER acmeproxy;
END
