#!/usr/bin/env bash
# units.sh install|features|upgrade|again|end: the daemon as `snapswitch install --take br0` sets it up, run by systemd, on a host whose br0 systemd-networkd
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
# Machines that are named, and QEMU's processes of them.
members() { snapswitch port list 2>/dev/null | grep -c ' member ' || :; }
has_members() { [ "$(members)" = "$1" ]; }
qemu_of() { pgrep -of -- "(-name |guest=)$1[ ,]"; }
of_switch() { grep -q snapswitch-switch "/proc/$1/cgroup"; }
lives() { [ "$(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null)" != Z ] && [ -e "/proc/$1" ]; }
restarted() { # restarted COMMAND...: the daemon is another one, and has the bridge
  local before
  before=$(of_unit switch MainPID)
  "$@"
  soon back_again switch "$before"
  forwards
}
tables() { grep -c snapswitch <(nft list tables) || :; }

# Seconds in which TCP has brought something.
intervals() { [ "$(grep -cE '[1-9][0-9.]* .?bits/sec' "$results/tcp")" -ge "$1" ]; }
exposed() { systemd-analyze security --no-pager "snapswitch-$1.service" | tail -n 1 >>"$results/security"; }
numbered=/usr/local/repository/dist/test/takeover/numbered

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
  systemd-analyze verify snapswitch-switch.service 2>&1 | grep -i snapswitch | grep -v "Command 'man " || echo 'verified'
  exposed switch

  # Numbered packets and a TCP connection, while the daemon is killed.
  ip netns exec end2 "$numbered" receive 5001 >"$results/received" &
  receiver=$!
  soon grep -q ready "$results/received"
  ip netns exec end1 "$numbered" send 10.68.0.2 5001 >"$results/sent" &
  sender=$!
  ip netns exec end2 iperf3 --server --one-off --forceflush >"$results/tcp" &
  soon grep -q listening "$results/tcp"
  ip netns exec end1 iperf3 --client 10.68.0.2 --time 3600 --bitrate 2M >"$results/tcp-client" 2>&1 &
  transfer=$!
  soon intervals 3
  before=$(of_unit switch MainPID)
  kill -9 "$before"
  soon back_again switch "$before"
  forwards
  echo 'killed: back, forwards'
  soon intervals $(($(grep -cE '[1-9][0-9.]* .?bits/sec' "$results/tcp") + 3))
  lives "$transfer" && echo 'killed: TCP goes on'
  kill -TERM "$transfer" "$sender"
  wait "$transfer" "$sender" || :
  sleep 1
  kill -TERM "$receiver"
  wait "$receiver" || :
  echo "killed: $(tail -n 1 "$results/sent") $(tail -n 1 "$results/received")" >"$results/outage"

  printf 'networks:\n  br0:\n    hosts:\n      lab: { socket: /run/snapswitch/switch.sock }\n' >/etc/snapswitch/coordinator.yaml
  snapswitch install --coordinator >"$results/install-coordinator" 2>&1 || { cat "$results/install-coordinator"; exit 1; }
  soon systemctl -q is-active snapswitch-coordinator
  # The one inside the switch makes way for it.
  exposed coordinator
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
features)
  # What the unit takes from the daemon is missed nowhere: machines of both kinds are found, saved and loaded, and go on when the
  # daemon ends.
  mkdir -p /srv/lab
  ip tuntap add tap-one mode tap
  ip link set tap-one master br0 up
  qemu-img create -q -f qcow2 /srv/lab/one.qcow2 16M
  setsid -f qemu-system-x86_64 -name one -machine pc -accel tcg -m 32 -display none -nodefaults -device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01 \
    -netdev tap,id=n,ifname=tap-one,script=no,downscript=no -drive file=/srv/lab/one.qcow2,if=virtio,id=d -qmp unix:/srv/lab/one.qmp,server=on,wait=off \
    </dev/null >"$results/one.log" 2>&1
  qemu-img create -q -f qcow2 /var/lib/libvirt/images/two.qcow2 16M
  cat >/srv/lab/two.xml <<'XML'
