#!/bin/sh
# Serves with the options given; `selfcheck [OPTION...]` proves the engine of this machine instead.
set -eu
if [ "${1:-}" = selfcheck ]; then
  exec ecenet-export "$@"
fi
exec ecenet-serve "$@"
