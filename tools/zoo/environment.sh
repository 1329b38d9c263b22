#!/bin/sh
# Builds an environment of the zoo: torch, one of the two packages that compress, transformers and timm.
#
# usage: tools/zoo/environment.sh ours [directory]      (default: .venv-zoo beside pyproject.toml)
#        tools/zoo/environment.sh peer [directory]      (default: .venv-zoo-peer)
#
# Package sources are whatever pip is configured with. Every package whose requirements could bring another build of
# torch is installed with --no-deps, and what it needs beside torch is named here.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
side=${1:-ours}
case "$side" in
    ours) env_dir=${2:-"$root/.venv-zoo"} ;;
    peer) env_dir=${2:-"$root/.venv-zoo-peer"} ;;
    *) echo "environment.sh: the side is 'ours' or 'peer', not '$side'" >&2; exit 2 ;;
esac
. "$root/tools/cpu_environment.sh"

if [ "$side" = ours ]; then
    install --no-build-isolation --editable "$root[coreai,coreml]"
else
    install "torch==2.13.0" "coreai-opt==0.4.0" "coreai-torch==0.4.3" attrs ninja safetensors "numpy<2.4"
fi
install --no-deps "transformers==5.24.0" "timm==1.0.31" "torchvision==0.28.0"
# What transformers and timm import.
install huggingface_hub tokenizers safetensors regex pyyaml packaging filelock tqdm pillow "numpy<2.4"
"$env_dir/bin/python" - <<'CHECK'
import torch, transformers
print("zoo environment ready: torch", torch.__version__, "transformers", transformers.__version__)
CHECK
