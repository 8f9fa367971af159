// TAPs on the running kernel: making and removing them, and what their counters mean, which the settle and residue
// steps of a cut lean on.

import t from 'tap'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { LinkCounterReader } from '../../src/linux/stats.js'
import {
  closeAll,
  createTap,
  deleteTap,
  openFreeTap,
  openStandIn,
  openTap,
  setTapOffload,
  TapOffload,
} from '../../src/linux/tap.js'
import { enterFreshNamespace, run } from './namespace.js'
import { writeSysctl } from './sysctl.js'
import { experimentalFrame, gsoFrame, packetSocket, readAll, send } from './wire.js'

enterFreshNamespace()

const counters = new LinkCounterReader()
const links = new Links()
t.teardown(() => {
  counters.close()
  links.close()
})

t.test('a bridge keeps its address whatever TAPs join it', async (t) => {
  run('ip', 'link', 'add', 'ssw-b0', 'type', 'bridge')
  t.teardown(() => run('ip', 'link', 'delete', 'ssw-b0'))
  const join = (name: string) => run('ip', 'link', 'set', name, 'master', 'ssw-b0')
  // As high as the kernel's own random ones come.
  createTap('ssw-t0', { mac: 'fa:ff:ff:ff:ff:ff' })
  join('ssw-t0')
  t.equal(links.get('ssw-b0').mac, 'fa:ff:ff:ff:ff:ff', 'the lowest of its ports')
  createTap('ssw-t1')
  join('ssw-t1')
  t.equal(links.get('ssw-b0').mac, 'fa:ff:ff:ff:ff:ff')
  deleteTap('ssw-t0')
  deleteTap('ssw-t1')
})

t.test('a persistent TAP is made and removed', async (t) => {
  const link = createTap('ssw-t0', { mac: '02:00:00:00:00:01', mtu: 2000, up: true })
  t.match(link, { name: 'ssw-t0', kind: 'tun', mac: '02:00:00:00:00:01', mtu: 2000, up: true, lowerUp: false })
  t.match(run('ip', '-d', 'link', 'show', 'ssw-t0'), /tun type tap pi off vnet_hdr on persist on/)
  t.throws(() => createTap('ssw-t0'), { code: 'DEVICE_BUSY', message: /exists already/ })

  const fd = openTap('ssw-t0')
  t.equal(links.get('ssw-t0').lowerUp, true, 'a carrier while somebody holds it')
  t.throws(() => openTap('ssw-t0'), { code: 'DEVICE_BUSY', message: /EBUSY/ })
  t.throws(() => deleteTap('ssw-t0'), { code: 'DEVICE_BUSY' })
  libc().close(fd)
  t.ok(links.find('ssw-t0'), 'it stays')
  deleteTap('ssw-t0')
  t.equal(links.find('ssw-t0'), null)
  t.throws(() => deleteTap('ssw-t0'), { code: 'DEVICE_MISSING' })

  t.throws(() => openTap('lo'), { code: 'DEVICE_BUSY', message: /no TAP/ })
  t.throws(() => deleteTap('lo'), { code: 'DEVICE_BUSY', message: /no TAP/ })
  t.throws(() => createTap('a-name-of-16-byt'), { code: 'NAME_INVALID' })
  t.throws(() => createTap('tap%d'), { code: 'NAME_INVALID' }, 'the kernel would choose a number')
  t.throws(() => createTap('ssw-bad', { mtu: 10 }), { code: 'SYSCALL' })
  t.equal(links.find('ssw-bad'), null, 'nothing is left of a TAP that could not be set as asked')
})

t.test('a TAP that somebody holds gets a stand-in like it, which takes its name', async (t) => {
  run('ip', 'tuntap', 'add', 'dev', 'ssw-t1', 'mode', 'tap', 'vnet_hdr', 'user', '65534', 'group', '65533')
  run('ip', 'link', 'set', 'ssw-t1', 'mtu', '1800', 'txqueuelen', '77', 'address', '02:00:00:00:00:77')
  const [former] = openFreeTap(links.get('ssw-t1'), 1, {}) as [number]
  const link = links.get('ssw-t1')
  t.equal(openFreeTap(link, 1, {}), null, 'busy')
  const descriptors = openStandIn('ssw-t2', link, 1, {})
  const { mtu, queueLength, mac, tap } = link
  const standIn = links.get('ssw-t2')
  t.match(standIn, { mtu, queueLength, mac, tap, up: false })
  t.match(tap, { owner: 65534, group: 65533, persistent: true, multiQueue: false, vnetHeader: true })
  t.equal(mtu, 1800)
  t.equal(queueLength, 77)
  libc().close(former)
  links.remove(link.index)
  links.change(standIn.index, { name: 'ssw-t1' })
  links.change(standIn.index, { up: true })
  t.match(links.get('ssw-t1'), { index: standIn.index, up: true, lowerUp: true }, 'whoever holds it holds it yet')
  closeAll(descriptors)
  t.ok(links.find('ssw-t1'), 'it stays, as the other would have')
  deleteTap('ssw-t1')
})

