// `give` where no daemon answers: the daemon's end has given the bridge back already (its rules went with it), and what
// is left of it is removed.

import type { GivenBack } from '../api/schemas.js'

/** Throws BRIDGE_NOT_TAKEN, BRIDGE_TAKEN when a daemon has it still. */
export async function giveWithoutDaemon(state: string, bridge: string): Promise<GivenBack> {
  const { giveLeft } = await import('../../switch/takeover/leftovers.js')
  return giveLeft(state, bridge)
}
