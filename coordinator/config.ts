// The coordinator's configuration: where it listens, where it keeps manifests, which networks live on which hosts.

import { dirname, resolve } from 'node:path'
import { type Static, Type } from '@sinclair/typebox'
import { loadConfigFile } from '../src/api/config-file.js'
import { describeEndpoint, endpointFrom, parseEndpoint } from '../src/api/endpoint.js'
import { Name } from '../src/api/schemas.js'
import { asSnapswitchError } from '../src/errors/errors.js'

const closed = { additionalProperties: false } as const

export const CoordinatorConfigSchema = Type.Object(
  {
    /** Where its API listens. */
    socket: Type.String({ minLength: 1, default: '/run/snapswitch/coordinator.sock' }),
    /** Manifests go here; the images stay with the hosts. */
    store: Type.String({ minLength: 1, default: '/var/lib/snapswitch/manifests' }),
    /** The least level that is logged. */
    log: Type.Union(
      (['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const).map((level) => Type.Literal(level)),
      { default: 'info' },
    ),
    /** Whether every snapshot's images are loaded once, as by `create --verify`. */
    verify: Type.Optional(Type.Boolean()),
    /** The networks that it takes snapshots of, by name. */
    networks: Type.Record(
      Name,
      Type.Object(
        {
          /** Their hosts, by the name that each switch has as `host`. */
          hosts: Type.Record(
            Name,
            Type.Object({ socket: Type.String({ minLength: 1, description: 'the switch daemon’s socket' }) }, closed),
            { ...closed, minProperties: 1 },
          ),
        },
        closed,
      ),
      { ...closed, minProperties: 1 },
    ),
  },
  closed,
)
export type CoordinatorConfig = Static<typeof CoordinatorConfigSchema>

/**
 * Throws CONFIG_UNREADABLE or CONFIG_INVALID with file, line and column. Relative paths count from the file's folder.
 */
export function loadCoordinatorConfig(file: string): CoordinatorConfig {
  const config = loadConfigFile(file, CoordinatorConfigSchema)
  const folder = dirname(resolve(file))
  /** As whoever is in another folder says it. */
  const addressOf = (text: string, at: readonly string[]) => {
    try {
      return describeEndpoint(endpointFrom(folder, parseEndpoint(text)))
    } catch (error) {
      throw config.fault(at, asSnapswitchError(error).message)
    }
  }
  const networks: CoordinatorConfig['networks'] = {}
  for (const [network, { hosts }] of Object.entries(config.value.networks)) {
    const seen = new Map<string, string>()
    for (const [host, { socket }] of Object.entries(hosts)) {
      const at = ['networks', network, 'hosts', host, 'socket']
      const address = addressOf(socket, at)
      const other = seen.get(address)
      if (other !== undefined) throw config.fault(at, `hosts ${other} and ${host} share a socket`)
      seen.set(address, host)
    }
    networks[network] = { hosts: Object.fromEntries([...seen].map(([socket, host]) => [host, { socket }])) }
  }
  const socket = addressOf(config.value.socket, ['socket'])
  return { ...config.value, networks, socket, store: resolve(folder, config.value.store) }
}
