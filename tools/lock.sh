#!/bin/sh
# Remake requirements/*.txt: pinned, hashed, for every supported Python and platform, and naming no index.
# dev.txt comes first and the others follow it, so that no two locks disagree on a version.
set -eu
: "${UV:=uv}"

compile() {
    "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --upgrade "$@"
}

compile pyproject.toml --extra cli --extra sqlite --extra postgres --group dev -o requirements/dev.txt
compile pyproject.toml --extra cli --extra sqlite --group build -c requirements/dev.txt -o requirements/run.txt
compile --group pyproject.toml:node -o requirements/node.txt

if grep -nE '://|^-' requirements/*.txt; then
    echo "a lock names a place to download from (above)" >&2
    exit 1
fi
