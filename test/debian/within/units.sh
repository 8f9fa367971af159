#!/usr/bin/env bash
# units.sh install|again|end: the daemon as `snapswitch install --take br0` sets it up, run by systemd, on a host whose br0 systemd-networkd
# makes at every boot. `again`: after a reboot. A word per step.
. "$(dirname "$0")/lab.sh"

# Two ends on br0: containers, say, which networkd puts there.
ends() {
  for n in 1 2; do
    ip netns add "end$n"
    ip link add eth0 netns "end$n" type veth peer name "lan$n"
    ip -n "end$n" link set lo up
    ip -n "end$n" address add "10.68.0.$n/24" dev eth0
    ip -n "end$n" link set eth0 up
  done
}
joined() { [ "$(ip -o link show master br0 2>/dev/null | grep -c ' lan[12]@')" = 2 ]; }
reaches() { ip netns exec end1 ping -q -c 1 -W 1 10.68.0.2 >/dev/null && ip netns exec end2 ping -q -c 1 -W 1 10.68.0.254 >/dev/null; }
# By the rules that keep the bridge from its ports: whoever reaches anybody then does so by the switch. (The command line takes its
# time on an emulated machine.)
taken() { [ "$(nft list ruleset | sed -n '/set taken/,/}/p' | grep -oE 'lan[12]' | sort -u | wc -l)" = 2 ]; }
forwards() {
  soon taken
  soon reaches
}
of_unit() { systemctl show -P "$2" "snapswitch-$1"; }
back_again() { # back_again ROLE PID
  [ "$(of_unit "$1" MainPID)" -gt 0 ] && [ "$(of_unit "$1" MainPID)" != "$2" ] && systemctl -q is-active "snapswitch-$1"
}
tables() { grep -c snapswitch <(nft list tables) || :; }

case $1 in
install)
  mkdir -p /etc/systemd/network
  printf '[NetDev]\nName=br0\nKind=bridge\n' >/etc/systemd/network/br0.netdev
  printf '[Match]\nName=br0\n[Network]\nAddress=10.68.0.254/24\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n' >/etc/systemd/network/br0.network
  printf '[Match]\nName=lan*\n[Network]\nBridge=br0\n' >/etc/systemd/network/lan.network
  systemctl -q enable --now systemd-networkd
  soon test -e /sys/class/net/br0
  ends
  soon joined
  soon reaches
  echo 'a bridge'
  snapswitch install --take br0 >"$results/install" 2>&1 || { cat "$results/install"; exit 1; }
  forwards
  echo 'installed: forwards'
  systemd-analyze verify snapswitch-switch.service snapswitch-coordinator.service 2>&1 | grep -i snapswitch | grep -v "Command 'man " || echo 'verified'
  systemd-analyze security --no-pager snapswitch-switch.service | tail -n 1 >"$results/security"

  # Numbered packets, to and fro, while the daemon is killed.
  ip netns exec end1 ping -D -i 0.05 10.68.0.2 >"$results/kill" &
  pings=$!
  soon grep -q 'icmp_seq=50 ' "$results/kill"
  before=$(of_unit switch MainPID)
  kill -9 "$before"
  soon back_again switch "$before"
  soon taken
  last=$(tail -n 1 "$results/kill" | grep -o 'icmp_seq=[0-9]*' | cut -d = -f 2)
  soon grep -q "icmp_seq=$((last + 50)) " "$results/kill"
  kill -INT "$pings"
  wait "$pings" || :
  forwards
  echo 'killed: back, forwards'
  # Which packets were sent is in their numbers: the last one that was answered is the last that counts.
  awk -F '[][ =]' '/icmp_seq=/ { for (i = 1; i < NF; i++) if ($i == "icmp_seq") n = $(i + 1); if (seen[n]++) twice++; else got++
    if (last && $2 - last > gap) gap = $2 - last; last = $2; if (!first) first = n; most = n }
    END { printf "killed: %d of %d packets lost, %d came twice, none for %d ms\n", most - first + 1 - got, most - first + 1, twice, gap * 1000 }' \
    "$results/kill" >"$results/outage"

  printf 'networks:\n  br0:\n    hosts:\n      lab: { socket: /run/snapswitch/switch.sock }\n' >/etc/snapswitch/coordinator.yaml
  snapswitch install --coordinator >"$results/install-coordinator" 2>&1 || { cat "$results/install-coordinator"; exit 1; }
  soon systemctl -q is-active snapswitch-coordinator
  # The one inside the switch makes way for it.
  serves() { snapswitch status >"$results/status" 2>&1 && grep -q '^coordinator: version' "$results/status"; }
  soon serves
  grep -oE '^(switch lab|coordinator):' "$results/status" | sort -u | paste -sd ' '
  before=$(of_unit coordinator MainPID)
  kill -9 "$before"
  soon back_again coordinator "$before"
  echo 'coordinator: back'

  systemctl stop snapswitch-switch
  ! ip link show ssh-br0 >/dev/null 2>&1 && [ "$(tables)" = 0 ] || { echo 'something is left'; exit 1; }
  soon reaches
  echo "stopped: $(of_unit switch Result) $(of_unit switch ExecMainStatus), the kernel forwards"
  systemctl start snapswitch-switch
  forwards
  echo 'started: forwards'
  # Units that wait for each other in a circle are named, and one of them would be left out of the next boot.
  systemd-analyze verify default.target 2>&1 | grep -i 'ordering cycle' || echo 'no circle'
  ;;
again)
  ends
  soon joined
  forwards
  echo 'booted: forwards'
  echo "booted: $(of_unit switch NRestarts) restarts, $(of_unit coordinator ActiveState) coordinator"
  systemctl --failed --no-legend --plain | grep snapswitch || echo 'booted: none has failed'
  journalctl -b -q | grep -i 'ordering cycle' || echo 'booted: no circle'
  ;;
end)
  snapswitch uninstall >"$results/uninstall" 2>&1 || { cat "$results/uninstall"; exit 1; }
  ! ip link show ssh-br0 >/dev/null 2>&1 && [ "$(tables)" = 0 ] || { echo 'something is left'; exit 1; }
  ls /etc/systemd/system/snapswitch-*.service 2>/dev/null || echo 'uninstalled'
  soon reaches
  echo 'the kernel forwards'
  for n in 1 2; do ip netns del "end$n"; done
  ;;
esac
