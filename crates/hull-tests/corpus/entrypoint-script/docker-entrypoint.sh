#!/bin/sh
set -eu
if [ "$1" = serve ]; then
  shift
  echo "serving with $* $MESSAGE"
  exit 0
fi
exec "$@"
