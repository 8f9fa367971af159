// Commands about machines' disks, for start scripts and for people: disk path, flatten.

import type { Command } from 'commander'
import { checkedName, nearest } from '../api/names.js'
import { SnapswitchError } from '../errors/errors.js'
import { type CommonOptions, withJson, withSwitchSocket } from './options.js'
import { printJson, type Terminal } from './output.js'
import { withSwitch } from './switch-commands.js'

const callMs = 10_000
/** As long as copying takes. */
const flattenMs = 24 * 3_600_000

export function addDiskCommands(program: Command, terminal: Terminal): void {
  const disk = program.command('disk').description('where machines’ disks are')
  withSwitchSocket(withJson(disk.command('path')))
    .description('print the image file that a machine writes to, and must be started on')
    .argument('<machine>')
    .argument(
      '[disk]',
      'only this disk: its name in the snapshots; without it one line each, `NAME FILE` where there are several',
    )
    .action((machine: string, name: string | undefined, options: CommonOptions) =>
      path(terminal, machine, name, options),
    )

  withSwitchSocket(withJson(disk.command('flatten')))
    .description('make the image chains of a running machine’s disks short; snapshots stay as they are')
    .argument('<machine>')
    .action((machine: string, options: CommonOptions) => flatten(terminal, machine, options))
}

async function flatten(terminal: Terminal, machine: string, options: CommonOptions): Promise<void> {
  checkedName('machine', machine)
  const { disks } = await withSwitch(options, (client) => client.flattenMachine(machine, { deadlineMs: flattenMs }))
  if (options.json === true) return printJson(terminal, { disks })
  if (disks.length === 0) terminal.out(`the chains of ${machine} are short already\n`)
  for (const { disk, before, after } of disks)
    terminal.out(`disk ${disk} of ${machine}: ${before} images before, ${after} now\n`)
}

async function path(
  terminal: Terminal,
  machine: string,
  name: string | undefined,
  options: CommonOptions,
): Promise<void> {
  checkedName('machine', machine)
  const found = await withSwitch(options, (client) => client.machineDisks(machine, { deadlineMs: callMs }))
  const disks = found.disks.filter((one) => name === undefined || one.name === name)
  if (disks.length === 0) {
    const names = found.disks.map((one) => one.name)
    const meant = name === undefined ? null : nearest(name, names)
    throw new SnapswitchError(
      'MACHINE_UNKNOWN',
      name === undefined
        ? `nothing is known of the disks of ${machine}: it does not run, and no snapshot was taken of it`
        : `${machine} has no disk ${name}`,
      name === undefined
        ? 'Start it on its own image file.'
        : `It has ${names.join(', ') || 'none'}${meant === null ? '' : `; did you mean ${meant}?`}`,
    )
  }
  if (options.json === true) return printJson(terminal, { ...found, disks })
  for (const { message } of found.problems) terminal.err(`warning: ${message}\n`)
  for (const one of disks) {
    const file = one.layers[0]?.file ?? ''
    terminal.out(disks.length === 1 ? `${file}\n` : `${one.name} ${file}\n`)
  }
}