<domain type='qemu'><name>two</name><memory unit='MiB'>32</memory><os><type machine='pc'>hvm</type></os><devices>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/two.qcow2'/><target dev='vda' bus='virtio'/></disk>
  <interface type='bridge'><source bridge='br0'/><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>
</devices></domain>
XML
  virsh -q define /srv/lab/two.xml
  virsh -q start two
  soon has_members 2
  echo 'machines: found'
  # An emulated machine's own machines stand still for too long while libvirt saves them.
  virsh -q destroy two
  soon has_members 1
  snapswitch snapshot create br0 --name s1 --deadline 300s >"$results/create" 2>&1 || { cat "$results/create"; exit 1; }
  grep -o 'snapshot br0/s1: complete' "$results/create"
  before=$(qemu_of one)
  snapswitch snapshot restore s1 --replace --deadline 300s >"$results/restore" 2>&1 || { cat "$results/restore"; exit 1; }
  one=$(qemu_of one)
  [ "$one" != "$before" ] && of_switch "$one" && echo 'machine: loaded by the daemon'
  restarted systemctl restart snapswitch-switch
  soon has_members 1
  lives "$one" && echo 'restarted: the machine goes on'
  restarted kill -9 "$(of_unit switch MainPID)"
  soon has_members 1
  lives "$one" && echo 'killed: the machine goes on'

  # A mirror, a capture, and the kernel's fast path.
  ip link add probe up type veth peer name probe0
  ip link set probe0 up
  sed -i 's/^networks:.*/networks: { br0: { bridge: br0, ports: { probe0: { device: probe0, mirror: { of: [lan1] } } } } }\ndatapath: { fastPath: auto }/' \
    /etc/snapswitch/switch.yaml
  restarted systemctl restart snapswitch-switch
  tcpdump -c 1 -i probe icmp >"$results/probe" 2>&1 &
  probe=$!
  snapswitch capture br0 --write "$results/capture.pcapng" >"$results/capture" 2>&1 &
  capture=$!
  captured() { reaches && tcpdump -r "$results/capture.pcapng" icmp 2>/dev/null | grep 'echo reply' >/dev/null; }
  soon captured
  kill -INT "$capture"
  wait "$capture" || :
  echo 'captured'
  seen() { reaches && ! lives "$probe"; }
  soon seen
  echo 'mirrored'
  snapswitch doctor >"$results/doctor" 2>&1 || :
  journalctl -u snapswitch-switch -q --no-pager | { grep -iE 'EPERM|not permitted|SIGSYS' || :; } | head -n 3
  echo 'nothing was denied'
  ;;
upgrade)
  # As npm does it: the new one is put beside the old one, and takes its name; the old one goes. There is no registry here.
  mkdir -p /run/upper /run/work
  mount -t overlay overlay -o lowerdir=/usr/local,upperdir=/run/upper,workdir=/run/work /usr/local
  cd /usr/local/lib/node_modules
  cp -a snapswitch .snapswitch-new
  sed -i 's/"version": "[^"]*"/"version": "99.0.0"/' .snapswitch-new/package.json
  before=$(of_unit switch MainPID)
  mv snapswitch .snapswitch-old
  mv .snapswitch-new snapswitch
  rm -rf .snapswitch-old
  forwards
  snapswitch port list >"$results/ports" 2>&1 && [ "$(of_unit switch MainPID)" = "$before" ] && echo 'upgraded: the former daemon goes on'
  snapswitch snapshot create br0 --name s2 --deadline 300s >"$results/create" 2>&1 || cat "$results/create"
  grep -o 'snapshot br0/s2: complete' "$results/create"
  restarted eval 'snapswitch install >"$results/install" 2>&1 || cat "$results/install"'
  soon eval "snapswitch status 2>&1 | grep 'switch lab: version 99' >/dev/null"
  echo 'restarted: the new one'
  ;;
again)
  ends
  soon joined
  forwards
  echo 'booted: forwards'
  soon systemctl -q is-active snapswitch-coordinator
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
