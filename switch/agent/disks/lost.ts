// Files on record that are gone for good. One that is forgotten too early is taken for a file of the user's later: it
// would never be merged again. A name comes on record before its file is made. And what a file lies on may be away for
// a while, or be mounted later than the daemon starts.

import type { Observation } from './observe.js'
import type { DiskRecords } from './records.js'

/** A file that a snapshot or a chain names is waited for, and so is one of a machine of which little is known now. */
export async function lostFiles(
  { made, strays }: Pick<DiskRecords, 'made' | 'strays'>,
  { names, world, isQuiet, blind }: Observation,
): Promise<string[]> {
  if (blind !== null) return []
  const states = new Map(world.machines.map(({ vm, state }) => [vm, state]))
  const chains = world.machines.flatMap(({ disks }) => disks.flatMap(({ chain }) => chain.map(({ file }) => file)))
  const named = new Set([...world.pins.keys(), ...chains])
  const lost: string[] = []
  for (const file of new Set([...made.keys(), ...strays.keys()])) {
    const name = await names.of(file)
    const owner = made.get(file) ?? null
    const isClear = owner === null || (states.get(owner) ?? 'unclear') !== 'unclear'
    if (names.isGone(name) && !named.has(name) && isClear && isQuiet(owner)) lost.push(file)
  }
  return lost
}
