#!/bin/sh
# Pin every development dependency by version and hash, for every Python and system we support, from the ranges of pyproject.toml.
# Needs uv. The file names no index, so that it installs from whichever one the machine is set up for.
set -eu
cd "$(dirname "$0")/.."
uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@" -o requirements-dev.txt.new
{
    echo "# Every development dependency by version and hash, made by tools/lock.sh from pyproject.toml. Do not edit."
    grep -v -e '^--index-url' -e '^--extra-index-url' -e '^--find-links' requirements-dev.txt.new
} >requirements-dev.txt
rm requirements-dev.txt.new
