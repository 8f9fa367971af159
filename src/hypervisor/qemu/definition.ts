// What it takes to start a running QEMU again: its command line, compared with what it is now, and where its disks
// stand in it. Whatever could not be started again is refused here, before anything is touched.

import { existsSync, readlinkSync } from 'node:fs'
import { isAbsolute } from 'node:path'
import type { Deadline, Nic } from '../hypervisor.js'
import { openAsUser } from '../shared/as-user.js'
import { argumentsOf, binaryOf, directoryOf, identify, tapBehind, userOf } from '../shared/process.js'
import { type MachineBlocks, startedIn, supportedBlocks } from '../shared/qemu-blocks.js'
import { checkBlockers, memoryBytes, unsupported } from '../shared/qemu-checks.js'
import { findDriveArguments } from '../shared/qemu-disks.js'
import type { QmpClient } from '../shared/qmp.js'
import { isObject } from '../shared/qmp-messages.js'
import { namePath, withGivenPaths } from './beside.js'
import { defaultDrive } from './drive-options.js'
import { externalFiles } from './files.js'
import { takeInventory } from './inventory.js'
import { withMachineType } from './machine-type.js'
import { listNics, parseInfoNetwork } from './nics.js'
import { ownUser } from './own-user.js'
import { rebuildCommandLine } from './rebuild.js'
import { checkCommandLine } from './refusals.js'
import type { QemuDefinition } from './types.js'
import { isWindow } from './window.js'

/** By the answer of HMP's `info network`. */
export function nicsOf(pid: number | null, argv: readonly string[], answer: unknown): { nics: Nic[]; added: string[] } {
  const clients = parseInfoNetwork(typeof answer === 'string' ? answer : '')
  return listNics(argv, clients, (fd) => (pid === null ? null : tapBehind(pid, fd)))
}

/** `missing`: disks, and media that a restore could not put into their drives. */
function findDrives(argv: readonly string[], { disks, media, graph, locate }: MachineBlocks) {
  const qdevOf = (drive: string) => graph.drives.find(({ name }) => name === drive)?.qdev ?? null
  const sought = [
    ...disks.map(({ name, layers }) => ({ name, qdev: qdevOf(name), files: layers.map(({ file }) => file) })),
    ...media.map(({ name, file }) => ({ name, qdev: qdevOf(name), files: file === null ? [] : [file] })),
  ]
  const { drives, missing } = findDriveArguments(argv, sought, (filename) => {
    const found = locate(filename)
    return 'path' in found ? found.path : null
  })
  const needless = media.filter((medium) => medium.file === null || defaultDrive(medium) !== null)
  return { drives, missing: missing.filter((name) => !needless.some((medium) => medium.name === name)) }
}

function nameOf(socket: string): string | null {
  try {
    return isAbsolute(socket) ? readlinkSync(namePath(socket)) : null
  } catch {
    return null
  }
}

export async function readDefinition(
  name: string,
  qmp: QmpClient,
  pid: number,
  deadline: Deadline,
): Promise<QemuDefinition> {
  const started = withGivenPaths(argumentsOf(pid), nameOf)
  checkCommandLine(started)
  const [migration, memory, network, machine, display] = (await Promise.all(
    qmp.executeAll(
      [
        ['query-migrate', {}],
        ['query-memory-size-summary', {}],
        ['human-monitor-command', { 'command-line': 'info network' }],
        ['qom-get', { path: '/machine', property: 'type' }],
        ['query-display-options', {}],
      ],
      deadline,
    ),
  )) as unknown[]
  checkBlockers(name, isObject(migration) ? migration : {})
  const blocks = await supportedBlocks(name, qmp, identify(pid), deadline)
  const { missing } = findDrives(started, blocks)
  const rebuilt = rebuildCommandLine(name, started, {
    inventory: await takeInventory(qmp, deadline),
    network: parseInfoNetwork(typeof network === 'string' ? network : ''),
    addedDisks: blocks.disks.filter((disk) => missing.includes(disk.name)),
    blockNames: new Set(blocks.graph.drives.map((drive) => drive.name)),
    tapOf: ({ ifname, fd }) => ifname ?? (fd === null ? null : tapBehind(pid, fd)),
  })
  const argv = withMachineType(rebuilt, String(machine))
  const { drives, missing: lost } = findDrives(argv, blocks)
  const { nics, added } = nicsOf(pid, argv, network)
  const later = [...lost, ...added]
  if (later.length > 0) {
    throw unsupported(
      `${name} has devices that its command line does not name: ${later.join(', ')}.`,
      'Unplug them, or restart the machine with them on its command line.',
    )
  }
  const directory = startedIn(blocks, directoryOf(pid))
  const user = ownUser(name, userOf(pid), qmp.peer.uid)
  const files = externalFiles(argv, directory, existsSync)
  const gone = files.find((file) => !existsSync(file.path))
  if (gone !== undefined) {
    throw unsupported(
      `${name}’s ${gone.role} ${gone.path} is not there any more, so it could not be started again.`,
      'Bring the file back, or restart the machine with the one that is there.',
    )
  }
  // Not what else its names lead to, of root's.
  if (user !== null) for (const { path } of files) await (await openAsUser(user, path)).close()
  return {
    kind: 'qemu',
    name,
    argv,
    files,
    qmp: qmp.path,
    memoryBytes: memoryBytes(memory),
    nics,
    hypervisorVersion: qmp.greeting.version,
    binary: binaryOf(pid),
    directory,
    drives,
    ...(user === null ? { ofRoot: true } : { user }),
    ...(isObject(display) && isWindow(String(display.type)) && { window: true }),
  }
}
