#!/bin/sh
# Chooses what the container is. `exec` makes node receive the stop signal itself.
set -eu
role="${1:-api}"
[ $# -eq 0 ] || shift
case "$role" in
  api) entry=src/api/server.ts ;;
  worker) entry=src/engine/worker.ts ;;
  keys) entry=src/engine/keys.ts ;;
  *) echo "cambium: unknown command '$role': wanted api, worker or keys" >&2; exit 64 ;;
esac
echo "$role" > /tmp/cambium-role
exec node --no-warnings "$entry" "$@"
