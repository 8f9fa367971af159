// `snapswitch install` and `snapswitch uninstall`: the daemons as services of this host.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Command } from 'commander'
import { isName } from '../../api/names.js'
import { SnapswitchError } from '../../errors/errors.js'
import { writeDurable } from '../../files/durable.js'
import { hostName } from '../../runtime/host-name.js'
import { packageFile } from '../../runtime/package.js'
import { printJson, type Terminal } from '../output.js'
import { CONFIGURATION, type HostFound, planInstall, planUninstall, type Step, UNITS, type UnitFound } from './plan.js'
import { releaseInstalled } from './release.js'
import { renderUnit } from './units.js'

/**
 * A stop waits for machines to run again, and a start for what a crash has left: systemd ends both in its time
 * (TimeoutStartSec and TimeoutStopSec in the units), and says why.
 */
export const COMMAND_MS = 450_000
const packaging = packageFile('packaging', 'systemd')

type CommandError = NodeJS.ErrnoException & { readonly stderr?: string; readonly killed?: boolean }

type Role = 'switch' | 'coordinator'

interface Options {
  readonly coordinator?: boolean
  readonly take?: string
  readonly dryRun?: boolean
  readonly start?: boolean
  readonly json?: boolean
}

export function addInstallCommands(program: Command, terminal: Terminal): void {
  program
    .command('install')
    .description('make the switch daemon a service of this host: systemd unit, configuration, state directory')
    .option('--coordinator', 'the coordinator of a lab, too')
    .option('--take <bridge>', 'stand in the place of this bridge, at every boot; written into a first configuration')
    .option('--no-start', 'enable it, and leave it to the next boot to start')
    .option('--dry-run', 'show what would be written and run, and do nothing')
    .option('-j, --json', 'print the steps as JSON')
    .addHelpText(
      'after',
      `
Run it again after an upgrade: a daemon that runs another program than the one installed is started again. A
configuration that is there is never written, and neither is a unit that somebody has changed: start its daemon again
yourself.`,
    )
    .action(async (options: Options) => {
      const { coordinator, take, start } = options
      if (take !== undefined) checkBridge(take)
      await perform(terminal, options, planInstall(await look(coordinator === true, take ?? null), start !== false))
    })
  program
    .command('uninstall')
    .description('stop and remove the services; configuration, snapshots and machines stay')
    .option('--dry-run', 'show what would be done, and do nothing')
    .option('-j, --json', 'print the steps as JSON')
    .action(async (options: Options) => {
      await perform(terminal, options, planUninstall(await look(true, null)))
    })
}

async function look(coordinator: boolean, bridge: string | null): Promise<HostFound> {
  const roles: Role[] = coordinator ? ['switch', 'coordinator'] : ['switch']
  const release = releaseInstalled()
  const program = resolve(process.argv[1] ?? 'snapswitch')
  const unitOf = async (role: Role): Promise<UnitFound> => {
    const name = `snapswitch-${role}.service`
    const template = await readFile(join(packaging, name), 'utf8')
    const found = await readFile(`${UNITS}/${name}`, 'utf8').catch(absent)
    return { name, template, text: renderUnit(template, { program, node: process.execPath, release }), found }
  }
  const units = await Promise.all(roles.map(unitOf))
  const unasked = coordinator ? [] : [await unitOf('coordinator')]
  const configs = roles.map((role) => {
    const path = `${CONFIGURATION}/${role}.yaml`
    return {
      path,
      text: role === 'switch' ? firstConfig(hostName() ?? 'host', bridge) : null,
      exists: existsSync(path),
    }
  })
  const others = unasked.filter(({ found }) => found !== null)
  return { units, others, configs, bridge, release, systemd: existsSync('/run/systemd/system') }
}

function absent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null
  throw error
}

/** Throws DEVICE_MISSING. */
function checkBridge(bridge: string): void {
  if (/^[^/\s]+$/.test(bridge) && existsSync(`/sys/class/net/${bridge}/bridge`)) return
  throw new SnapswitchError(
    'DEVICE_MISSING',
    `there is no bridge ${bridge} here`,
    '`ip link show type bridge` lists them.',
  )
}

/** A switch in the place of a bridge, or without networks: then it does nothing until it is given some. */
export function firstConfig(hostName: string, bridge: string | null = null): string {
  const label = hostName.split('.')[0] ?? ''
  return `# The switch of this host. snapswitch.yaml(5) has every key; \`snapswitch reload\` takes up what was changed.
host: ${isName(label) ? label : 'host'}
networks: ${bridge === null ? '{}' : networkOf(bridge)}
`
}

/** Of its name, when that is one for a network. */
export function networkOf(bridge: string): string {
  return `{ ${isName(bridge) ? bridge : 'lan'}: { bridge: ${JSON.stringify(bridge)} } }`
}

async function perform(terminal: Terminal, options: Options, steps: readonly Step[]): Promise<void> {
  if (options.json === true) printJson(terminal, { dryRun: options.dryRun === true, steps })
  for (const step of steps) {
    if (options.json !== true) terminal.out(`${inWords(step, options.dryRun === true)}\n`)
    if (options.dryRun !== true) await performOne(step)
  }
}

function inWords(step: Step, dryRun: boolean): string {
  switch (step.kind) {
    case 'directory':
      return `directory ${step.path}`
    case 'write': {
      const content = step.text.trimEnd().replaceAll('\n', '\n    ')
      return dryRun ? `write ${step.path}:\n    ${content}` : `write ${step.path}`
    }
    case 'remove':
      return `remove ${step.path}`
    case 'run':
      return `run ${step.command.join(' ')}`
    case 'note':
      return step.text
  }
}

async function performOne(step: Step): Promise<void> {
  try {
    switch (step.kind) {
      case 'directory':
        // One that is there keeps its mode.
        await mkdir(step.path, { recursive: true, mode: step.mode })
        return
      case 'write':
        await writeDurable(step.path, step.text, step.mode)
        return
      case 'remove':
        await rm(step.path, { force: true })
        return
      case 'run':
        await promisify(execFile)(step.command[0] as string, step.command.slice(1), { timeout: COMMAND_MS })
        return
      case 'note':
    }
  } catch (thrown) {
    throw failed(step, thrown as CommandError)
  }
}

function failed(step: Step, error: CommandError): SnapswitchError {
  const what = inWords(step, false)
  const { code } = (error.cause ?? error) as NodeJS.ErrnoException
  if (code === 'EACCES' || code === 'EPERM')
    return new SnapswitchError('PERMISSION', `cannot ${what}: ${code}`, 'Run it as root.', error)
  const said =
    error.killed === true ? `it did not end within ${COMMAND_MS / 1000} s` : error.stderr?.trim() || error.message
  const action =
    step.kind === 'run' ? 'See `journalctl -u snapswitch-switch`, then try again.' : 'Mend that, then try again.'
  return new SnapswitchError('INSTALL_FAILED', `cannot ${what}: ${said}`, action, error)
}
