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

const addresses = [...memberNames, clientName].map((_, index) => `10.77.1.${index + 1}/24`)

export interface StoresMachine {
  readonly name: string
  /** With its prefix. */
  readonly address: string
  /** For guest/job, beside `lab.ip`. */
  readonly words: readonly string[]
}

export const storesMachines: readonly StoresMachine[] = [...memberNames, clientName].map((name, index) => {
  const members = addresses.slice(0, MEMBERS).map((address) => address.split('/')[0])
  const place = name === clientName ? [] : [`stores.index=${index}`]
  return { name, address: addresses[index]!, words: [`stores.members=${members.join(',')}`, ...place] }
})

/** Builds the image when an input changed; its initramfs. */
export async function storesImage(): Promise<string> {
  return (await run(join(projectRoot, 'bench', 'stores', 'guest', 'build'), [], 600_000)).trim()
}

export async function storesLab(): Promise<LabPlan> {
  return {
    network,
    hosts,
    memoryMiB: MEMORY_MIB,
    trunkMtu: TRUNK_MTU,
    image: { ...(await guestImage()), initramfs: await storesImage() },
    machines: storesMachines.map(({ name, address, words }, index) => ({
      name,
      host: hosts[index % hosts.length]!,
      job: { ip: address, words },
    })),
  }
}
