// What the demo's lab is and does: two hosts, three machines, a ring over all of them, a UDP stream between hosts and
// one within a host.

import { bitsOf, ringResult } from '../../guest/expected.js'
import type { LabPlan } from '../lab/lab.js'

export const network = 'lab0'
export const snapshotName = 'demo'
export const hops = 5000
/** The share of the ring after which the snapshot is taken. */
export const snapshotAt = 0.4
/** No node hands the token on sooner. */
export const hopDelayUs = 1200
const streamRate = 150

const addresses = ['10.77.0.1', '10.77.0.2', '10.77.0.3']
const ring = { ring: addresses, hops, hopDelayUs, journalEvery: 10 }

export const plan: LabPlan = {
  network,
  hosts: ['a', 'b'],
  memoryMiB: 256,
  machines: [
    {
      name: 'ring1',
      host: 'a',
      // Stream 1 crosses the trunk, stream 2 stays on host a.
      job: {
        ...ring,
        ip: `${addresses[0]}/24`,
        node: 0,
        send: [`1@${addresses[2]}:5001/${streamRate}`, `2@${addresses[1]}:5002/${streamRate}`],
      },
    },
    { name: 'ring2', host: 'a', job: { ...ring, ip: `${addresses[1]}/24`, node: 1, receive: ['2@5002'] } },
    { name: 'ring3', host: 'b', job: { ...ring, ip: `${addresses[2]}/24`, node: 2, receive: ['1@5001'] } },
  ],
}

/** Where each machine goes in the restore: host a's to b and b's to a. */
export const swapped: Readonly<Record<string, string>> = Object.fromEntries(
  plan.machines.map(({ name, host }) => [name, host === 'a' ? 'b' : 'a']),
)

export const streamNames: Readonly<Record<number, string>> = { 1: 'UDP between hosts', 2: 'UDP within a host' }

export const expectedResult = (): string => bitsOf(ringResult(addresses.length, hops))
