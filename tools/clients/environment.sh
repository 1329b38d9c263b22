#!/bin/sh
# Builds the environment of the ExecuTorch client: torch, ExecuTorch, graphpress and, for comparison, coreai-opt.
#
# usage: tools/clients/environment.sh [directory]      (default: .venv-executorch beside pyproject.toml)
#
# Package sources are whatever pip is configured with.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
env_dir=${1:-"$root/.venv-executorch"}
python=${PYTHON:-python3}
[ -x "$env_dir/bin/python" ] || "$python" -m venv "$env_dir"
install() { "$env_dir/bin/python" -m pip install --quiet "$@"; }

install "setuptools>=77" wheel
# The client runs on the CPU. A build of torch for CUDA would bring gigabytes of libraries: it is refused before they come.
install --no-deps "torch==2.13.0"
if "$env_dir/bin/python" -m pip show torch | grep -q '^Requires:.*nvidia'; then
    echo "environment.sh: pip finds a build of torch for CUDA; point pip at an index of CPU builds" >&2; exit 1
fi
install "torch==2.13.0" "executorch==1.5.1" "coreai-torch==0.4.3" "coreai-opt==0.4.0" pytest "numpy<2.4"
install --no-build-isolation --editable "$root[coreai]"
"$env_dir/bin/python" - <<'CHECK'
import executorch.version, torch
print("ExecuTorch environment ready: torch", torch.__version__, "ExecuTorch", executorch.version.__version__)
CHECK
