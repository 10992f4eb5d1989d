#!/bin/sh
# Serves with the options given. `selfcheck [OPTION...]` proves the engine of this machine instead, and
# `tensorrt [OPTION...]` builds engines.
set -eu
case "${1:-}" in
  selfcheck | tensorrt) exec ecenet-export "$@" ;;
esac
exec ecenet-serve "$@"
