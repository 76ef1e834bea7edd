#!/bin/sh
# Writes fleets of simulated agents to a broker and has the Spark example audit them.
# Arguments are those of `python -m bench.fleet.check`.
set -eu
cd "$(dirname "$0")/../.."
venv=.cache/examples-venv
mkdir -p .cache
(
    flock 9
    test -x $venv/bin/python || python3 -m venv $venv
    $venv/bin/python -c 'import pyspark' 2>/dev/null || {
        install="$venv/bin/pip install -q --disable-pip-version-check --require-hashes"
        $install -r requirements-build.txt
        $install --no-build-isolation -r examples/requirements.txt
    }
) 9>$venv.lock
exec .venv/bin/python -m bench.fleet.check "$@"
