// What a daemon that was killed has left of a takeover: the pair, and its record. The bridge itself forwards again
// since that daemon's end.

import type { GivenBack } from '../../src/api/schemas.js'
import { Links } from '../../src/linux/link.js'
import { bootOf, lockBridge } from './bridges.js'
import { removePair } from './pair.js'
import { type BridgeRecord, BridgeRecords } from './record.js'
import { notTaken } from './refusals.js'

/** Harmless when it is done already. */
export async function removeLeft(links: Links, records: BridgeRecords, record: BridgeRecord): Promise<void> {
  if (record.boot === bootOf()) removePair(links, record)
  await records.remove(record.bridge)
}

/**
 * Whether the configuration named it: the next daemon takes it again then. Throws BRIDGE_NOT_TAKEN, BRIDGE_TAKEN when a
 * daemon has it still.
 */
export async function giveLeft(state: string, bridge: string): Promise<GivenBack> {
  const records = new BridgeRecords(state)
  const all = await records.all()
  const record = all.find((one) => one.bridge === bridge)
  if (record === undefined)
    throw notTaken(
      bridge,
      all.map((one) => one.bridge),
    )
  const links = new Links()
  try {
    const isThere = record.boot === bootOf() && links.findByIndex(record.index) !== null
    const unlock = isThere ? lockBridge(record.index, bridge) : () => undefined
    try {
      await removeLeft(links, records, record)
    } finally {
      unlock()
    }
  } finally {
    links.close()
  }
  return { configured: record.configured }
}
