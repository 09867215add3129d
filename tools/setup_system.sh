#!/usr/bin/env bash
# Install what pip cannot: a C++ compiler, Python's headers and venv, make, git, and QEMU's
# image tools, libnbd's, nbdkit and fio, which the tests compare and measure with.
set -euo pipefail

python="${PYTHON:-python3}"
missing=()
command -v "$python" >/dev/null || missing+=(python3)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import os, sysconfig
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
    missing+=(python3-dev)
command -v c++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v git >/dev/null || missing+=(git)
command -v qemu-img >/dev/null || missing+=(qemu-utils)
command -v fio >/dev/null || missing+=(fio)
command -v nbdinfo >/dev/null || missing+=(libnbd-bin)
command -v nbdkit >/dev/null || missing+=(nbdkit)
nbdkit python --version >/dev/null 2>&1 || missing+=(nbdkit-plugin-python)

if [[ ${#missing[@]} -eq 0 ]]; then
    echo "setup-system: nothing is missing"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "setup-system: needs ${missing[*]}, and there is no apt-get here;" \
        "install them with this system's package manager" >&2
    exit 1
fi
if [[ "$(id -u)" -ne 0 ]]; then
    echo "setup-system: needs root to install ${missing[*]}; run" \
        "\`sudo make setup-system\` or install them yourself" >&2
    exit 1
fi
echo "setup-system: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --yes --quiet --quiet --no-install-recommends "${missing[@]}"