t.test('several queues', async (t) => {
  run('ip', 'tuntap', 'add', 'dev', 'ssw-t3', 'mode', 'tap', 'vnet_hdr', 'multi_queue')
  const own = openFreeTap(links.get('ssw-t3'), 2, {}) ?? []
  t.equal(own.length, 2)
  t.match(links.get('ssw-t3').tap, { multiQueue: true, queues: 2 })
  t.equal(openFreeTap(links.get('ssw-t3'), 2, {}), null, 'the kernel would give more, but they are somebody’s')
  const others = openStandIn('ssw-t4', links.get('ssw-t3'), 2, {})
  t.match(links.get('ssw-t4').tap, { multiQueue: true, queues: 2, persistent: true })
  closeAll([...own, ...others])
  for (const name of ['ssw-t3', 'ssw-t4']) links.remove(links.get(name).index)
})

t.test('the counters of a TAP', async (t) => {
  const { index } = createTap('ssw-t1')
  writeSysctl('ipv6/conf/ssw-t1/disable_ipv6', '1')
  links.change(index, { up: true })
  const guest = openTap('ssw-t1', { nonBlocking: true })
  const ours = packetSocket(index)
  const bypassing = packetSocket(index, { bypassQdisc: true })
  t.teardown(() => {
    for (const fd of [ours, bypassing, guest]) libc().close(fd)
    deleteTap('ssw-t1')
  })
  readAll(guest)
  const since = () => {
    const before = counters.read(index)
    return () => {
      const now = counters.read(index)
      return {
        txPackets: now.txPackets - before.txPackets,
        txDropped: now.txDropped - before.txDropped,
        txBytes: now.txBytes - before.txBytes,
      }
    }
  }

  t.test('tx_packets counts what the reader took, not what lies in the queue', async (t) => {
    const delta = since()
    for (let round = 0; round < 10; round += 1) t.ok(send(ours, experimentalFrame()))
    t.match(delta(), { txPackets: 0, txDropped: 0 })
    t.equal(readAll(guest, 4).length, 4)
    t.match(delta(), { txPackets: 4, txBytes: 240 })
    t.equal(readAll(guest).length, 6)
    t.match(delta(), { txPackets: 10, txBytes: 600, txDropped: 0 })
  })

  for (const [how, socket] of [
    ['through the qdisc, without an error', ours],
    ['past the qdisc, with ENOBUFS', bypassing],
  ] as const) {
    t.test(`a full queue drops ${how}; tx_dropped counts it`, async (t) => {
      const delta = since()
      let accepted = 0
      for (let round = 0; round < 1500; round += 1) if (send(socket, experimentalFrame())) accepted += 1
      const { txDropped, txPackets } = delta()
      t.equal(txPackets, 0)
      t.ok(txDropped >= 500 && txDropped <= 520, `${txDropped} of 1500 dropped`)
      t.equal(accepted, socket === ours ? 1500 : 1500 - txDropped)
      t.equal(readAll(guest).length, 1500 - txDropped)
      t.match(delta(), { txPackets: 1500 - txDropped, txDropped })
    })
  }

  t.test('a GSO frame counts as the frames that the reader takes', async (t) => {
    const frame = gsoFrame(4000, 1448)
    for (const [offload, parts] of [
      [0, 3],
      [TapOffload.checksum, 3],
      [TapOffload.checksum | TapOffload.tso4 | TapOffload.tso6, 1],
    ]) {
      setTapOffload(guest, offload)
      const delta = since()
      t.ok(send(ours, frame))
      const read = readAll(guest)
      t.equal(read.length, parts, `offload ${offload}`)
      t.equal(
        read.map((part) => part.length - 54).reduce((sum, length) => sum + length),
        4000,
      )
      t.match(delta(), { txPackets: parts, txBytes: 4000 + 54 * parts, txDropped: 0 })
    }
  })

  t.test('past the qdisc, a GSO frame that the reader cannot take is lost', async (t) => {
    setTapOffload(guest, 0)
    const delta = since()
    t.notOk(send(bypassing, gsoFrame(4000, 1448)))
    t.equal(readAll(guest).length, 0)
    t.match(delta(), { txPackets: 0, txDropped: 1 })
    setTapOffload(guest, TapOffload.checksum | TapOffload.tso4 | TapOffload.tso6)
    t.ok(send(bypassing, gsoFrame(4000, 1448)))
    t.equal(readAll(guest).length, 1)
  })

  // Last: the host asks on for some seconds.
  t.test('what the host sends by itself is counted too', async (t) => {
    run('ip', 'address', 'add', '192.0.2.1/24', 'dev', 'ssw-t1')
    const delta = since()
    t.throws(() => run('ping', '-c', '1', '-W', '1', '192.0.2.9'))
    const read = readAll(guest)
    t.ok(
      read.length > 0 && read.every((frame) => frame[12] === 8 && frame[13] === 6),
      `its ARP requests: ${read.map(hex)}`,
    )
    t.equal(delta().txPackets, read.length)
  })
})

function hex(frame: Uint8Array): string {
  return Buffer.from(frame).toString('hex')
}
