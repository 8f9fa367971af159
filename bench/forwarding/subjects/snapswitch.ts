// snapswitch itself, started as a user starts it: `snapswitch switch --config FILE`, one daemon per host.

import { readFileSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { ENGINE_FLAGS } from '../../../src/runtime/engine.js'
import type { Lab } from '../../lab/lab.js'
import type { Service } from '../../lab/processes.js'
import { projectRoot } from '../../lab/project.js'
import { hostsOf, type Part, parts, type Subject, vethAttachment } from '../subject.js'

const program = join(projectRoot, 'bin', 'snapswitch')

export interface Variant {
  readonly poll: 'adaptive' | 'busy' | 'sleep'
  /** Member ports, whose frames carry their epoch over the trunk; else plain ports. */
  readonly color: boolean
  /** Off unless said. */
  readonly fastPath?: 'auto'
}

function snapswitchSubject(
  id: string,
  title: string,
  setup: string,
  variant: Variant,
  measured: readonly Part[],
): Subject {
  return {
    id,
    title,
    setup,
    offloads: true,
    parts: measured,
    version: async () => JSON.parse(readFileSync(join(projectRoot, 'package.json'), 'utf8')).version as string,
    async attach(lab, topology, cores) {
      await vethAttachment(lab, topology)
      const pids: number[] = []
      for (const { host, devices } of hostsOf(topology)) {
        const daemon = await startDaemon(lab, host, cores.switch, devices, variant)
        pids.push(daemon.pid)
      }
      return { pids }
    },
  }
}

/** A daemon for a host whose devices are there. */
export async function startDaemon(
  lab: Lab,
  host: string,
  cores: string,
  devices: readonly string[],
  variant: Variant,
): Promise<Service> {
  await lab.ip(
    host,
    devices.map((device) => `link set ${device} up`),
  )
  const socket = join(lab.scratch, `snapswitch-${host}.sock`)
  const file = join(lab.scratch, `snapswitch-${host}.yaml`)
  const state = join(lab.scratch, `state-${host}`)
  writeFileSync(file, stringify(configuration(host, socket, state, devices, variant)))
  const daemon = await lab.start(host, cores, [process.execPath, ...ENGINE_FLAGS, program, 'switch', '--config', file])
  await daemon.until('an answer on its API socket', () => answers(socket))
  return daemon
}

export const snapswitchFast = snapswitchSubject(
  'snapswitch-fast',
  'snapswitch, fast path',
  'one daemon per host; member ports on veths with learning, epochs and gates on; color tags on the trunk; poll: adaptive; fastPath: auto: the kernel forwards what the daemon has decided before',
  { poll: 'adaptive', color: true, fastPath: 'auto' },
  parts,
)

export const snapswitchUserspace = snapswitchSubject(
  'snapswitch-userspace',
  'snapswitch, userspace',
  'the same with fastPath: off, the default: the daemon forwards every frame',
  { poll: 'adaptive', color: true },
  parts,
)

export const snapswitchBusy = snapswitchSubject(
  'snapswitch-busy',
  'snapswitch, busy',
  'userspace with poll: busy',
  { poll: 'busy', color: true },
  ['roundTrips'],
)

export const snapswitchUncolored = snapswitchSubject(
  'snapswitch-uncolored',
  'snapswitch, no colors',
  'userspace with plain ports: no epochs, no tags on the trunk',
  { poll: 'adaptive', color: false },
  ['twoHosts'],
)

export function configuration(
  host: string,
  socket: string,
  state: string,
  devices: readonly string[],
  variant: Variant,
): unknown {
  const port = (device: string) => {
    if (device === 'trunk') return { device, kind: 'trunk' }
    return variant.color ? { device, vm: `vm-${device}` } : { device, kind: 'plain' }
  }
  return {
    host,
    api: { socket },
    state,
    coordinator: 'none',
    networks: { lab0: { ports: Object.fromEntries(devices.map((device) => [device, port(device)])) } },
    datapath: { poll: variant.poll, fastPath: variant.fastPath ?? 'off' },
  }
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const request = get({ socketPath, path: '/v1/status', timeout: 1000 }, (response) => {
      response.resume()
      resolve(response.statusCode === 200)
    })
    request.on('timeout', () => request.destroy())
    request.on('error', () => resolve(false))
  })
}
