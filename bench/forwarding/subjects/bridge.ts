// The kernel's own bridge, as `ip link add type bridge` makes it, and the same with its work steered to a core of its
// own.

import { release } from 'node:os'
import { commandAt } from '../../lab/processes.js'
import { hostsOf, parts, type Subject, vethAttachment } from '../subject.js'

const version = async () => `Linux ${release()}`

function bridgeSubject(id: string, title: string, setup: string, steered: boolean): Subject {
  return {
    id,
    title,
    setup,
    offloads: true,
    parts: steered ? ['frames', 'lossless', 'light', 'tcp'] : parts,
    version,
    async attach(lab, topology, cores) {
      await vethAttachment(lab, topology)
      for (const { host, devices } of hostsOf(topology)) {
        await lab.ip(host, ['link add br0 type bridge', ...devices.map((device) => `link set ${device} master br0`)])
        await lab.ip(host, ['link set br0 up'])
        if (steered) {
          const mask = coreMask(cores.switch)
          const files = devices.map((device) => `/sys/class/net/${device}/queues/rx-0/rps_cpus`)
          const script = files.map((file) => `echo ${mask} > ${file}`).join(' && ')
          await commandAt(lab.place(host, cores.switch), ['sh', '-c', script])
        }
      }
      return { pids: [] }
    },
  }
}

/** '1' -> '2', '0,1' -> '3': a CPU list as the hexadecimal mask that sysfs wants. Single cores below 32 only. */
export function coreMask(list: string): string {
  return list
    .split(',')
    .reduce((mask, core) => mask | (1 << Number(core)), 0)
    .toString(16)
}

export const bridge = bridgeSubject(
  'bridge',
  'Linux bridge',
  'defaults of `ip link add type bridge`, veth ports; works in the softirq of whoever sends',
  false,
)

export const bridgeOwnCore = bridgeSubject(
  'bridge-own-core',
  'Linux bridge, own core',
  'the same with receive packet steering (rps_cpus) to the switch core, which no host does by default',
  true,
)
