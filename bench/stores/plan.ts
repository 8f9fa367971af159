// The machines of the stores bench: three members, each with etcd and redis, and a client; two hosts.

import { join } from 'node:path'
import { run } from '../../test/lab/command.js'
import { guestImage } from '../../test/lab/image.js'
import type { LabPlan } from '../../test/lab/lab.js'
import { TRUNK_MTU } from '../forwarding/subject.js'
import { projectRoot } from '../lab/project.js'
import { network } from '../snapshot/plan.js'

const MEMBERS = 3
const MEMORY_MIB = 256
const hosts = ['a', 'b'] as const

export const memberNames = Array.from({ length: MEMBERS }, (_, index) => `store${index}`)
export const clientName = 'client'

export async function storesLab(): Promise<LabPlan> {
  const image = await guestImage()
  const initramfs = (await run(join(projectRoot, 'bench', 'stores', 'guest', 'build'), [], 600_000)).trim()
  const addresses = [...memberNames, clientName].map((_, index) => `10.77.1.${index + 1}`)
  const members = `stores.members=${addresses.slice(0, MEMBERS).join(',')}`
  return {
    network,
    hosts,
    memoryMiB: MEMORY_MIB,
    trunkMtu: TRUNK_MTU,
    image: { ...image, initramfs },
    machines: [...memberNames, clientName].map((name, index) => ({
      name,
      host: hosts[index % hosts.length]!,
      job: {
        ip: `${addresses[index]}/24`,
        words: [members, ...(name === clientName ? [] : [`stores.index=${index}`])],
      },
    })),
  }
}
