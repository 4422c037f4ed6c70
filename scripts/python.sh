#!/bin/sh
# Prints the Python to make .venv with: $1, or the first of the usual names that is 3.11 or newer.
# Says in one line what is missing otherwise.
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
wanted=${1:-python3}
python=
for candidate in "$wanted" python3.13 python3.12 python3.11 python3.14; do
    if "$candidate" -c "$new_enough" 2>/dev/null; then python=$candidate; break; fi
    # A Python that was asked for by name is never replaced by another one.
    if [ "$wanted" != python3 ]; then break; fi
done
if [ -z "$python" ]; then
    found=$("$wanted" -c 'import sys; print(sys.version.split()[0], "at", sys.executable)' 2>/dev/null) || found="none"
    echo "overlapped needs Python 3.11 or newer; $wanted is: $found. Try: make PY=/path/to/python3.12" >&2
    exit 2
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    echo "$python cannot make virtual environments. On Debian and Ubuntu: sudo apt install $version-venv" >&2
    exit 2
fi
echo "$python"
