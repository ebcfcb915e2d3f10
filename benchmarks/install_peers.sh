#!/bin/sh
# install_peers.sh PYTHON REQUIREMENTS: installs the peers one by one, so that one which cannot be had does not hold up the others.
set -u
python=$1
requirements=$2
held=$(mktemp)
trap 'rm -f "$held"' EXIT
"$python" -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' >"$held" || exit 1
each() { grep -v '^#' "$1"; }
for peer in $(each "$requirements"); do
    "$python" -m pip install --quiet --disable-pip-version-check --constraint "$held" "$peer" || echo "absent: $peer"
done
for peer in $(each "$(dirname "$requirements")/requirements-nodeps.txt"); do
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$peer" || echo "absent: $peer"
done
