// The kernel's own scenarios for its bridge (tools/testing/selftests/net/forwarding/bridge_vlan_aware.sh, _unaware,
// _port_isolation, _sticky_fdb, _locked_port; learning, flooding, ageing), each on a bridge of the kernel and on the
// switch beside it: same devices, same rules, same frames; each endpoint is to get the same from both.

import t from 'tap'
import type { PortRules } from '../../src/api/schemas.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { BridgeModel } from '../forwarding/bridge-model.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { BRIDGE, type Bridge, KernelBridge, type Rules, SwitchBridge } from './kernel-bridge.js'
import { idOf, isOurs, Station, testFrame } from './station.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(240_000))

const PORTS = ['pa', 'pb', 'pc', 'pd'] as const
/** The least that a configuration may have, in seconds. */
const AGEING = 10
/** A VLAN that every port is in, tagged: by it a test learns that what it sent before has come, or never will. */
const MARK = 4000
const MARK_ID = 0xffff0000

type Tag = readonly [tpid: number, tci: number]
interface Sending {
  readonly at: (typeof PORTS)[number] | 'br0'
  /** The last byte of an address; 0xff: broadcast, 0xfe: another group. */
  readonly to: number
  readonly from: number
  readonly tags?: readonly Tag[]
}
type Step =
  | { readonly rules: Rules }
  | { readonly wait: number }
  /** Its cable is pulled, and plugged in again. */
  | { readonly replug: (typeof PORTS)[number] }
  | Sending

const vlan10 = [0x8100, 10] as const
const vlan20 = [0x8100, 20] as const
const service = [0x88a8, 7] as const

const aware: Rules = {
  pa: { vlan: { pvid: 10 } },
  pb: { vlan: { pvid: 10, tagged: [20] } },
  pc: { vlan: { pvid: 20, untagged: [20] } },
  pd: { vlan: { tagged: [10, 20] } },
}
const everywhere = (at: Sending['at'], from: number): Sending[] =>
  (
    [
      [],
      [vlan10],
      [vlan20],
      [[0x8100, 30]],
      [[0x8100, 0x6000]],
      [[0x8100, 0x600a]],
      [service],
      [service, vlan10],
      [vlan10, vlan20],
      [[0x8100, 4095]],
    ] as Tag[][]
  ).map((tags) => ({ at, from, to: 0xff, tags }))
const same = (rules: Rules[string]): Rules => Object.fromEntries(PORTS.map((port) => [port, rules]))

