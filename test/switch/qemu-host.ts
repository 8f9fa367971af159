// A host with a switch and one real machine, vm0, at port `one` of lab0: what tests of a host's snapshots begin with.

import type { Test } from 'tap'
import type { LocalEvent, LocalPart } from '../../src/api/schemas.js'
import { bootGuest, type Guest } from '../hypervisor/boot-guest.js'
import { patience } from '../patience.js'
import { World } from './world.js'

export const LONG = { deadlineMs: patience(60_000) }

type Daemon = Awaited<ReturnType<World['switch']>>

export interface QemuHost {
  readonly world: World
  readonly guest: Guest
  /** The daemon, or the next one. */
  start(): Promise<Daemon>
}

export async function qemuHost(t: Test): Promise<QemuHost> {
  const world = World.for(t)
  await world.namespace('host')
  await world.ip('host', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap', 'vnet_hdr')
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  const networks = { lab0: { ports: { one: { device: 'tap0', vm: 'vm0' } } } }
  return { world, guest, start: () => world.switch('host', { networks, machines: { vm0: { qmp: guest.qmp } } }) }
}

/** The host's part of a snapshot; throws what it failed with. */
export async function takePart({ client }: Daemon, snapshot: string, epoch: number): Promise<LocalPart> {
  await client.prepare('lab0', snapshot, { epoch, policy: 'buffer', deadlineMs: patience(30_000) }, LONG)
  let last: LocalEvent | undefined
  for await (const event of client.take('lab0', snapshot, LONG)) last = event
  if (last?.type !== 'done') throw new Error(JSON.stringify(last))
  return last.part
}
