// Gates that open on a real TAP: what was held reaches a guest that reads at its own pace, all of it and in order,
// however much longer it is than the device's queue; a guest that does not read gets ordinary drops.

import { pino } from 'pino'
import t, { type Test } from 'tap'
import { libc } from '../../src/linux/libc.js'
import { createTap, openTap } from '../../src/linux/tap.js'
import { systemClock } from '../../src/runtime/clock.js'
import { advance, PORTION, release } from '../../switch/agent/gates.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { Ports } from '../../switch/ports/ports.js'
import type { PortEntry } from '../../switch/ports/table.js'
import { UnreadFrames } from '../../switch/ports/unread.js'
import { ethernet, gre, gsoFrame, ip4, receive, tcp } from '../frame/tunnels.js'
import { sleep } from '../lab/command.js'
import { enterFreshNamespace, run, until } from '../linux/namespace.js'
import { writeSysctl } from '../linux/sysctl.js'
import { packetSocket, readAll, send, withHeader } from '../linux/wire.js'
import { fileLimit } from '../patience.js'
import { networkOptions } from './network-options.js'
import { testFrame } from './station.js'
import { root } from './world.js'

t.setTimeout(fileLimit(60_000))

const HELD = 5000
const QUEUE = 1000
/** As many as the receive ring of the sender's port takes with ease. */
const BURST = 200

const options = networkOptions
const { network } = options

class Lab {
  readonly datapath = new Datapath({ poll: 'adaptive', spinUs: 50 })
  readonly unread = new UnreadFrames(this.datapath.counters)
  readonly log = pino({ level: 'silent' })
  readonly ports = new Ports(this.datapath, this.unread, this.log)
  /** All of a host that opening a gate needs. */
  readonly host = {
    clock: systemClock,
    datapath: this.datapath,
    ports: this.ports,
    unread: this.unread,
    portion: PORTION,
    log: this.log,
  }
  port!: PortEntry
  #guest = openTap('guest', { nonBlocking: true })
  readonly #sender: number
  #next = 0

