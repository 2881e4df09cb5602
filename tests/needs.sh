#!/bin/sh
# Makes sure that programs and libraries are there: PACKAGE:PROGRAM, PACKAGE:LIBRARY.pc or PACKAGE:MODULE.py (of Python)
# for each. Installs the Debian packages that are missing if it may, otherwise names the command that does.
set -eu

is_there() {
  case $1 in
    *.pc) command -v pkg-config >/dev/null && pkg-config --exists "${1%.pc}" ;;
    *.py)
      # Debian's own python3 has the modules of Debian's packages, whichever comes first on the path.
      for python in python3 /usr/bin/python3; do
        command -v "$python" >/dev/null && "$python" -c "import ${1%.py}" 2>/dev/null && return 0
      done
      return 1
      ;;
    *)
      # Daemons are not on a user's path, and PostgreSQL's versions are not on anybody's.
      command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1
      ;;
  esac
}

missing=
for need in "$@"; do
  is_there "${need#*:}" || missing="$missing ${need%%:*}"
done
[ -n "$missing" ] || exit 0

command="apt-get install --yes --no-install-recommends$missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing what is missing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  # Some packages start a service when they are installed, which nobody here has asked for.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  { apt-get update && $command; } >&2 || { echo "It could not be installed. Run: apt-get update && $command" >&2; exit 1; }
else
  echo "Missing on this machine:$missing. Run as root: $command" >&2
  exit 1
fi
for need in "$@"; do
  is_there "${need#*:}" || { echo "${need%%:*} is installed, and ${need#*:} is still not found" >&2; exit 1; }
done
