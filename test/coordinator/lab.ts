// Two fake switches with a coordinator, for tests of what can be asked of it; calls that stand until they are let go,
// and a clock that is watched.

import { join } from 'node:path'
import type { Test } from 'tap'
import { Coordinator } from '../../coordinator/coordinator.js'
import { ConfiguredNetworks } from '../../coordinator/networks.js'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import type { RouteName } from '../../src/api/paths.js'
import type { Manifest, Progress } from '../../src/api/schemas.js'
import { type ErrorCode, SnapswitchError } from '../../src/errors/errors.js'
import { type Clock, systemClock } from '../../src/runtime/clock.js'
import { until } from '../lab/command.js'
import { patience } from '../patience.js'
import { FakeSwitch, silent, workDirectory } from './fake-switch.js'

export interface Lab {
  readonly directory: string
  readonly a: FakeSwitch
  readonly b: FakeSwitch
  readonly catalogue: Catalogue
  readonly coordinator: Coordinator
  readonly steps: string[]
  create(name?: string, more?: object): Promise<Manifest>
}

export async function lab(t: Test): Promise<Lab> {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1', 'vm2'])
  const b = new FakeSwitch(directory, 'b', ['vm3'])
  await Promise.all([a.start(), b.start()])
  const { catalogue, coordinator } = coordinatorOf(directory, [a, b])
  await catalogue.open()
  t.teardown(async () => {
    await coordinator.stop(100)
    await Promise.all([a.stop(), b.stop()])
  })
  const steps: string[] = []
  const report = (progress: Progress) => {
    if (progress.type === 'step') steps.push(progress.text)
  }
  const create = (name = 'demo', more: object = {}) => coordinator.create({ network: 'lab0', name, ...more }, report)
  return { directory, a, b, catalogue, coordinator, steps, create }
}

export function coordinatorOf(directory: string, switches: readonly FakeSwitch[], clock: Clock = systemClock) {
  const hosts = Object.fromEntries(switches.map((s) => [s.host, { socket: s.socketPath }]))
  const config = {
    socket: '',
    store: join(directory, 'store'),
    log: 'silent',
    networks: { lab0: { hosts }, lab1: { hosts } },
  } as const
  const catalogue = new Catalogue(config.store)
  return {
    catalogue,
    coordinator: new Coordinator({
      networks: new ConfiguredNetworks(config.networks),
      catalogue,
      logger: silent,
      version: '0.1.0',
      clock,
    }),
  }
}

/** Returns when a switch was asked for something, for the `count`th time. */
export const asked = ({ calls }: FakeSwitch, what: string, count = 1) =>
  until(
    what,
    patience(5000),
    () => (calls.filter((call) => call.startsWith(what)).length >= count ? true : undefined),
    5,
  )

/** Has calls stand until what this returns is called: they fail then with what it is given, or go on. */
export function holdUp({ faults }: FakeSwitch, route: RouteName): (error?: SnapswitchError) => void {
  let end: (error?: SnapswitchError) => void = () => {}
  const held = new Promise<SnapswitchError | null>((resolve) => {
    end = (error) => resolve(error ?? null)
  })
  faults.set(route, held)
  return (error) => end(error)
}

export const refused = (code: ErrorCode) => new SnapswitchError(code, 'it will not', 'Do something.')

/** The time, and for how long it was asked to wait, so far. */
export function watchedClock(): Clock & { readonly waits: number[] } {
  const waits: number[] = []
  const after = (ms: number, act: () => void) => {
    waits.push(ms)
    return systemClock.after(ms, act)
  }
  return { now: () => systemClock.now(), after, waits }
}

/** Returns when somebody waits for so long at most. */
export const waits = (clock: { readonly waits: readonly number[] }, ms: number) =>
  until(`a wait of ${ms} ms`, patience(5000), () => (clock.waits.includes(ms) ? true : undefined), 5)
