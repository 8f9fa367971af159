// Takes one snapshot by the coordinator, and reads its manifest into what a round keeps; and removes it.

import type { CoordinatorClient } from '../../src/api/coordinator-client.js'
import type { Manifest } from '../../src/api/schemas.js'
import type { Cell } from './plan.js'
import type { Round } from './rows.js'

const SNAPSHOT_DEADLINE_MS = 120_000

/** A round without what the guests counted, and not removed yet. */
export type Taken = Omit<Round, 'counted' | 'removedAtUs'>

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
const message = (error: unknown) => (error instanceof Error ? error.message : String(error))

const nameOf = (round: number) => `round${round}`

export async function takeOne(
  client: CoordinatorClient,
  { network, policy }: { readonly network: string; readonly policy: Cell['policy'] },
  round: number,
): Promise<Taken> {
  const name = nameOf(round)
  const limit = { deadlineMs: SNAPSHOT_DEADLINE_MS }
  const askedAtUs = nowUs()
  let manifest: Manifest | undefined
  let error: string | null = null
  try {
    for await (const item of client.create({ network, name, policy }, limit)) {
      if (item.type === 'manifest') manifest = item.manifest
      if (item.type === 'error') error = item.error.message
    }
    if (manifest?.state !== 'complete') error ??= manifest?.error?.message ?? 'the snapshot did not complete'
  } catch (thrown) {
    error = message(thrown)
  }
  return { round, askedAtUs, answeredAtUs: nowUs(), ...figuresOf(manifest), error }
}

export async function removeOne(client: CoordinatorClient, network: string, round: number): Promise<void> {
  await client.delete(network, nameOf(round), { deadlineMs: SNAPSHOT_DEADLINE_MS })
}

function figuresOf(manifest: Manifest | undefined): Pick<Round, 'globalMs' | 'members' | 'closures'> {
  const parts = manifest?.parts ?? []
  const members = parts.flatMap(({ host, members: cut }) =>
    cut.map((member) => ({
      vm: member.vm,
      host,
      gatedAtUs: member.gatedAtUs,
      settledAtUs: member.settledAtUs ?? Number.NaN,
      pausedAtUs: member.pausedAtUs,
      cutAtUs: member.cutAtUs,
      disksAtUs: member.disksAtUs ?? Number.NaN,
      savingAtUs: member.savingAtUs ?? Number.NaN,
      resumedAtUs: member.resumedAtUs,
      releasedAtUs: member.releasedAtUs,
      sealedAtUs: member.sealedAtUs,
      held: member.held,
      early: member.early,
      recorded: member.recorded,
      residue: member.residue,
      lost: member.lost,
      memoryImageBytes: member.memory.bytes,
    })),
  )
  const closures = parts.flatMap((part) =>
    part.closures.map(({ expected, lost, byCount }) => ({ expected, lost, byCount })),
  )
  return { globalMs: manifest?.figures?.globalMs ?? Number.NaN, members, closures }
}
