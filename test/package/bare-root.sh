#!/usr/bin/env bash
# Run by package.test.ts in mount and PID namespaces of its own: bare-root.sh DIRECTORY PACKAGE NPM-CACHE. A root with nothing but
# the distribution's /usr, in which the package is installed as a user would, and used: doctor, two ports, a snapshot.
# Exit code 77: the registry cannot be reached.
set -euo pipefail
directory=$1 package=$2 cache=$3
root=$directory/root
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root"/{usr,proc,sys,dev,etc/ssl/certs,root/.npm,tmp,run,var/lib,var/tmp}
mount --bind /usr "$root/usr"
mount -o remount,bind,ro "$root/usr"
# What somebody has installed by hand is no part of a bare system.
mount -t tmpfs -o mode=755 tmpfs "$root/usr/local"
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
for name in passwd group nsswitch.conf resolv.conf hosts ld.so.cache ssl/certs/ca-certificates.crt; do
  [ ! -e "/etc/$name" ] || cp "/etc/$name" "$root/etc/$name"
done
[ ! -d /etc/alternatives ] || cp -r /etc/alternatives "$root/etc/alternatives"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind "$cache" "$root/root/.npm"
cp "$package" "$root/root/snapswitch.tgz"

inside() { chroot "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin "$@"; }

# How this machine reaches the registry: a mirror, a proxy, an authority of its owner's.
reach=()
for key in registry proxy https-proxy noproxy cafile; do
  value=$(npm config get "$key")
  case $value in '' | null | undefined) continue ;; esac
  reach+=("npm_config_${key//-/_}=$value")
  [ "$key" != cafile ] || [ -e "$root$value" ] || install -D -m 644 "$value" "$root$value"
done

if ! inside "${reach[@]}" npm install -g --prefix /usr/local --prefer-offline --no-audit --no-fund /root/snapswitch.tgz \
  >"$directory/install" 2>&1; then
  cat "$directory/install"
  grep -qE 'ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED|ENETUNREACH|ENOTCACHED' "$directory/install" && exit 77
  exit 1
fi

cat >"$root/root/use" <<'USE'
set -euo pipefail
cd /root
mount -t sysfs sysfs /sys
mkdir -p /etc/snapswitch /run/lab
ip link set lo up
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip tuntap add dev tap-web mode tap vnet_hdr
ip link set tap-web up
ip link add eth2 type veth peer name outside
ip link set eth2 up
ip link set outside up
qemu-system-x86_64 -accel tcg -machine pc -m 32 -nodefaults -display none -qmp unix:/run/lab/web.qmp,server=on,wait=off \
  -netdev tap,id=n0,ifname=tap-web,script=no,downscript=no -device virtio-net-pci,netdev=n0 &
cat >/etc/snapswitch/switch.yaml <<'YAML'
host: a
networks:
  lab0:
    ports:
      web: { device: tap-web, vm: web }
      lan: { device: eth2, kind: plain }
machines:
  web: { qmp: /run/lab/web.qmp }
YAML
cp /usr/local/lib/node_modules/snapswitch/examples/coordinator.yaml /etc/snapswitch/coordinator.yaml

echo '== doctor'
snapswitch doctor
until [ -S /run/lab/web.qmp ]; do sleep 0.1; done
for role in switch coordinator; do
  snapswitch "$role" --config "/etc/snapswitch/$role.yaml" 2>"/root/$role.log" &
  echo $! >"/root/$role.pid"
done
until snapswitch status >/root/status 2>&1 && grep -q 'coordinator:' /root/status && grep -q 'switch a:' /root/status; do
  for role in switch coordinator; do
    kill -0 "$(cat "/root/$role.pid")" || { cat "/root/$role.log"; exit 1; }
  done
  sleep 0.2
done
echo '== ports'
snapswitch port list
echo '== snapshot'
snapswitch snapshot create lab0 --name first
snapswitch snapshot verify first
snapswitch snapshot restore first --replace
snapswitch snapshot delete first
echo '== end'
for role in coordinator switch; do
  kill "$(cat "/root/$role.pid")"
  wait "$(cat "/root/$role.pid")"
done
ls /usr/local/share/man/man1/snapswitch.1 /usr/local/share/man/man5/snapswitch.yaml.5
echo '== done'
USE
# Machines that are left, and all else, end with this PID namespace.
unshare --net chroot "$root" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin bash /root/use
