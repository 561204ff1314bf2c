#!/bin/sh
# Starts PostgreSQL on the data folder $PGDATA, which it makes when there is none.
set -e
if ! [ -s "$PGDATA/PG_VERSION" ]; then
	rm -rf "$PGDATA.new"
	initdb -D "$PGDATA.new" -U postgres -A trust --locale=C -E UTF8 >/dev/null
	echo 'host all all all trust' >>"$PGDATA.new/pg_hba.conf"
	mv "$PGDATA.new" "$PGDATA" # whole or not at all, should the pod be killed meanwhile
fi
chmod 0700 "$PGDATA" # a pod's fsGroup has opened it to the group, which PostgreSQL refuses
exec postgres -c "listen_addresses=*" "$@"
