# Sourced by the scripts that build environments: makes one at $env_dir, with a build of torch for the CPU, and defines
# `install`. Package sources are whatever pip is configured with.
[ -x "$env_dir/bin/python" ] || "${PYTHON:-python3}" -m venv "$env_dir"
install() { "$env_dir/bin/python" -m pip install --quiet "$@"; }

install "setuptools>=77" wheel
# torch alone and first: later requirements are then satisfied. A build for CUDA would bring gigabytes of libraries: it
# is refused before they come.
install --no-deps "torch==2.13.0"
if "$env_dir/bin/python" -m pip show torch | grep -q '^Requires:.*nvidia'; then
    echo "environment: pip finds a build of torch for CUDA; point pip at an index of CPU builds" >&2; exit 1
fi
