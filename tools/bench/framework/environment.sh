#!/bin/sh
# Builds the environment of the other compiler frameworks, apart from ours, so that neither can import the other.
#
# usage: tools/bench/framework/environment.sh [directory]      (default: .venv-frameworks beside pyproject.toml)
#
# Package sources are whatever pip is configured with.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../../.." && pwd)
env_dir=${1:-"$root/.venv-frameworks"}

. "$root/tools/cpu_environment.sh"

install "torch==2.13.0" attrs numpy \
    xdsl onnx onnx-ir onnxscript
# TVM is one side of several: without a build for this platform the others are still measured.
install "torch==2.13.0" apache-tvm ||
    echo "environment: apache-tvm does not install here; its column stays empty" >&2
