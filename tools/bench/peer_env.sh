#!/bin/sh
# Builds the environment that holds the peer, apart from ours, so that neither can import the other.
#
# usage: tools/bench/peer_env.sh [directory]      (default: .venv-peer beside pyproject.toml)
#
# Package sources are whatever pip is configured with. The peer compiles C++ at run time: a compiler must be on PATH.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
env_dir=${1:-"$root/.venv-peer"}

command -v c++ >/dev/null || { echo "peer_env: the peer's k-means needs a C++ compiler, and there is no c++ on PATH" >&2; exit 1; }

. "$root/tools/cpu_environment.sh"

install "torch==2.13.0" \
    "coreai-opt==0.4.0" "coreai-torch==0.4.3" attrs ninja safetensors "numpy<2.4"
"$env_dir/bin/python" - <<'CHECK'
import coreai_opt, torch
print("peer environment ready: torch", torch.__version__, "coreai_opt", getattr(coreai_opt, "__version__", "?"))
CHECK
