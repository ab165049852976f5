#!/bin/sh
# Makes the database on the first start, then becomes the server.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C --no-sync >/dev/null
  # Where nobody else looks for it: who finds the server finds it ready.
  pg_ctl --silent --wait --options="-c listen_addresses='' -c unix_socket_directories=$PGDATA" start >/dev/null
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql --host="$PGDATA" --quiet --set=ON_ERROR_STOP=1 --file="$file"
  done
  pg_ctl --silent --wait --mode=fast stop >/dev/null
fi
exec "$@"
