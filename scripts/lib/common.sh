# Shell helpers that the scripts share; sourced, never run. They install only what is missing and say so.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '  %s\n' "$2" >&2
  exit "${3:-1}"
}

need_root() {
  [ "$(id -u)" = 0 ] || die 'this needs root: network namespaces, TAP devices and packet sockets' "Run: sudo $0"
}

need_amd64_linux() {
  [ "$(uname -sm)" = 'Linux x86_64' ] || die "this runs on Linux x86_64 only, not on $(uname -sm)"
}

need_node() {
  local least
  least=$(sed -n 's/^ *"node": ">=\(.*\)"$/\1/p' "$repository/package.json")
  command -v node >/dev/null || die 'Node.js is missing' "Install Node.js $least or later and run this again."
  node -e 'process.exit(process.versions.node.localeCompare(process.argv[1], "en", { numeric: true }) < 0 ? 1 : 0)' "$least" ||
    die "Node.js $(node --version) is too old" "Install Node.js $least or later and run this again."
}

# need_packages COMMAND-OR-FILE:PACKAGE...   Installs the Debian packages whose command (or file) is not there.
need_packages() {
  local pair missing=()
  for pair in "$@"; do
    case $pair in
      /*) [ -e "${pair%%:*}" ] || missing+=("${pair##*:}") ;;
      *) PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "missing: ${missing[*]}" 'This is no Debian: install these packages your own way.'
  [ "$(id -u)" = 0 ] || die "missing Debian packages: ${missing[*]}" "Run: sudo apt-get install ${missing[*]}"
  say "Installing Debian packages: ${missing[*]}"
  refresh_package_lists
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install: ${missing[*]}" 'See its message above.'
}

# A fresh system or image has no package lists; old ones name versions that the mirror no longer has.
refresh_package_lists() {
  [ -z "${package_lists_fresh:-}" ] || return 0
  [ "$(id -u)" = 0 ] || return 0
  apt-get update -q >&2 || die 'apt-get update failed' 'Check the network and /etc/apt/sources.list.'
  package_lists_fresh=1
}

# fetch_packages DIRECTORY NAME...: unpacks Debian packages into DIRECTORY/NAME, each once, and installs none.
fetch_packages() {
  local directory=$1 name missing=()
  shift
  for name in "$@"; do [ -d "$directory/$name" ] || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "Downloading ${missing[*]} (to unpack, not to install)"
  local work=$directory/part
  rm -rf "$work"
  mkdir "$work"
  # As root, apt fetches as its own user: let it write here.
  [ "$(id -u)" != 0 ] || chown _apt "$work" 2>/dev/null || true
  # All at once: apt takes a second of a processor to read its lists.
  (cd "$work" && apt-get download -q "${missing[@]}" >&2) ||
    die "cannot download Debian packages: ${missing[*]}" 'Check the network; try: apt-get update'
  for name in "${missing[@]}"; do
    dpkg-deb -x "$work/$name"_*.deb "$work/$name"
    mv "$work/$name" "$directory/$name"
  done
  rm -rf "$work"
}

# npm packages and the compiled program, when they are missing or older than their sources.
need_build() {
  local stamp=$repository/node_modules/.package-lock.json
  if [ ! -e "$stamp" ] || [ "$repository/package-lock.json" -nt "$stamp" ]; then
    say 'Installing npm packages'
    (cd "$repository" && npm ci --no-audit --no-fund --loglevel=error >&2) || die 'npm ci failed' 'See its message above.'
    touch "$stamp"
  fi
  stamp=$repository/dist/.built
  if [ ! -e "$stamp" ] || [ -n "$(find "$repository" -path "$repository/node_modules" -prune -o -path "$repository/dist" -prune -o \
    -path "$repository/.git" -prune -o \( -name '*.ts' -o -name tsconfig.json -o -name package.json \) -newer "$stamp" -print -quit)" ]; then
    say 'Compiling'
    local began
    began=$(mktemp)
    (cd "$repository" && npm run --silent build >&2) || { rm -f "$began"; die 'the build failed' 'See its message above.'; }
    # The time at which the compile began: what was edited meanwhile is newer, and is compiled next time.
    touch -r "$began" "$stamp"
    rm -f "$began"
  fi
  # A compile by other hands has left it behind.
  (cd "$repository" && node scripts/lib/bundle.js >&2) || die 'the bundle could not be made' 'See its message above.'
}
