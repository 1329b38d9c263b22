#!/bin/sh
# Builds the environment of the ExecuTorch client: torch, ExecuTorch, graphpress and, for comparison, coreai-opt.
#
# usage: tools/clients/environment.sh [directory]      (default: .venv-executorch beside pyproject.toml)
#
# Package sources are whatever pip is configured with.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
env_dir=${1:-"$root/.venv-executorch"}
. "$root/tools/cpu_environment.sh"

install "torch==2.13.0" "executorch==1.5.1" "coreai-torch==0.4.3" "coreai-opt==0.4.0" pytest "numpy<2.4"
install --no-build-isolation --editable "$root[coreai]"
"$env_dir/bin/python" - <<'CHECK'
import executorch.version, torch
print("ExecuTorch environment ready: torch", torch.__version__, "ExecuTorch", executorch.version.__version__)
CHECK
