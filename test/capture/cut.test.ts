// A capture across a cut that holds frames, on the real datapath: early frames are seen held with their color, then
// delivered; those that were in transit are seen recorded. tshark reads what comes of it.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { fileOutput } from '../../src/capture/files.js'
import { CaptureReceiver } from '../../src/capture/receiver.js'
import { libc } from '../../src/linux/libc.js'
import { createTap, openTap } from '../../src/linux/tap.js'
import { Captures } from '../../switch/capture/captures.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { Ports } from '../../switch/ports/ports.js'
import { UnreadFrames } from '../../switch/ports/unread.js'
import { enterFreshNamespace, run, until } from '../linux/namespace.js'
import { writeSysctl } from '../linux/sysctl.js'
import { packetSocket, readAll, send, withHeader } from '../linux/wire.js'
import { fileLimit } from '../patience.js'
import { networkOptions } from '../switch/network-options.js'
import { testFrame } from '../switch/station.js'
import { root } from '../switch/world.js'
import { tshark } from './capturing.js'

t.setTimeout(fileLimit(60_000))

const options = { ...networkOptions, hold: { frames: 2, bytes: 1 << 20 } }
const { network } = options

t.test('a cut', root, async (t) => {
  enterFreshNamespace()
  for (const scope of ['all', 'default']) writeSysctl(`ipv6/conf/${scope}/disable_ipv6`, '1')
  createTap('guest', { up: true })
  run('ip', 'link', 'add', 'sender', 'type', 'veth', 'peer', 'name', 'peer')
  run('ip', 'link', 'set', 'peer', 'up')
  const directory = mkdtempSync(join(tmpdir(), 'ssw-cut-'))
  const guest = openTap('guest', { nonBlocking: true })
  const sender = packetSocket(libc().if_nametoindex('peer'))
  const datapath = new Datapath({ poll: 'adaptive', spinUs: 50 })
  const ports = new Ports(datapath, new UnreadFrames(datapath.counters), pino({ level: 'silent' }))
  t.teardown(async () => {
    await datapath.stop()
    await ports.close()
    libc().close(guest)
    libc().close(sender)
    rmSync(directory, { recursive: true })
  })
  await datapath.start()
  await datapath.addNetwork({ options, epoch: 5, fence: 0 })
  const from = await ports.add({ name: 'sender', network, device: 'sender', kind: 'member', vm: 'alpha' }, 5)
  const to = await ports.add({ name: 'guest', network, device: 'guest', kind: 'member', vm: 'beta' }, 5)
  const info = (name: string) => ports.info().find((port) => port.name === name)!
  await until(() => info('guest').up && info('sender').up, 'the ports to be up')
  let sent = 0
  const next = async () => {
    send(sender, withHeader(testFrame(sent++)))
    await until(() => info('sender').counters.rxFrames >= sent, 'the switch')
  }

  const path = join(directory, 'cut.pcapng')
  const captures = new Captures({ name: 'host', datapath, log: pino({ level: 'silent' }) })
  const receiver = new CaptureReceiver({ output: () => fileOutput(path), now: () => performance.now() })
  const received = receiver.run(await captures.start(network, { filter: 'ethertype 0x88b6' }))

  await next()
  await datapath.call('begin', { network, epoch: 6, policy: 'buffer', until: Number.POSITIVE_INFINITY })
  await datapath.call('arm', { network, ports: [from.index, to.index] })
  await datapath.call('gate', { network, ports: [from.index] })
  await datapath.call('flip', { network, ports: [from.index], epoch: 6, residue: [0] })
  // Early; then one more than there is room for.
  for (let i = 0; i < 3; i++) await next()
  await datapath.call('gate', { network, ports: [to.index] })
  await datapath.call('flip', { network, ports: [to.index], epoch: 6, residue: [0] })
  await datapath.call('release', { network, ports: [from.index, to.index], most: [100, 100] })
  await next()
  await until(() => info('guest').counters.txFrames >= 4, 'the guest’s frames')
  t.equal(readAll(guest).length, 4)

  const [{ id }] = captures.list()
  await captures.end(id)
  t.match(await received, { packets: 12, lost: 0, files: 1, complete: true, reason: null })
  t.same(
    (await tshark(path)).map(({ port, direction, comment }) => `${port} ${direction} ${comment}`),
    [
      'sender in received, color 5',
      'guest out delivered, color 5',
      'sender in received, color 6',
      'guest out held, color 6, epoch 5',
      'sender in received, color 6',
      'guest out held, color 6, epoch 5',
      'sender in received, color 6',
      'guest out dropped: hold-overflow, color 6, epoch 5',
      'guest out delivered, color 6',
      'guest out delivered, color 6',
      'sender in received, color 6',
      'guest out delivered, color 6',
    ],
  )

  // The other way round: what was sent before the sender's cut meets a receiver that has made its own.
  const late = join(directory, 'late.pcapng')
  const again = new CaptureReceiver({ output: () => fileOutput(late), now: () => performance.now() })
  const lateReceived = again.run(
    await captures.start(network, { filter: 'port guest and delivered and dst ff:ff:ff:ff:ff:ff' }),
  )
  await datapath.call('end', { network })
  await datapath.call('begin', { network, epoch: 7, policy: 'buffer', until: Number.POSITIVE_INFINITY })
  await datapath.call('flip', { network, ports: [to.index], epoch: 7, residue: [0] })
  await next()
  await captures.close()
  t.match(await lateReceived, { packets: 1, reason: 'the switch is stopping' })
  t.same(
    (await tshark(late)).map(({ port, comment }) => `${port} ${comment}`),
    ['guest delivered, in transit, recorded, color 6, epoch 7'],
  )
})
