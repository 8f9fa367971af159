// The recorded channel state on its way back into a network: out of the snapshot's files, and to the head of the hold
// queues of the restored machines.

import { distinctFiles } from '../../../src/api/files.js'
import type { RestoreRequest } from '../../../src/api/schemas.js'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { storeError } from '../../../src/files/durable.js'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import { type ChannelFrame, readChannel } from '../../../src/trace/channel.js'
import type { PortEntry } from '../../ports/table.js'
import type { Host } from '../host.js'
import type { Find } from '../located-files.js'

/** What one buffer holds. Its size was compared with the manifest's before. */
const LIMIT = 2 ** 31 - 1

/** The frames for the members that are placed here, in their order of delivery. Throws STORE_DAMAGED, TRACE_INVALID. */
export async function readChannelState(
  host: Pick<Host, 'store'>,
  request: RestoreRequest,
  find: Find,
): Promise<ChannelFrame[]> {
  const here = new Set(request.members.map((member) => member.vm))
  const frames: ChannelFrame[] = []
  for (const file of distinctFiles(request.channels)) {
    const path = await find(file)
    if (path === null)
      throw new SnapswitchError('STORE_DAMAGED', `the channel state ${file.path} is not here`, 'Restore again.')
    try {
      // As arguments of one call they might be more than a stack holds.
      for (const frame of readChannel(await host.store.readFile(path, LIMIT)))
        if (here.has(frame.vm)) frames.push(frame)
    } catch (thrown) {
      throw storeError(`cannot read the channel state ${path}`, thrown)
    }
  }
  return frames
}

/**
 * The ports' gates are closed: what is put behind them waits until the machines run. `formerNames`: what ports were
 * called in the snapshot that are called otherwise here.
 */
export async function queueChannelState(
  host: Pick<Host, 'datapath'>,
  network: string,
  frames: readonly ChannelFrame[],
  ports: readonly PortEntry[],
  formerNames: ReadonlyMap<string, string>,
): Promise<void> {
  for (const port of ports) {
    const name = formerNames.get(port.name) ?? port.name
    const copies = frames.filter((frame) => frame.port === name).map(copyOf)
    if (copies.length > 0) await host.datapath.call('preload', { network, port: port.index, frames: copies })
  }
}

function copyOf({ bytes, vnetHeader, vlanTag }: ChannelFrame): Omit<FrameCopy, 'color'> {
  const copy = new Uint8Array(VNET_HEADER_LENGTH + bytes.length)
  copy.set(vnetHeader)
  copy.set(bytes, VNET_HEADER_LENGTH)
  return { bytes: copy, tagTpid: vlanTag?.tpid ?? 0, tagTci: vlanTag?.tci ?? 0 }
}
