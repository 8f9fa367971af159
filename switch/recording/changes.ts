// Another configuration for a run that was recorded: its network's settings, and its ports.

import { SnapswitchError } from '../../src/errors/errors.js'
import { loadSwitchConfig } from '../config.js'
import type { PortSpec } from '../forwarding/port-state.js'
import type { PortRequest } from '../ports/table.js'
import { leftOut, wantedBy } from '../wanted/from-config.js'
import { withValues } from '../wanted/wanted.js'
import type { Changes } from './changed.js'

/** `told`: what becomes of the ports, a line each. */
export interface ChangesOfFile extends Changes {
  readonly told: readonly string[]
}

/** `ports`: those of the run when it begins. Throws CONFIG_INVALID, CONFIG_UNREADABLE, NETWORK_UNKNOWN. */
export function changesOf(path: string, network: string, ports: readonly PortSpec[]): ChangesOfFile {
  const config = loadSwitchConfig(path)
  const wanted = wantedBy(config)
  const settings = wanted.networks.get(network) ?? null
  if (settings === null) {
    throw new SnapswitchError(
      'NETWORK_UNKNOWN',
      `${path} has no network ${network}, which the recording is of`,
      `It has: ${[...wanted.networks.keys()].join(', ')}.`,
    )
  }
  const said = config.networks[network]
  // The ports of a bridge are not in the file, nor what it does by itself.
  const followsBridge = said?.bridge !== undefined
  const port = (spec: PortSpec): PortSpec | null => {
    const other = wanted.ports.get(spec.name)
    if (other === undefined || other.network !== network) return followsBridge ? spec : null
    const { kind, vm = null, rules = {} } = other
    checkKind(path, spec, other)
    return { ...spec, kind, vm, rules }
  }
  const known = new Set(ports.map(({ name }) => name))
  const added = [...wanted.ports.values()].filter((one) => one.network === network && !known.has(one.name))
  for (const { name, kind } of added) if (leadsToSwitches(kind)) throw cannot(path, `port ${name} is a new ${kind}`)
  return {
    settings: ({ fdb, linkLocal, ...recorded }) => {
      const values = followsBridge ? leftOut(said, { ageing: fdb.ageing, linkLocal }) : {}
      // The key that the run's control frames are sealed with.
      return { ...recorded, ...withValues(settings, values), controlKey: recorded.controlKey }
    },
    port,
    added: added.map(({ name, kind, vm = null, rules = {} }) => ({ name, kind, vm, rules })),
    told: [
      ...ports.flatMap((spec) => becomes(spec, port(spec))),
      ...added.map(({ name }) => `port ${name} is new: it gets frames, and none come in by it`),
    ],
  }
}

function becomes(spec: PortSpec, other: PortSpec | null): string[] {
  const { name } = spec
  if (other === null) return [`port ${name} is not there: what came in by it is left out`]
  const was = whatIs(spec)
  const is = whatIs(other)
  return was === is ? [] : [`port ${name} is ${is} instead of ${was}`]
}

function whatIs({ kind, vm }: PortSpec): string {
  return vm === null ? kind : `${kind} of ${vm}`
}

const leadsToSwitches = (kind: PortSpec['kind']): boolean => kind === 'trunk' || kind === 'uplink'

function checkKind(path: string, spec: PortSpec, { name, kind, color }: PortRequest): void {
  if (kind !== spec.kind && (leadsToSwitches(kind) || leadsToSwitches(spec.kind)))
    throw cannot(path, `port ${name} is ${kind} instead of ${spec.kind}`)
  if (color !== undefined && spec.uplink !== undefined && color !== spec.uplink.color)
    throw cannot(path, `uplink ${name} has color ${color} instead of ${spec.uplink.color}`)
}

function cannot(path: string, what: string): SnapswitchError {
  return new SnapswitchError(
    'CONFIG_INVALID',
    `a replay cannot try ${path}: ${what}, and what the other switches would then have sent is not known`,
    'Settings, rules, machines, and ports that are not trunks or uplinks can be changed.',
  )
}
