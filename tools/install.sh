#!/bin/sh
# Fill a virtual environment from a lock, then add this checkout to it as an editable install.
# install.sh PYTHON VENV LOCK
set -eu
python=$1 venv=$2 lock=$3

say() { printf 'penstock: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

command -v "$python" >/dev/null 2>&1 || die "there is no '$python' here. Penstock needs Python 3.11 or newer" \
    "(PYTHON=/path/to/python3.12 make ... picks one)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version 2>&1) is too old: Penstock needs Python 3.11 or newer" \
        "(PYTHON=/path/to/python3.12 make ... picks one)."

# Debian and its kin ship python3 without ensurepip: a venv made there would have no pip.
has_venv() { "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; }
if ! has_venv; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "this Python has no venv: installing the package $package"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -q && apt-get install -q -y "$package"; } >/dev/null 2>&1 || say "apt-get could not install it"
    fi
    has_venv || die "this Python has no venv, or no ensurepip in it. On Debian and Ubuntu: sudo apt-get install $package;" \
        "then run make again."
fi

# A folder left by another interpreter, or by a run that was cut short, is made anew.
if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1 ||
    [ "$("$python" -c 'import sys; print(sys.version)')" != "$("$venv/bin/python" -c 'import sys; print(sys.version)')" ]; then
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }
say "installing $lock into $venv"
pip install --require-hashes -r "$lock"
pip install --no-deps --no-build-isolation --no-index -e .
