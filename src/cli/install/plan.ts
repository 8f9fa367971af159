// What `snapswitch install` and `uninstall` do on a host as it was found: a list of steps. Pure.

import { isUnchanged } from './units.js'

export const UNITS = '/etc/systemd/system'
export const CONFIGURATION = '/etc/snapswitch'
export const STATE = '/var/lib/snapswitch'

export type Step =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | { readonly kind: 'write'; readonly path: string; readonly mode: number; readonly text: string }
  | { readonly kind: 'remove'; readonly path: string }
  | { readonly kind: 'run'; readonly command: readonly string[] }
  /** Nothing is done, and why. */
  | { readonly kind: 'note'; readonly text: string }

export interface UnitFound {
  /** `snapswitch-switch.service` */
  readonly name: string
  /** As it would be written. */
  readonly text: string
  /** As the package has it, which may have been copied by hand. */
  readonly template: string
  /** As it is; null: it is not there. */
  readonly found: string | null
}

export interface ConfigFound {
  readonly path: string
  /** What would be written; null: it cannot be guessed, somebody must write it. */
  readonly text: string | null
  readonly exists: boolean
}

export interface HostFound {
  readonly units: readonly UnitFound[]
  /** That are there, and that nobody has asked for. */
  readonly others: readonly UnitFound[]
  readonly configs: readonly ConfigFound[]
  /** That the switch is to take over. */
  readonly bridge: string | null
  /** Which program the units are to run (release.ts). */
  readonly release: string
  /** systemd is the init of this host, not only installed. */
  readonly systemd: boolean
}

const pathOf = ({ name }: UnitFound) => `${UNITS}/${name}`
const isOurs = ({ found, template }: UnitFound) => found === template || (found !== null && isUnchanged(found))

export function planInstall({ units, others, configs, bridge, release, systemd }: HostFound, starts: boolean): Step[] {
  const steps: Step[] = [
    { kind: 'directory', path: CONFIGURATION, mode: 0o755 },
    { kind: 'directory', path: STATE, mode: 0o711 },
  ]
  const changed = new Set<string>()
  for (const { path, text, exists } of configs) {
    if (exists) steps.push({ kind: 'note', text: `${path} is there, and stays as it is${keptBridge(path, bridge)}` })
    else if (text !== null) steps.push({ kind: 'write', path, mode: 0o640, text })
    else
      steps.push({
        kind: 'note',
        text: `write ${path} (examples/coordinator.yaml in the package is one), then install again: its unit is not enabled before`,
      })
  }
  const restarts = (name: string) => `\`systemctl restart ${name}\` makes it run ${release}`
  for (const unit of units) {
    const path = pathOf(unit)
    if (unit.found === unit.text) steps.push({ kind: 'note', text: `${path} is as it is to be` })
    else if (unit.found === null || isOurs(unit)) {
      steps.push({ kind: 'write', path, mode: 0o644, text: unit.text })
      if (unit.found !== null) changed.add(unit.name)
    } else {
      const text = `${path} was changed by hand, and stays so: \`systemctl edit ${unit.name}\` keeps changes apart from it`
      // It does not say which program runs.
      steps.push({ kind: 'note', text: systemd ? `${text}. After an upgrade ${restarts(unit.name)}` : text })
    }
  }
  for (const unit of others.filter(({ found, text }) => found !== text)) {
    const text = `${pathOf(unit)} stays as it is: \`snapswitch install --coordinator\` makes it run ${release}`
    steps.push({ kind: 'note', text })
  }
  if (systemd) steps.push(run('daemon-reload'))
  // Without a configuration it would fail at every boot, again and again.
  const ready = units.filter(({ name }) =>
    configs.some((config) => isFor(config, name) && (config.exists || config.text !== null)),
  )
  for (const { name } of ready) steps.push(run('enable', name))
  if (!systemd) {
    steps.push({ kind: 'note', text: 'systemd does not run here: the units start at the next boot with it' })
    return steps
  }
  for (const { name } of ready) {
    if (starts) steps.push(run(changed.has(name) ? 'restart' : 'start', name))
    else if (changed.has(name))
      steps.push({ kind: 'note', text: `${name} goes on as it is, if it runs: ${restarts(name)}` })
  }
  return steps
}

/** A configuration that stays has to be told of the bridge by its owner. */
function keptBridge(path: string, bridge: string | null): string {
  if (bridge === null || !path.endsWith('/switch.yaml')) return ''
  return `: unless it has \`bridge: ${bridge}\` in a network already, write that and run \`snapswitch reload\``
}

/** `/etc/snapswitch/switch.yaml` is for `snapswitch-switch.service`. */
const isFor = ({ path }: ConfigFound, unit: string) =>
  unit === `snapswitch-${path.slice(path.lastIndexOf('/') + 1, -'.yaml'.length)}.service`

export function planUninstall({ units, configs, systemd }: HostFound): Step[] {
  const here = units.filter(({ found }) => found !== null)
  const steps: Step[] = here.flatMap(({ name }): Step[] => [
    ...(systemd ? [run('stop', name)] : []),
    run('disable', name),
  ])
  for (const unit of here) {
    const path = pathOf(unit)
    if (isOurs(unit)) steps.push({ kind: 'remove', path })
    else steps.push({ kind: 'note', text: `${path} was changed by hand, and stays: remove it yourself` })
  }
  if (here.length === 0) steps.push({ kind: 'note', text: 'no unit of snapswitch is installed' })
  else if (systemd) steps.push(run('daemon-reload'))
  const kept = configs.filter(({ exists }) => exists).map(({ path }) => path)
  if (kept.length > 0) steps.push({ kind: 'note', text: `${kept.join(', ')} stays` })
  steps.push({
    kind: 'note',
    text: `${STATE} stays: snapshots, and overlays that machines write to. Remove it yourself when no machine needs them`,
  })
  return steps
}

function run(...words: readonly string[]): Step {
  return { kind: 'run', command: ['systemctl', ...words] }
}
