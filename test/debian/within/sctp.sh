#!/usr/bin/env bash
# sctp.sh bridge|switch: associations between stacks that leave checksums and cutting to whoever sends, and to one that takes
# finished packets only. Prints a line for each. The packets that arrived are in $results/sctp-KIND-NAME.pcap.
. "$(dirname "$0")/lab.sh"
kind=$1
modprobe sctp
lab "$kind" one two bare
for name in one two bare; do
  ip netns exec "$name" sysctl -qw net.sctp.auth_enable=1 net.sctp.encap_port=0 net.sctp.udp_port=9899
  ip -n "$name" link add link eth0 name eth0.7 type vlan id 7
  ip -n "$name" link set eth0.7 up
done
ip -n one address add 10.67.0.1/24 dev eth0.7
ip -n two address add 10.67.0.2/24 dev eth0.7
ip -n bare address add 10.67.0.3/24 dev eth0.7
reached one 10.66.0.2 fd66::2 10.67.0.2 10.66.0.3 fd66::3 10.67.0.3

# last_of TO FILE: sends it, and says whether the capture has it.
last_of() {
  local address=10.66.0.2
  [ "$1" = two ] || address=10.66.0.3
  ip netns exec one ping -q -c 1 -W 1 -p 6c617374 "$address" >/dev/null
  grep -aq lastlastlast "$2"
}

# association NAME TO ADDRESS [auth] [udp]
association() {
  local name=$1 to=$2 address=$3
  shift 3
  ip netns exec "$to" tcpdump -Q in -i eth0 -w "$results/sctp-$kind-$name.pcap" --immediate-mode -U sctp or udp port 9899 or icmp or vlan 2>"$results/tcpdump" &
  local capture=$!
  soon grep -q listening "$results/tcpdump"
  ip netns exec "$to" lab-traffic listen "$address" 5000 "$@" >"$results/heard" &
  local listener=$!
  soon grep -q listening "$results/heard"
  ip netns exec one timeout 60 lab-traffic send "$address" 5000 36 "$@" || echo "$name: the sender ended with $?"
  wait "$listener"
  # What tcpdump has not written when it is ended is lost. The last packet says that all are there.
  soon last_of "$to" "$results/sctp-$kind-$name.pcap"
  kill -INT "$capture"
  wait "$capture"
  echo "$name: $(tail -n 1 "$results/heard")"
}

association plain two 10.66.0.2
association six two fd66::2
association vlan two 10.67.0.2
association auth two 10.66.0.2 auth
association udp two 10.66.0.2 udp
association bare bare 10.66.0.3
association bare-six bare fd66::3
association bare-vlan bare 10.67.0.3
association bare-auth bare 10.66.0.3 auth
association bare-udp bare 10.66.0.3 udp
[ "$kind" = bridge ] || ports --json >"$results/sctp-ports.json"
end_lab
