// `give` where no daemon answers: the daemon's end has given the bridge back already (its rules went with it), and what
// is left of it is removed.

import { access, constants } from 'node:fs/promises'
import type { GivenBack } from '../api/schemas.js'
import { SnapswitchError } from '../errors/errors.js'

/** Throws PERMISSION, BRIDGE_NOT_TAKEN, BRIDGE_TAKEN when a daemon has it still. */
export async function giveWithoutDaemon(state: string, bridge: string): Promise<GivenBack> {
  const { directoryOfRecords } = await import('../../switch/takeover/record.js')
  await checkPermission(directoryOfRecords(state))
  const { giveLeft } = await import('../../switch/takeover/leftovers.js')
  return giveLeft(state, bridge)
}

/** What cannot be read would be taken for nothing. */
async function checkPermission(records: string): Promise<void> {
  try {
    await access(records, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException
    if (code !== 'EACCES' && code !== 'EPERM') return
    throw new SnapswitchError('PERMISSION', `may not change what is in ${records}`, 'Run it as root.', thrown)
  }
}
