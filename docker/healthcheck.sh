#!/bin/sh
# An api answers /healthz; a worker has no port, so that its process lives is what can be asked here
# (GET /v1/workers tells its heartbeat).
set -eu
if [ "$(cat /tmp/cambium-role)" = api ]; then
  exec node -e "fetch('http://127.0.0.1:'+process.env.PORT+'/healthz').then(r=>process.exit(r.ok?0:1),()=>process.exit(1))"
fi
kill -0 1
