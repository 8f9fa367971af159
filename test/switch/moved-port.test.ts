// A member’s port that loses its device during a snapshot, and has it again: it begins at the new epoch, and its
// machine has made no cut. With a real machine.

import t from 'tap'
import type { LocalEvent } from '../../src/api/schemas.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { LONG, type QemuHost, qemuHost, takePart } from './qemu-host.js'
import { root } from './world.js'

t.setTimeout(fileLimit(120_000))

/** Whether the port waits for its device. */
function waits(daemon: Awaited<ReturnType<QemuHost['start']>>, wanted: boolean): Promise<boolean> {
  const asked = async () => ((await daemon.port('one')).waiting === wanted ? true : undefined)
  return until(`the port waits: ${wanted}`, 10_000, asked)
}

t.test(
  'a port that comes back between preparation and cut: the snapshot fails, the next one does not',
  root,
  async (t) => {
    const { world, start } = await qemuHost(t)
    const daemon = await start()
    await daemon.client.prepare('lab0', 's1', { epoch: 1, policy: 'buffer', deadlineMs: patience(30_000) }, LONG)
    await world.ip('host', 'link', 'add', 'br0', 'type', 'bridge')
    await world.ip('host', 'link', 'set', 'tap0', 'master', 'br0')
    await waits(daemon, true)
    await world.ip('host', 'link', 'set', 'tap0', 'nomaster')
    await waits(daemon, false)
    const events: LocalEvent[] = []
    for await (const event of daemon.client.take('lab0', 's1', LONG)) events.push(event)
    t.match(events, [{ type: 'failed', error: { code: 'DEVICE_MISSING', message: /tap0.*port one of host host/ } }])
    t.match(await takePart(daemon, 's2', 2), { epoch: 2 })
  },
)
