// `give` where no daemon answers: the daemon's end has given the bridge back already (its rules went with it), and what
// is left of it is removed.

import { SnapswitchError } from '../errors/errors.js'

interface Leftovers {
  giveLeft(state: string, bridge: string): Promise<void>
}

/** Throws BRIDGE_NOT_TAKEN, BRIDGE_TAKEN when a daemon has it still. */
export async function giveWithoutDaemon(state: string, bridge: string): Promise<void> {
  const url = new URL('../../switch/takeover/leftovers.js', import.meta.url).href
  try {
    const { giveLeft } = (await import(url)) as Leftovers
    await giveLeft(state, bridge)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new SnapswitchError('INTERNAL', 'a part of the program is missing', 'Install again: npm ci && npm run build.')
  }
}
