// What it takes to start a running QEMU again: its command line, compared with what it is now, and where its disks stand in
// it. Whatever could not be started again is refused here, before anything is touched.

import type { Deadline, Nic, QemuDefinition } from './hypervisor.js'
import { argumentsOf, binaryOf, directoryOf, tapBehind } from './process.js'
import { checkBlockers, memoryBytes, supportedDisks, unsupported } from './qemu-checks.js'
import { checkCommandLine } from './qemu-command-line.js'
import { driveNames, findDriveArguments, readBlockDevices } from './qemu-disks.js'
import { takeInventory } from './qemu-inventory.js'
import { listNics, parseInfoNetwork } from './qemu-nics.js'
import { rebuildCommandLine } from './qemu-rebuild.js'
import type { QmpClient } from './qmp.js'
import { isObject } from './qmp-messages.js'

/** By the answer of HMP's `info network`. */
export function nicsOf(pid: number | null, argv: readonly string[], answer: unknown): { nics: Nic[]; added: string[] } {
  const clients = parseInfoNetwork(typeof answer === 'string' ? answer : '')
  return listNics(argv, clients, (fd) => (pid === null ? null : tapBehind(pid, fd)))
}

export async function readDefinition(
  name: string,
  qmp: QmpClient,
  pid: number,
  deadline: Deadline,
): Promise<QemuDefinition> {
  const started = argumentsOf(pid)
  const directory = directoryOf(pid)
  checkCommandLine(started)
  const [migration, memory, block, network] = (await Promise.all(
    qmp.executeAll(
      [
        ['query-migrate', {}],
        ['query-memory-size-summary', {}],
        ['query-block', {}],
        ['human-monitor-command', { 'command-line': 'info network' }],
      ],
      deadline,
    ),
  )) as unknown[]
  checkBlockers(name, isObject(migration) ? migration : {})
  const { disks } = supportedDisks(name, readBlockDevices(block, directory))
  const { missing } = findDriveArguments(started, disks, directory)
  const argv = rebuildCommandLine(name, started, {
    inventory: await takeInventory(qmp, deadline),
    network: parseInfoNetwork(typeof network === 'string' ? network : ''),
    addedDisks: disks.filter((disk) => missing.includes(disk.name)),
    blockNames: driveNames(block),
    tapOf: ({ ifname, fd }) => ifname ?? (fd === null ? null : tapBehind(pid, fd)),
  })
  const { drives, missing: lost } = findDriveArguments(argv, disks, directory)
  const { nics, added } = nicsOf(pid, argv, network)
  const later = [...lost, ...added]
  if (later.length > 0) {
    throw unsupported(
      `${name} has devices that its command line does not name: ${later.join(', ')}.`,
      'Unplug them, or restart the machine with them on its command line.',
    )
  }
  return {
    kind: 'qemu',
    name,
    argv,
    memoryBytes: memoryBytes(memory),
    nics,
    hypervisorVersion: qmp.greeting.version,
    binary: binaryOf(pid),
    directory,
    drives,
  }
}
