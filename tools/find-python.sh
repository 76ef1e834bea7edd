#!/usr/bin/env bash
# Prints the path of a Python of this machine: on the PATH, or of pyenv; exit status 1 without one.
#   tools/find-python.sh 3.12
set -euo pipefail
# pyenv's shims answer for versions that they cannot run, hence the trial.
for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
	if "$candidate" -c 'import venv' 2>/dev/null; then
		command -v "$candidate"
		exit
	fi
done
exit 1