  private constructor(t: Test) {
    this.#sender = packetSocket(libc().if_nametoindex('peer'))
    t.teardown(async () => {
      await this.datapath.stop()
      await this.ports.close()
      libc().close(this.#guest)
      libc().close(this.#sender)
    })
  }

  static async start(t: Test): Promise<Lab> {
    const lab = new Lab(t)
    await lab.datapath.start()
    await lab.datapath.addNetwork({ options, epoch: 0, fence: 0 })
    await lab.ports.add({ name: 'sender', network, device: 'sender', kind: 'plain', vm: null }, 0)
    lab.port = await lab.ports.add({ name: 'guest', network, device: 'guest', kind: 'member', vm: 'guest' }, 0)
    await until(() => lab.info('guest').up && lab.info('sender').up, 'the ports to be up')
    return lab
  }

  info(name: string) {
    return this.ports.info().find((port) => port.name === name)!
  }

  /** Sends the next `count` frames; returns when the switch has them. */
  async send(count: number): Promise<void> {
    const end = this.#next + count
    while (this.#next < end) {
      for (let i = 0; i < BURST && this.#next < end; i++) send(this.#sender, withHeader(testFrame(this.#next++)))
      await until(() => this.info('sender').counters.rxFrames >= this.#next, 'the switch')
    }
  }

  /** Ids of frames that the guest reads, at most `limit`. */
  read(limit: number): number[] {
    const view = (frame: Uint8Array) => new DataView(frame.buffer, frame.byteOffset)
    return this.readFrames(limit).map((frame) => view(frame).getUint32(14))
  }

  readFrames(limit: number): Uint8Array[] {
    return readAll(this.#guest, limit)
  }

  gate(): Promise<unknown> {
    return this.datapath.call('gate', { network, ports: [this.port.index] })
  }

  /** Heals the count of unread frames, as the daemon does twice a second. */
  heal(): void {
    this.unread.heal(this.ports.all())
  }

  /** The guest ends, and another one takes its device. */
  replaceGuest(): void {
    libc().close(this.#guest)
    this.#guest = openTap('guest', { nonBlocking: true })
  }

  get dropped(): number {
    this.heal()
    return this.info('guest').counters.drops['device-dropped'] ?? 0
  }
}

const range = (count: number) => Array.from({ length: count }, (_, id) => id)

t.test('gates', root, async (t) => {
  enterFreshNamespace()
  for (const scope of ['all', 'default']) writeSysctl(`ipv6/conf/${scope}/disable_ipv6`, '1')
  createTap('guest', { up: true })
  createTap('tunnel', { up: true })
  run('ip', 'link', 'add', 'sender', 'type', 'veth', 'peer', 'name', 'peer')
  run('ip', 'link', 'set', 'peer', 'up')

  await t.test('a guest that reads slowly gets five times its queue, with what came meanwhile, in order', async (t) => {
    const lab = await Lab.start(t)
    await lab.gate()
    await lab.send(HELD)
    t.equal(lab.info('guest').counters.held, HELD)
    const got: number[] = []
    let most = 0
    const reading = setInterval(() => {
      most = Math.max(most, lab.unread.of(lab.port.index, lab.port.ifindex))
      got.push(...lab.read(100))
    }, 4)
    let open = false
    const released = release(lab.host, network, [lab.port.index]).then(() => {
      open = true
    })
    let meanwhile = 0
    while (!open) {
      await lab.send(10)
      await sleep(2)
      meanwhile += 10
    }
    await released
    await lab.send(20)
    const total = HELD + meanwhile + 20
    await until(() => got.length >= total, `${total} frames`, 10_000)
    clearInterval(reading)
    t.same(got, range(total), `all in order, ${meanwhile} of them sent while the gate opened`)
    t.ok(meanwhile > 0 && most < QUEUE, `at most ${most} frames lay unread`)
    t.equal(lab.dropped, 0)
    t.equal(lab.info('guest').gate, 'open')
  })

  await t.test('the same for a snapshot that is called off', async (t) => {
    const lab = await Lab.start(t)
    await lab.gate()
    await lab.send(HELD)
    await advance(lab.host, network, 1)
    const got: number[] = []
    await until(() => got.push(...lab.read(50)) >= HELD, 'the frames', 10_000)
    t.same(got, range(HELD))
    t.equal(lab.dropped, 0)
  })

  await t.test('a guest that never reads gets its queue full, and the rest is counted as dropped', async (t) => {
    const lab = await Lab.start(t)
    await lab.gate()
    await lab.send(HELD)
    await release(lab.host, network, [lab.port.index])
    t.equal(lab.info('guest').gate, 'open')
    const { counters } = lab.info('guest')
    t.equal(counters.txFrames, HELD)
    const got = lab.read(HELD)
    t.same(got, range(got.length), 'the first ones')
    t.ok(got.length > QUEUE * 0.9, `${got.length} in the queue`)
    t.equal(lab.dropped, HELD - got.length)
    await lab.send(1)
    await until(() => lab.read(1)[0] === HELD, 'a frame after that')
  })

  await t.test('a GSO frame in a tunnel waits whole, and goes as its guest takes it', async (t) => {
    const lab = await Lab.start(t)
    const tunnel = openTap('tunnel', { nonBlocking: true })
    t.teardown(() => libc().close(tunnel))
    await lab.ports.add({ name: 'tunnel', network, device: 'tunnel', kind: 'plain', vm: null }, 0)
    await until(() => lab.info('tunnel').up, 'the port to be up')
    await lab.gate()
    await lab.send(1)
    const payload = Uint8Array.from({ length: 9500 }, (_, i) => i * 7)
    const { bytes } = gsoFrame(ethernet(ip4(gre(ip4(tcp(4, payload)), true))), 1000, 1)
    t.equal(libc().write(tunnel, bytes, bytes.length), bytes.length)
    await until(() => lab.info('guest').counters.held === 2, 'a small frame and the whole one')
    t.equal(lab.info('tunnel').counters.rxFrames, 1)
    await lab.send(1)
    await release(lab.host, network, [lab.port.index])
    const got = lab.readFrames(20)
    t.equal(got.length, 12)
    const seen = got.slice(1, 11).map((frame) => receive(frame))
    t.ok(Buffer.concat(seen.map((segment) => segment.payload)).equals(payload), 'in order, complete, checksums right')
  })

  await t.test('what a guest that ended has left unread is not taken for its successor’s', async (t) => {
    const lab = await Lab.start(t)
    await lab.send(300)
    await until(() => lab.unread.of(lab.port.index, lab.port.ifindex) === 300, 'the queue')
    lab.replaceGuest()
    lab.unread.emptied(lab.port.index, lab.port.ifindex)
    t.equal(lab.unread.of(lab.port.index, lab.port.ifindex), 0)
    await lab.send(2)
    await until(() => lab.unread.of(lab.port.index, lab.port.ifindex) === 2, 'two frames')
    t.same(lab.read(9), [300, 301])
  })
})
