# Sourced by what runs in the Debian machine: namespaces that are joined by a bridge, or by a switch. Nothing is left of it but what is
# in the directory of results.
# shellcheck shell=bash
set -euo pipefail
results=/run/results
mkdir -p "$results"

# lab KIND ENDPOINT...: a namespace for each, with eth0 (10.66.0.N, fd66::N), whose other end is a port. `bare` has no offloads.
lab() {
  local kind=$1 n=0 name
  shift
  ip netns add host
  ip -n host link set lo up
  for name; do
    n=$((n + 1))
    ip netns add "$name"
    ip -n "$name" link set lo up
    ip link add eth0 netns "$name" type veth peer name "$name" netns host
    if [ "$name" = bare ]; then
      ip netns exec bare ethtool -K eth0 tx off tso off gso off gro off >/dev/null
      ip netns exec host ethtool -K bare tx off tso off gso off gro off >/dev/null
    fi
    ip -n "$name" address add "10.66.0.$n/24" dev eth0
    ip -n "$name" address add "fd66::$n/64" dev eth0 nodad
    ip -n "$name" link set eth0 up
    ip -n host link set "$name" up
  done
  if [ "$kind" = bridge ]; then
    ip -n host link add br0 up type bridge mcast_snooping 0
    for name; do ip -n host link set "$name" master br0; done
  else
    # The fast path hands frames on as a bridge does: what the daemon makes of them is looked at here.
    {
      printf 'host: lab\napi: { socket: /run/lab.sock }\nstate: /run/lab.state\ndatapath: { fastPath: off }\nnetworks:\n  lab0:\n    ports:\n'
      for name; do printf '      %s: { device: %s, kind: plain }\n' "$name" "$name"; done
    } >/run/lab.yaml
    start_switch
  fi
}

start_switch() {
  ip netns exec host snapswitch switch --config /run/lab.yaml 2>>"$results/switch.log" &
  daemon=$!
  local tries=0
  until [ -S /run/lab.sock ]; do
    kill -0 "$daemon" && [ "$tries" -lt 600 ] || { cat "$results/switch.log"; exit 1; }
    tries=$((tries + 1))
    sleep 0.2
  done
}

# reached FROM ADDRESS...: each address is known to the other end's kernel: what is sent while that asks for it finds no room in a queue.
reached() {
  local from=$1 address
  shift
  for address; do soon ip netns exec "$from" ping -q -c 1 -W 1 "$address" >/dev/null; done
}

ports() { snapswitch port list --socket /run/lab.sock "$@"; }

# soon COMMAND...: until it succeeds, for a minute at most.
soon() {
  local tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { echo "not within a minute: $*"; exit 1; }
    sleep 0.1
  done
}

end_lab() {
  if [ -n "${daemon:-}" ]; then
    kill "$daemon"
    wait "$daemon"
    daemon=
  fi
  for name in $(ip netns list | cut -d ' ' -f 1); do ip netns del "$name"; done
}