const scenarios: Record<string, readonly Step[]> = {
  'a VLAN-aware bridge: who gets what from an access port, a trunk, and one between': [
    { rules: aware },
    ...everywhere('pa', 1),
    ...everywhere('pb', 2),
    ...everywhere('pc', 3),
    ...everywhere('pd', 4),
  ],
  'addresses are learned per VLAN': [
    { rules: aware },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pc', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pd', from: 3, to: 1, tags: [vlan20] },
    { at: 'pd', from: 4, to: 1, tags: [vlan10] },
    { at: 'pd', from: 5, to: 2, tags: [vlan20] },
  ],
  'the pvid changes, and VLANs go, while the bridge runs': [
    { rules: aware },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
    { rules: { ...aware, pa: { vlan: { pvid: 20, untagged: [10] } } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pc', from: 3, to: 1 },
    { rules: { ...aware, pa: { vlan: { pvid: 20 } } } },
    { at: 'pb', from: 2, to: 1 },
    { rules: { ...aware, pa: { vlan: { untagged: [10] } } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 0xff },
    { rules: { ...aware, pa: { vlan: { pvid: 10, tagged: [10] } } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
  ],
  'a bridge that is not aware of VLANs': [
    { rules: {} },
    ...everywhere('pa', 1).filter(({ tags }) => tags?.[0]?.[1] !== 0x600a),
  ],
  'learning, roaming and flooding': [
    { rules: {} },
    { at: 'pa', from: 1, to: 9 },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pa', from: 1, to: 2 },
    { at: 'pc', from: 1, to: 2 },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pb', from: 2, to: 0xfe },
  ],
  'ports that unknown addresses, groups or broadcasts are not flooded to': [
    { rules: { pb: { flood: false }, pc: { mcastFlood: false }, pd: { bcastFlood: false } } },
    { at: 'pa', from: 1, to: 9 },
    { at: 'pa', from: 1, to: 0xfe },
    { at: 'pa', from: 1, to: 0xff },
    { at: BRIDGE, from: 5, to: 9 },
    { at: BRIDGE, from: 5, to: 0xfe },
    { at: BRIDGE, from: 5, to: 0xff },
    { at: 'pb', from: 2, to: 0xff },
    { at: 'pa', from: 1, to: 2 },
  ],
  'isolated ports': [
    { rules: { pa: { isolated: true }, pb: { isolated: true } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 0xff },
    { at: 'pc', from: 3, to: 0xff },
    { at: 'pa', from: 1, to: 2 },
    { at: 'pa', from: 1, to: 3 },
    { at: 'pc', from: 3, to: 1 },
    { at: BRIDGE, from: 5, to: 0xff },
  ],
  'a port that nothing is learned from': [
    { rules: { pa: { learning: false } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pa', from: 1, to: 2 },
  ],
  'static addresses move, sticky ones do not': [
    {
      rules: { pa: { fdb: [{ mac: '02:00:00:00:00:01' }] }, pb: { fdb: [{ mac: '02:00:00:00:00:02', sticky: true }] } },
    },
    { at: 'pc', from: 3, to: 1 },
    { at: 'pc', from: 3, to: 2 },
    { at: 'pd', from: 1, to: 3 },
    { at: 'pd', from: 2, to: 3 },
    { at: 'pc', from: 3, to: 1 },
    { at: 'pc', from: 3, to: 2 },
  ],
  'a locked port': [
    { rules: { pa: { locked: true, learning: false, fdb: [{ mac: '02:00:00:00:00:01' }] } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pa', from: 7, to: 0xff },
    { at: 'pb', from: 8, to: 0xff },
    { at: 'pa', from: 8, to: 0xff },
    { rules: {} },
    { at: 'pa', from: 7, to: 0xff },
  ],
  'a hairpin': [
    { rules: { pa: { hairpin: true } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pa', from: 6, to: 1 },
    { at: 'pb', from: 2, to: 2 },
  ],
  'a port that loses its carrier': [
    { rules: { pa: { fdb: [{ mac: '02:00:00:00:00:07' }] } } },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pc', from: 3, to: 2 },
    { replug: 'pa' },
    { at: 'pb', from: 2, to: 1 },
    { at: 'pb', from: 2, to: 7 },
    { at: 'pc', from: 3, to: 2 },
  ],
  'the VLANs of the bridge itself': [
    { rules: { ...aware, [BRIDGE]: { vlan: { pvid: 10, tagged: [20] } } } },
    { at: BRIDGE, from: 5, to: 0xff },
    { at: BRIDGE, from: 5, to: 0xff, tags: [vlan20] },
    { at: BRIDGE, from: 5, to: 0xff, tags: [[0x8100, 30]] },
    // Not to that address: the kernel learns none from its own device, which has one address, and known to it.
    { at: 'pa', from: 1, to: 0xff },
  ],
  'what has aged is flooded again': [
    { rules: {} },
    { at: 'pa', from: 1, to: 0xff },
    { at: 'pb', from: 2, to: 1 },
    { wait: (AGEING + 3) * 1000 },
    { at: 'pb', from: 2, to: 1 },
  ],
}

/** Addresses are of one scenario each; where ports have VLANs, all have that of marks, too. */
function withMarks(rules: Rules, base: number): Rules {
  const shift = (mac: string) =>
    mac.replace(/..$/, (last) => (Number.parseInt(last, 16) + base).toString(16).padStart(2, '0'))
  const marked = Object.entries<PortRules>({ ...same({}), [BRIDGE]: {}, ...rules }).map(([port, one]) => {
    const { vlan, fdb } = one
    const withMark = isAware(rules) ? { vlan: { ...vlan, tagged: [...(vlan?.tagged ?? []), MARK] } } : {}
    const addresses = fdb === undefined ? {} : { fdb: fdb.map((entry) => ({ ...entry, mac: shift(entry.mac) })) }
    return [port, { ...one, ...withMark, ...addresses }]
  })
  return Object.fromEntries(marked)
}

const isAware = (rules: Rules) => Object.values(rules).some(({ vlan }) => vlan !== undefined)

/** What the rules say, without a bridge. */
function playOnModel(steps: readonly Step[], base: number, firstId: number): string[] {
  const ports = [...PORTS, BRIDGE]
  const model = new BridgeModel(ports.map((port) => (port === BRIDGE ? 'host' : 'plain')))
  const outcome: string[] = []
  let id = firstId
  for (const step of steps) {
    if ('rules' in step) {
      const rules = withMarks(step.rules, base)
      for (const [index, port] of ports.entries()) model.setRules(index, rules[port] ?? {})
    } else if ('wait' in step) model.age()
    else if ('replug' in step) model.unplug(ports.indexOf(step.replug))
    else {
      const to = step.to >= 0xfe ? step.to - 0x100 : step.to + base
      model.receive(ports.indexOf(step.at), { id: ++id, from: step.from + base, to, tags: step.tags ?? [] })
      const found = PORTS.flatMap((port, index) =>
        model.given[index]!.splice(0).map(({ tags }): [string, string] => [port, inWords(id, tags)]),
      )
      outcome.push(...found.sort().map(([port, words]) => `${step.at}>${port} ${words}`))
    }
  }
  return outcome
}

const inWords = (id: number, tags: readonly Tag[]) =>
  [id, ...tags.map(([tpid, tci]) => `${tpid.toString(16)}:${tci.toString(16)}`)].join(' ')

/** One of the two, with its endpoints. */
class Side {
  readonly bridge: Bridge
  readonly #stations: ReadonlyMap<string, Station>
  id = 0
  #marks = 0
  #rules: Rules = {}

  constructor(bridge: Bridge, stations: ReadonlyMap<string, Station>) {
    this.bridge = bridge
    this.#stations = stations
  }

  /** Addresses are of one scenario: `base` is above those of the ones before. */
  async play(steps: readonly Step[], base: number): Promise<string[]> {
    const outcome: string[] = []
    for (const step of steps) {
      if ('rules' in step) await this.#apply(step.rules, base)
      else if ('wait' in step) await new Promise((resolve) => setTimeout(resolve, step.wait))
      else if ('replug' in step) await this.#replug(step.replug)
      else outcome.push(...(await this.#send(step, base)))
    }
    return outcome
  }

  async #replug(port: string): Promise<void> {
    await this.bridge.replug(port)
    // It has an error to tell, which the next frame would be refused with.
    this.#stations.get(port)!.port.failed()
  }

  async #apply(rules: Rules, base: number): Promise<void> {
    this.#rules = withMarks(rules, base)
    await this.bridge.apply(this.#rules)
  }

  async #send({ at, from, to, tags = [] }: Sending, base: number): Promise<string[]> {
    const id = ++this.id
    const words = {
      from: from + base,
      tags: tags.flatMap(([tpid, tci]) => [tpid >> 8, tpid & 0xff, tci >> 8, tci & 0xff]),
    }
    const frame = testFrame(id, { ...words, to: to >= 0xfe ? 0xff : to + base })
    if (to === 0xfe) frame.set([0x01, 0x00, 0x5e, 0x01, 0x02, 0x03])
    this.#stations.get(at)!.send(frame)
    const got = await this.#collect()
    return got
      .filter(([, found]) => found.split(' ')[0] === String(id))
      .map(([port, found]) => `${at}>${port} ${found}`)
  }

  /**
   * What has come to every endpoint. Marks go out from all ports until each endpoint has one. A mark may overtake what
   * was sent before, at another port, but by one round of the switch at most: so the second one comes after all that.
   */
  async #collect(): Promise<[port: string, found: string][]> {
    const found: [string, string][] = []
    const tags = isAware(this.#rules) ? [0x81, 0, MARK >> 8, MARK & 0xff] : []
    for (let round = 0; round < 2; round++) {
      const mark = MARK_ID + ++this.#marks
      const missing = new Set<string>(PORTS)
      await until(
        `the mark at ${[...missing]}`,
        patience(5000),
        () => {
          for (const sender of [...PORTS, BRIDGE]) {
            for (const group of [false, true]) {
              const frame = testFrame(mark, { from: 0xf0 + [...PORTS, BRIDGE].indexOf(sender), tags })
              if (group) frame.set([0x01, 0x00, 0x5e, 0x01, 0x02, 0x03])
              // A locked port lets none in.
              if (this.#rules[sender]?.locked !== true) this.#stations.get(sender)!.send(frame)
            }
          }
          for (const port of PORTS) {
            for (const { bytes, tagTpid, tagTci } of this.#stations.get(port)!.received().filter(isOurs)) {
              const id = idOf({ bytes, tagTpid, tagTci, color: -1 })
              if (id >= MARK_ID) {
                if (id === mark) missing.delete(port)
                continue
              }
              const kept: Tag[] = tagTpid === 0 ? [] : [[tagTpid, tagTci]]
              const view = new DataView(bytes.buffer, bytes.byteOffset)
              for (let at = VNET_HEADER_LENGTH + 12; view.getUint16(at) !== 0x88b6; at += 4)
                kept.push([view.getUint16(at), view.getUint16(at + 2)])
              found.push([port, inWords(id, kept)])
            }
          }
          return missing.size === 0 ? true : undefined
        },
        10,
      )
    }
    return found.sort()
  }
}

t.test('the kernel’s bridge and the switch', root, async (t) => {
  const world = World.for(t)
  const stations: Station[] = []
  t.teardown(() => {
    for (const station of stations) station.close()
  })
  const side = async (host: string, make: () => Promise<Bridge>, own: string): Promise<Side> => {
    const found = new Map<string, Station>()
    await world.namespace(host)
    for (const port of PORTS) {
      await world.namespace(`${host}${port}`)
      await world.cable([`${host}${port}`, 'eth0'], [host, port])
    }
    if (host === 's') await world.cable([host, 'self'], [host, 'br0'])
    const bridge = await make()
    for (const [label, device, name] of [
      ...PORTS.map((port) => [`${host}${port}`, 'eth0', port] as const),
      [host, own, BRIDGE] as const,
    ]) {
      const station = new Station(world.name(label), device)
      stations.push(station)
      found.set(name, station)
    }
    return new Side(bridge, found)
  }
  const kernel = await side('k', () => KernelBridge.make(world, 'k', PORTS, AGEING), BRIDGE)
  const own = await side('s', () => SwitchBridge.make(world, 's', PORTS, 'br0', AGEING), 'self')
  const filters = await world.try('k', 'ip', 'link', 'set', BRIDGE, 'type', 'bridge', 'vlan_filtering', '1')
  if (filters.code === 0) await world.ip('k', 'link', 'set', BRIDGE, 'type', 'bridge', 'vlan_filtering', '0')
  else t.comment('this kernel has no CONFIG_BRIDGE_VLAN_FILTERING: VLANs are compared with a model')
  let base = 0
  for (const [name, steps] of Object.entries(scenarios)) {
    base += 10
    const { id } = own
    kernel.id = id
    const needsVlans = steps.some((step) => 'rules' in step && isAware(step.rules))
    const onKernel = filters.code === 0 || !needsVlans ? kernel.play(steps, base) : null
    const [found, wanted] = await Promise.all([own.play(steps, base), onKernel])
    const said = playOnModel(steps, base, id)
    t.ok(said.length > 0, `${name}: ${said.length} deliveries`)
    t.same(found, said, `${name}: the switch, and the rules`)
    if (wanted !== null) t.same(wanted, said, `${name}: the kernel, and the rules`)
  }
})
