#!/usr/bin/env bash
# segments.sh bridge|switch: UDP datagrams that their sender's kernel joins to be cut later (UDP_SEGMENT, as QUIC servers use it), several
# sizes at a time; which arrive.
. "$(dirname "$0")/lab.sh"
kind=$1
lab "$kind" one two bare
reached one 10.66.0.2 fd66::2 10.66.0.3 fd66::3
for address in 10.66.0.2 fd66::2 10.66.0.3 fd66::3; do
  to=two
  [ "${address: -1}" = 2 ] || to=bare
  ip netns exec "$to" lab-traffic collect "$address" 6000 992 >"$results/heard" &
  collector=$!
  soon grep -q listening "$results/heard"
  senders=()
  for size in 1200 1000 700 333; do
    ip netns exec one lab-traffic segments "$address" 6000 8 "$size" &
    senders+=($!)
  done
  wait "${senders[@]}"
  wait "$collector"
  echo "$address: $(tail -n 1 "$results/heard")"
done
[ "$kind" = bridge ] || ports --json >"$results/segments-ports.json"
end_lab
