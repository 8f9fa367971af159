// What the configuration file wants of a host.

import { parseConfig } from '../../src/api/config-file.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { NetworkConfig, readControlKey, rulesOf, type SwitchConfig } from '../config.js'
import { defaultFdbOptions } from '../forwarding/fdb.js'
import type { NetworkSettings } from '../forwarding/network.js'
import type { PortRequest } from '../ports/table.js'
import type { TakeOptions } from '../takeover/options.js'
import type { BridgeValues, Wanted } from './wanted.js'

/** What a configuration that was checked wants of the host. */
export function wantedBy(config: SwitchConfig): Wanted {
  const ports = Object.entries(config.networks).flatMap(([network, { ports }]) =>
    Object.entries(ports).map(([name, port]): [string, PortRequest] => {
      const { device, kind, vm, color } = port
      const rules = rulesOf(port)
      const request = {
        name,
        network,
        device,
        kind: kind ?? (vm === undefined ? 'plain' : 'member'),
        vm: vm ?? null,
        ...(color === undefined ? {} : { color }),
        ...(Object.keys(rules).length === 0 ? {} : { rules }),
      }
      return [name, request]
    }),
  )
  return {
    networks: new Map(
      Object.entries(config.networks).map(([name, network]): [string, NetworkSettings] => [name, settingsOf(network)]),
    ),
    ports: new Map(ports),
    machines: new Map(Object.entries(config.machines) as [string, MachineSpec][]),
  }
}

function settingsOf({
  ports,
  bridge,
  uplink,
  ignoreFilters,
  ageing = defaultFdbOptions.ageing,
  linkLocal = 'forward',
  controlKey,
  ...rest
}: NetworkConfig): NetworkSettings {
  const key = controlKey === undefined ? null : readControlKey(controlKey)
  // It was good when the configuration was checked, a moment ago.
  if (typeof key === 'string') throw new SnapswitchError('CONFIG_INVALID', key, 'Check the key file.')
  return { ...rest, linkLocal, fdb: { ...defaultFdbOptions, ageing }, controlKey: key }
}

/** Of what a bridge does, what the configuration says nothing of. */
export function leftOut(said: NetworkConfig | undefined, { ageing, linkLocal }: BridgeValues): BridgeValues {
  return {
    ...(said?.ageing === undefined ? { ageing } : {}),
    ...(said?.linkLocal === undefined ? { linkLocal } : {}),
  }
}

/** The bridges that are to be taken over whenever they are there. */
export function bridgesWanted(config: SwitchConfig): Map<string, TakeOptions> {
  return new Map(
    Object.entries(config.networks).flatMap(([network, { bridge, uplink, ignoreFilters }]) =>
      bridge === undefined ? [] : [[bridge, { network, uplink, ignoreFilters }]],
    ),
  )
}

/** How the bridges that two configurations want differ, for whoever asked for the change. */
export function bridgeChanges(before: SwitchConfig, after: SwitchConfig): string[] {
  const [one, other] = [bridgesWanted(before), bridgesWanted(after)]
  return [...new Set([...one.keys(), ...other.keys()])].flatMap((bridge) => {
    const [was, is] = [one.get(bridge), other.get(bridge)]
    if (was === undefined) return `bridge added: ${bridge}`
    if (is === undefined) return `bridge removed: ${bridge}`
    const keys = (['network', 'uplink', 'ignoreFilters'] as const).filter((key) => was[key] !== is[key])
    return keys.length === 0 ? [] : `bridge changed: ${bridge} (${keys.join(', ')})`
  })
}

/** Of a network of which nothing else is said. */
export const defaultSettings = (): NetworkSettings => settingsOf(parseConfig('{}', 'the defaults', NetworkConfig).value)
