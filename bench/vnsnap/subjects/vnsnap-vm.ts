// The VNsnap-style switch where VNsnap's was: in a virtual machine on each host, that the machines' devices and the
// host's network card lead into. Where this machine has no KVM it is emulated, and its title says that.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ONE_PROCESSOR } from '../../../test/lab/guest.js'
import { guestImage } from '../../../test/lab/image.js'
import { hostsOf, parts } from '../../forwarding/subject.js'
import type { Lab } from '../../lab/lab.js'
import { command, type Service } from '../../lab/processes.js'
import type { NetworkSubject } from '../network.js'
import { compileVnsnap, vnsnapArguments } from './vnsnap.js'

const MEMORY_MIB = 96
const MTU = 1600
const addresses = { a: '10.98.0.1', b: '10.98.0.2' } as const

/** The machine's first process. Its command line has the address of the trunk's device, the devices, and the words. */
const init = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net; do
  insmod "/lib/modules/$module.ko"
done
for word in $(cat /proc/cmdline); do
  case $word in
    vnsnap.words=*) words=\${word#vnsnap.words=} ;;
    vnsnap.trunk=*) trunk=\${word#vnsnap.trunk=} ;;
    vnsnap.devices=*) devices=\${word#vnsnap.devices=} ;;
  esac
done
ip link set lo up
for device in $(echo "$devices" | sed 's/,/ /g'); do
  for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "/sys/class/net/$device" ] && break; sleep 0.1; done
  ip link set "$device" mtu ${MTU} up
  last=$device
done
[ -z "$trunk" ] || ip addr add "$trunk" dev "$last"
exec /vnsnap $(echo "$words" | sed 's/,/ /g') </dev/ttyS0 >/dev/ttyS0 2>&1
`

/**
 * The tiny guest's image with the switch instead of the guest's job: a later archive's files replace an earlier
 * one's.
 */
async function makeImage(lab: Lab): Promise<{ kernel: string; initramfs: string; accelerator: 'kvm' | 'tcg' }> {
  const { kernel, initramfs, accelerator } = await guestImage()
  const root = join(lab.scratch, 'vnsnap-root')
  mkdirSync(root)
  await compileVnsnap(root, '-static')
  writeFileSync(join(root, 'init'), init, { mode: 0o755 })
  const archive = join(lab.scratch, 'vnsnap.cpio')
  await command([
    'sh',
    '-c',
    'cd "$1" && printf "init\\nvnsnap\\n" | cpio --quiet -o -H newc -R 0:0 >"$2"',
    'sh',
    root,
    archive,
  ])
  const whole = join(lab.scratch, 'vnsnap-initramfs')
  writeFileSync(whole, Buffer.concat([readFileSync(initramfs), readFileSync(archive)]))
  return { kernel, initramfs: whole, accelerator }
}

/** Checksums and segments stay with the endpoints: the switch knows plain frames alone. */
const PLAIN = ['csum', 'gso', 'guest_csum', 'host_tso4', 'host_tso6', 'guest_tso4', 'guest_tso6'].map(
  (name) => `${name}=off`,
)

export const vnsnapVm: NetworkSubject = {
  id: 'vnsnap-vm',
  title: 'VNsnap-style in a VM',
  setup:
    'the same switch inside a virtual machine on each host (one vCPU, virtio-net, taps), as VNsnap had it; KVM where it runs, else emulated (TCG)',
  offloads: false,
  parts,
  hops: 4,
  slow: true,
  hasTrunk: true,
  version: async () => `bench/gear/vnsnap.c, ${(await guestImage()).accelerator.toUpperCase()}`,
  async attach(lab, topology, cores) {
    const image = await makeImage(lab)
    const daemons: Service[] = []
    if (topology === 'two-hosts') await lab.veth('a', 'trunk', 'b', 'trunk', MTU)
    for (const [index, { host, devices }] of hostsOf(topology).entries()) {
      const taps = [...devices.filter((device) => device !== 'trunk'), ...(topology === 'two-hosts' ? ['outer'] : [])]
      const names = taps.map((_, at) => `eth${at}`)
      const ports = names.slice(0, devices.filter((device) => device !== 'trunk').length)
      const peers = topology === 'two-hosts' ? [addresses[host === 'a' ? 'b' : 'a']] : []
      const words = vnsnapArguments({ spinUs: 0, address: addresses[host], peers, devices: ports }).join(',')
      const trunk = topology === 'two-hosts' ? ` vnsnap.trunk=${addresses[host]}/24` : ''
      const append = `console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check ipv6.disable=1 vnsnap.words=${words} vnsnap.devices=${names}${trunk}`
      const argv = [
        'qemu-system-x86_64',
        '-machine',
        `pc,accel=${image.accelerator}`,
        '-smp',
        ONE_PROCESSOR,
        '-m',
        String(MEMORY_MIB),
      ]
      argv.push('-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio')
      argv.push('-kernel', image.kernel, '-initrd', image.initramfs, '-append', append)
      for (const [at, tap] of taps.entries()) {
        const mac = `52:54:00:98:${String(index).padStart(2, '0')}:${String(at).padStart(2, '0')}`
        argv.push('-netdev', `tap,id=n${at},ifname=${tap},script=no,downscript=no`)
        argv.push('-device', ['virtio-net-pci', `netdev=n${at}`, `mac=${mac}`, 'romfile=', ...PLAIN].join(','))
      }
      const daemon = await lab.start(host, cores.switch, argv)
      daemons.push(daemon)
      for (const tap of taps) await daemon.until(tap, () => hasDevice(lab, host, tap))
      if (topology === 'two-hosts') {
        const bridged = ['outer', 'trunk'].flatMap((device) => [
          `link set ${device} mtu ${MTU} master br0`,
          `link set ${device} up`,
        ])
        await lab.ip(host, [`link add br0 mtu ${MTU} type bridge`, ...bridged, 'link set br0 up'])
      }
      for (const tap of taps.filter((name) => name !== 'outer')) {
        // p1 is e1's, p2 is e2's, as everywhere here.
        await lab.ip(host, [`link set ${tap} netns ${lab.namespace(`e${tap.slice(1)}`)} name eth0`])
      }
    }
    for (const daemon of daemons) await daemon.until('ready', (said) => said.includes('ready'), 90_000)
    return { pids: daemons.map(({ pid }) => pid) }
  },
}

const hasDevice = (lab: Lab, host: string, device: string): Promise<boolean> =>
  command(['ip', '-n', lab.namespace(host), 'link', 'show', device]).then(
    () => true,
    () => false,
  )
