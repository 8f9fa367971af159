// From what a host has to what it is to have: a list of changes, in the order in which they are made. What is the same
// in both is in no change. Pure.

import { isDeepStrictEqual } from 'node:util'
import type { NetworkSettings } from '../forwarding/network.js'
import { isSamePort, type Wanted, type WantedPort } from './wanted.js'

/** Networks with settings of their own, none left to defaults. */
export interface Present extends Wanted {
  readonly networks: ReadonlyMap<string, NetworkSettings>
}

export type Change =
  | { readonly kind: 'port removed'; readonly port: WantedPort }
  | { readonly kind: 'network removed'; readonly network: string }
  | { readonly kind: 'network added'; readonly network: string; readonly settings: NetworkSettings }
  | {
      readonly kind: 'network changed'
      readonly network: string
      readonly settings: NetworkSettings
      readonly keys: readonly string[]
    }
  /** The same device in the same network: it goes on to be read while it becomes another kind of port. */
  | { readonly kind: 'port changed'; readonly port: WantedPort; readonly before: WantedPort }
  | { readonly kind: 'port added'; readonly port: WantedPort }
  | { readonly kind: 'machine removed'; readonly vm: string }
  | { readonly kind: 'machine added'; readonly vm: string }
  | { readonly kind: 'machine changed'; readonly vm: string }

export function changesBetween(before: Present, after: Present): Change[] {
  const removed: Change[] = []
  const added: Change[] = []
  for (const [name, port] of before.ports) {
    const next = after.ports.get(name)
    if (next !== undefined && isSamePort(port, next)) continue
    if (next !== undefined && next.device === port.device && next.network === port.network)
      added.push({ kind: 'port changed', port: next, before: port })
    else removed.push({ kind: 'port removed', port })
  }
  for (const network of before.networks.keys())
    if (!after.networks.has(network)) removed.push({ kind: 'network removed', network })
  for (const [name, port] of after.ports) {
    const own = before.ports.get(name)
    if (own === undefined || own.device !== port.device || own.network !== port.network)
      added.push({ kind: 'port added', port })
  }
  return [...removed, ...networkChanges(before, after), ...machineChanges(before, after), ...added]
}

function networkChanges(before: Present, after: Present): Change[] {
  return [...after.networks].flatMap(([network, settings]): Change[] => {
    const own = before.networks.get(network)
    if (own === undefined) return [{ kind: 'network added', network, settings }]
    const keys = Object.keys(settings).filter(
      (key) => !isDeepStrictEqual(own[key as keyof NetworkSettings], settings[key as keyof NetworkSettings]),
    )
    return keys.length === 0 ? [] : [{ kind: 'network changed', network, settings, keys }]
  })
}

function machineChanges(before: Wanted, after: Wanted): Change[] {
  const gone = [...before.machines.keys()].filter((vm) => !after.machines.has(vm))
  return [
    ...gone.map((vm): Change => ({ kind: 'machine removed', vm })),
    ...[...after.machines].flatMap(([vm, spec]): Change[] => {
      const own = before.machines.get(vm)
      if (own === undefined) return [{ kind: 'machine added', vm }]
      return isDeepStrictEqual(own, spec) ? [] : [{ kind: 'machine changed', vm }]
    }),
  ]
}

/**
 * Networks in which nothing may be under way while the changes are made. A plain port, or the host's, is no part of a
 * snapshot, and comes and goes as it likes.
 */
export function touchedNetworks(changes: readonly Change[], ports: Iterable<WantedPort>): Set<string> {
  const all = [...ports]
  return new Set(changes.flatMap((change) => networksTouched(change, all)))
}

/** What a port lets in and out may change at any time. */
function isQuiet({ port, before }: { readonly port: WantedPort; readonly before: WantedPort }): boolean {
  const { rules: _, ...now } = port
  const { rules: __, ...then } = before
  return (isOutside(port) && isOutside(before)) || isSamePort(then, now)
}

const isOutside = ({ kind }: WantedPort) => kind === 'plain' || kind === 'host'

function networksTouched(change: Change, ports: readonly WantedPort[]): string[] {
  switch (change.kind) {
    case 'port removed':
    case 'port added':
      return isOutside(change.port) ? [] : [change.port.network]
    case 'port changed':
      return isQuiet(change) ? [] : [change.port.network]
    case 'network removed':
    case 'network changed':
      return [change.network]
    case 'network added':
      return []
    // A restore may be at loading the very machine.
    case 'machine added':
    case 'machine removed':
    case 'machine changed':
      return ports.flatMap(({ vm, network }) => (vm === change.vm ? [network] : []))
  }
}

/** For the log and for whoever asked for the changes. */
export function inWords(change: Change): string {
  switch (change.kind) {
    case 'port removed':
    case 'port added':
    case 'port changed':
      return `${change.kind}: ${change.port.name} (${change.port.device}) in network ${change.port.network}`
    case 'network changed':
      return `network changed: ${change.network} (${change.keys.join(', ')})`
    case 'network removed':
    case 'network added':
      return `${change.kind}: ${change.network}`
    default:
      return `${change.kind}: ${change.vm}`
  }
}

/** What is changed. */
export function thingOf(change: Change): string {
  if ('port' in change) return `port ${change.port.name}`
  return 'network' in change ? `network ${change.network}` : `machine ${change.vm}`
}
