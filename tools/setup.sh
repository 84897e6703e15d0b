#!/usr/bin/env bash
# Install what the demo and the tests need: system libraries, a virtual environment in .venv, the package.
# Safe to run again. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

fail() {
    echo "$*" >&2
    exit 1
}

step() { # step MESSAGE COMMAND...: one line if it works, the command's output if it does not
    local started=$SECONDS
    printf '%s ... ' "$1"
    shift
    if "$@" >"$LOG" 2>&1; then
        echo "done ($((SECONDS - started)) s)"
    else
        echo "failed"
        cat "$LOG" >&2
        fail "The step above failed: $*"
    fi
}

has_python() { # has_python EXPRESSION: is it true in the chosen interpreter?
    "$PYTHON" -c "import sys, os, sysconfig; sys.exit(not ($1))" 2>/dev/null
}

has_suitesparse() { # headers that apt did not install: conda, Homebrew, own build
    local folder
    for folder in "${SUITESPARSE_INCLUDE_DIR:-}" "${CONDA_PREFIX:-}/include/suitesparse" \
        /opt/homebrew/include/suitesparse /usr/local/include/suitesparse "$@"; do
        [ -f "$folder/SuiteSparse_config.h" ] && return 0
    done
    return 1
}

missing_packages() {
    local package version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    for package in libsuitesparse-dev libopenblas0-pthread; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || echo "$package"
    done
    command -v cc >/dev/null || command -v gcc >/dev/null || echo gcc libc6-dev
    has_python '__import__("ensurepip")' || echo "python$version-venv"
    has_python 'os.path.exists(sysconfig.get_path("include") + "/Python.h")' || echo "python$version-dev"
}

install_packages() {
    local root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "Not root, and there is no sudo. As root: apt-get install $*"
        root=(sudo)
    fi
    step "Updating the list of system packages" "${root[@]}" apt-get update -q
    step "Installing $*" "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@"
}

command -v "$PYTHON" >/dev/null || fail "There is no $PYTHON. Install Python 3.10 or newer, or give it: make PYTHON=..."
has_python 'sys.version_info >= (3, 10)' || fail "$PYTHON is too old: sparselmm needs Python 3.10 or newer. Give another: make PYTHON=..."

if command -v apt-get >/dev/null && ! has_suitesparse; then
    # shellcheck disable=SC2207
    packages=($(missing_packages))
    [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
elif ! has_suitesparse /usr/include/suitesparse; then
    fail "SuiteSparse is missing: 'conda install -c conda-forge suitesparse' or 'brew install suite-sparse', then run this again."
fi

[ -x .venv/bin/python ] || step "Creating the virtual environment .venv" "$PYTHON" -m venv .venv
step "Installing sparselmm and its dependencies" .venv/bin/python -m pip install -q -e '.[dev]'
touch .venv/.setup-done
