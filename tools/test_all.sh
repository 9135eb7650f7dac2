#!/bin/sh
# Run the tests on each CPython that is found, each in an environment of its own; fail if one fails or none is found.
# test_all.sh MAKE MINOR...
set -eu
make=$1
shift

# Print a working interpreter of minor version $1: on PATH first, then the newest release under pyenv.
find_python() {
    for python in "python$1" $(ls -d "$HOME/.pyenv/versions/$1".*/bin/python 2>/dev/null | sort -rV); do
        # A pyenv shim on PATH may exist and yet refuse to run: only what answers counts.
        if "$python" -c "
import sys, platform
sys.exit((platform.python_implementation(), '%d.%d' % sys.version_info[:2]) != ('CPython', '$1'))" >/dev/null 2>&1; then
            printf '%s\n' "$python"
            return
        fi
    done
}

tried= failed=
for minor in "$@"; do
    python=$(find_python "$minor")
    if [ -z "$python" ]; then
        printf '=== Python %s: not found, not tested\n' "$minor"
        continue
    fi
    printf '=== Python %s: %s\n' "$minor" "$("$python" --version)"
    tried="$tried $minor"
    "$make" --no-print-directory test PYTHON="$python" VENV=".venv-$minor" || failed="$failed $minor"
done

[ -n "$tried" ] || { printf 'no CPython of %s was found\n' "$*"; exit 1; }
[ -z "$failed" ] || { printf '=== failed on:%s (tried:%s)\n' "$failed" "$tried"; exit 1; }
printf '=== passed on:%s\n' "$tried"
