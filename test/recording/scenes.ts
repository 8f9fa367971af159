// Runs that are recorded for the tests: what a switch meets, in a few seconds of virtual time each.

import { ip } from '../forwarding/lan.js'
import { GROUP, mac } from '../forwarding/rig.js'
import { dice, Scene, type SceneHost } from './scene.js'

/** Members talk to one another and to nobody, some to all. */
function chatter(
  scene: Scene,
  hosts: readonly SceneHost[],
  ports: readonly number[],
  frames: number,
  roll: (sides: number) => number,
): void {
  for (let id = 0; id < frames; id++) {
    const host = hosts[roll(hosts.length)]
    const other = hosts[roll(hosts.length)]
    const port = ports[roll(ports.length)]
    const to = roll(9) === 0 ? GROUP : roll(20) === 0 ? mac(0x7000 + id) : other.macOf(ports[roll(ports.length)])
    host.send(port, roll(2) === 0 ? { to, id } : { to, ...ip(roll(2) === 0 ? 4 : 6, id, roll(4), 60 + roll(900)) })
    if (roll(3) === 0) scene.run()
  }
  scene.run()
}

export type SceneName = 'learning' | 'vlans' | 'trunk' | 'uplink' | 'restore' | 'gaps'

/** By name: the recordings of its hosts, the first one's first. `midway`: begun on a switch that runs already. */
export const scenes: Readonly<Record<SceneName, (frames: number, midway?: boolean) => Uint8Array[]>> = {
  learning: (frames) => {
    const scene = new Scene()
    const host = scene.host('a', { fdb: { capacity: 64, perPort: 40, ageing: 3 } })
    host.record()
    for (const port of [0, 1, 2]) host.port(port, 'member')
    host.port(3, 'plain')
    host.refusesEvery = 97
    const roll = dice(11)
    for (let round = 0; round < 10; round++) {
      chatter(scene, [host], [0, 1, 2, 3], frames / 10, roll)
      // Many addresses behind one port: some are not learned, and all are forgotten.
      for (let i = 0; i < 8; i++) host.send(3, { from: mac(0x5000 + roll(200)), id: i })
      host.send(0, { to: Uint8Array.of(1, 0x80, 0xc2, 0, 0, 1), type: 0x8808 })
      scene.pass(1000)
    }
    host.input('configure', { settings: { ...host.forwarder.network.options, linkLocal: 'drop' } })
    host.send(1, { to: Uint8Array.of(1, 0x80, 0xc2, 0, 0, 0x0e) })
    host.input('removePort', { index: 2 })
    host.input('portChanged', { index: 1, device: { mac: mac(0x999), mtu: 1400, queueLength: 10 }, now: scene.now })
    chatter(scene, [host], [0, 1, 3], frames / 10, roll)
    return [host.recorded()]
  },
  vlans: (frames) => {
    const scene = new Scene()
    const host = scene.host('a')
    host.port(0, 'member', undefined, { vlan: { pvid: 10, untagged: [10] } })
    host.port(1, 'member', undefined, { vlan: { pvid: 10, untagged: [10], tagged: ['20-29'] } })
    host.port(2, 'plain', undefined, { vlan: { tagged: [10, 20, 21] }, isolated: true })
    host.port(3, 'member', undefined, { vlan: { pvid: 20, untagged: [20] }, isolated: true, hairpin: true })
    host.port(4, 'host', undefined, { locked: true, fdb: [{ mac: '02:00:00:00:61:04', sticky: true }] })
    host.record()
    const roll = dice(22)
    for (let id = 0; id < frames; id++) {
      const tag = ([undefined, [0x8100, 10], [0x8100, 20], [0x8100, 0x6000 | 21], [0x88a8, 7], [0x8100, 0]] as const)[
        roll(6)
      ]
      const to = roll(4) === 0 ? GROUP : host.macOf(roll(5))
      host.send(roll(5), tag === undefined ? { to, id } : { to, id, tag })
      if (id % 50 === 0) scene.pass(100)
      if (id === frames >> 1) {
        const { spec } = host.forwarder.byIndex[1]!
        host.input('changePort', { spec: { ...spec, rules: { vlan: { pvid: 20, untagged: [20] } } }, now: scene.now })
      }
    }
    return [host.recorded()]
  },
  trunk: (frames, midway = false) => {
    const scene = new Scene()
    const [a, b] = [scene.host('a'), scene.host('b')]
    const roll = dice(33)
    if (!midway) for (const host of [a, b]) host.record()
    scene.trunk(a, 9, b, 8)
    for (const host of [a, b]) for (const port of [0, 1]) host.port(port, 'member')
    scene.pass(1500)
    chatter(scene, [a, b], [0, 1], frames / 4, roll)
    if (midway) for (const host of [a, b]) host.record()
    for (const epoch of [1, 2]) {
      snapshot(scene, [a, b], [0, 1], epoch, frames / 4, roll)
      scene.pass(500)
    }
    chatter(scene, [a, b], [0, 1], frames / 4, roll)
    return [a.recorded(), b.recorded()]
  },
  uplink: (frames, midway = false) => {
    const scene = new Scene()
    const key = { controlKey: new Uint8Array(32).fill(5) }
    const [a, b] = [scene.host('a', key), scene.host('b', key)]
    const roll = dice(44)
    if (!midway) for (const host of [a, b]) host.record()
    for (const host of [a, b]) {
      scene.uplink(host, 7)
      for (const port of [0, 1]) host.port(port, 'member')
      host.port(3, 'plain')
    }
    scene.pass(3000)
    chatter(scene, [a, b], [0, 1, 3], frames / 4, roll)
    scene.pass(3000)
    chatter(scene, [a, b], [0, 1, 3], frames / 4, roll)
    if (midway) for (const host of [a, b]) host.record()
    snapshot(scene, [a, b], [0, 1], 1, frames / 4, roll)
    scene.pass(3000)
    a.input('portChanged', { index: 7, device: { mac: mac(0xabc), mtu: 1400, queueLength: 10 }, now: scene.now })
    const { spec } = b.forwarder.byIndex[1]!
    b.input('changePort', { spec: { ...spec, kind: 'plain', vm: null }, now: scene.now })
    chatter(scene, [a, b], [0, 1, 3], frames / 4, roll)
    scene.pass(3000)
    return [a.recorded(), b.recorded()]
  },
  restore: (frames, midway = false) => {
    const scene = new Scene()
    const [a, b] = [scene.host('a'), scene.host('b')]
    const roll = dice(55)
    if (!midway) for (const host of [a, b]) host.record()
    scene.trunk(a, 9, b, 8)
    for (const host of [a, b]) for (const port of [0, 1]) host.port(port, 'member', undefined, {}, 3)
    scene.pass(1500)
    chatter(scene, [a, b], [0, 1], frames / 2, roll)
    // Frames wait behind gates when the recording begins.
    for (const host of [a, b]) host.input('gate', { ports: [0, 1], forOther: false, now: scene.now })
    chatter(scene, [a, b], [0, 1], frames / 8, roll)
    if (midway) for (const host of [a, b]) host.record()
    for (const host of [a, b]) host.input('fence', { ports: [0], epoch: 7, now: scene.now })
    const bytes = Uint8Array.from({ length: 70 }, (_, i) => i)
    a.input('preload', { port: 0, frames: [{ bytes, tagTpid: 0, tagTci: 0 }] })
    chatter(scene, [a, b], [0, 1], frames / 8, roll)
    for (const host of [a, b]) {
      host.input('release', { ports: [0, 1], most: [1, 1], now: scene.now })
      host.input('drain', { ports: [0, 1], most: [1000, 1000], now: scene.now })
      host.input('announce', { port: 0, mac: host.macOf(0), now: scene.now })
      host.input('learn', { addresses: [{ mac: '02:00:00:00:77:01', vlan: 0, port: 1 }], now: scene.now })
    }
    chatter(scene, [a, b], [0, 1], frames / 4, roll)
    scene.pass(1000)
    return [a.recorded(), b.recorded()]
  },
  gaps: (frames) => {
    const scene = new Scene()
    const host = scene.host('a')
    for (const port of [0, 1, 2]) host.port(port, 'member')
    host.record()
    const roll = dice(66)
    for (let round = 0; round < 3; round++) {
      chatter(scene, [host], [0, 1, 2], frames / 4, roll)
      scene.pass(300)
      host.fill()
      chatter(scene, [host], [0, 1, 2], frames / 8, roll)
      // All that is known by then: an address, a port and rules of which the recording has not seen the coming.
      host.send(1, { from: mac(0x5100 + round), id: round })
      host.port(10 + round, 'plain')
      host.input('configure', { settings: { ...host.forwarder.network.options, linkLocal: 'drop' } })
      scene.pass(1000)
      host.goOn()
      host.send(10 + round, { to: mac(0x5100 + round), id: round })
    }
    chatter(scene, [host], [0, 1, 2, 10, 11, 12], frames / 4, roll)
    return [host.recorded()]
  },
}

/** As an agent takes one: the hosts cut one after the other, with frames between them. */
function snapshot(
  scene: Scene,
  hosts: readonly SceneHost[],
  ports: readonly number[],
  epoch: number,
  frames: number,
  roll: (sides: number) => number,
): void {
  const now = () => scene.now
  for (const host of hosts) {
    host.input('begin', { epoch, policy: 'buffer', until: now() + 5000, now: now() })
    host.input('record', { writes: true, now: now() })
    host.input('arm', { ports })
  }
  for (const host of hosts) {
    for (const port of ports) {
      chatter(scene, hosts, ports, frames / (hosts.length * ports.length), roll)
      host.input('gate', { ports: [port], forOther: false, now: now() })
      chatter(scene, hosts, ports, 3, roll)
      host.input('flip', { ports: [port], epoch, residue: [1], now: now() })
      scene.now += 1.25
      host.input('release', { ports: [port], most: [2], now: now() })
      host.input('drain', { ports: [port], most: [100], now: now() })
    }
    scene.pass(20, 5)
  }
  scene.pass(300, 5)
  for (const host of hosts) {
    host.input('record', { writes: false, now: now() })
    host.input('end', {})
  }
}
