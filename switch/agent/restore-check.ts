// Whether this host could do its part of a restore now: files with the right content, machines that run, ports of other machines,
// room. Looks, and changes nothing.

import type { RestoreCheck, RestoreRequest } from '../../src/api/schemas.js'
import { type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import type { Host } from './host.js'

/** Problems are reported, not thrown. */
export async function checkRestore(
  host: Host,
  network: string,
  snapshot: string,
  request: RestoreRequest,
): Promise<RestoreCheck> {
  const problems: ErrorReport[] = []
  const files = new Map(request.channels.map((file) => [file.digest, file]))
  for (const member of request.members) {
    files.set(member.memory.digest, member.memory)
    for (const disk of member.disks) for (const { file } of disk.layers) files.set(file.digest, file)
    for (const port of member.ports) {
      const taken = host.ports.get(port.name)
      if (taken !== undefined && (taken.vm !== member.vm || taken.network !== (port.network ?? network))) {
        problems.push(
          new SnapswitchError(
            'PORT_EXISTS',
            `port ${port.name} of ${member.vm} is another machine’s here`,
            'Place the machine on another host, or rename that port.',
          ).report(),
        )
      }
    }
  }
  const missing = []
  for (const file of files.values()) if ((await host.store.find(network, snapshot, file)) === null) missing.push(file)
  const bytes = missing.reduce((sum, file) => sum + file.bytes, 0)
  if (bytes > (await host.store.freeBytes())) {
    problems.push(
      new SnapswitchError(
        'STORE_FULL',
        `${host.name} has no room for ${bytes} bytes`,
        'Free space there, or place the machines elsewhere.',
      ).report(),
    )
  }
  const running = []
  for (const { vm } of request.members) if (await host.machines.isThere(vm)) running.push(vm)
  return { missing, running, problems }
}
