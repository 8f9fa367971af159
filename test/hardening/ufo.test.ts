// A guest that leaves a long UDP datagram to be fragmented by whoever sends it (UFO: old Linux, FreeBSD, Windows). No
// ring of a packet socket can hold such a frame. It arrives as from a kernel bridge, and no frame beside it is lost.

import t from 'tap'
import { sum } from '../frame/tunnels.js'
import { until } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { idOf, isOurs, opensWay, stations, testFrame } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { tapGuest, virtioHeader } from './tap-guest.js'

t.setTimeout(fileLimit(90_000))

const PORT = 7007
const UFO = 3
const be16 = (value: number) => [value >> 8, value & 0xff]

/** A frame with a datagram of `length` bytes, all of them `id`, to the receiver's address. */
function datagram(version: 4 | 6, mac: Uint8Array, id: number, length: number, finished: boolean, tags: number[] = []) {
  const transport = 14 + tags.length + (version === 4 ? 20 : 40)
  const frame = new Uint8Array(transport + 8 + length)
  const udp = 8 + length
  const six = (n: number) => [0xfd, 0x66, ...new Array(13).fill(0), n]
  const addresses = version === 4 ? [10, 66, 0, 9, 10, 66, 0, 1] : [...six(9), ...six(1)]
  const type = version === 4 ? [8, 0] : [0x86, 0xdd]
  frame.set([...mac, 2, 0, 0, 0, 0, 9, ...tags, ...type])
  if (version === 4) {
    const header = [0x45, 0, ...be16(20 + udp), 0, id, 0, 0, 64, 17, 0, 0, ...addresses]
    frame.set(header, transport - 20)
    frame.set(be16(~sum(header) & 0xffff), transport - 10)
  } else frame.set([0x60, 0, 0, 0, ...be16(udp), 17, 64, ...addresses], transport - 40)
  frame.set([...be16(1000 + id), ...be16(PORT), ...be16(udp)], transport)
  frame.fill(id, transport + 8)
  const pseudo = [...addresses, 0, 17, ...be16(udp)]
  const check = finished ? ~sum(pseudo, frame.subarray(transport)) & 0xffff : sum(pseudo)
  frame.set(be16(check), transport + 6)
  const checksum = finished ? {} : { flags: 1, checksumStart: transport, checksumOffset: 6 }
  return {
    frame,
    header: virtioHeader({
      ...checksum,
      gsoType: UFO,
      gsoSize: version === 4 ? 1480 : 1448,
      headerLength: transport + 8,
    }),
  }
}

/** Prints a line for each datagram: its length and the byte that all of it is. */
const LISTEN = `
const s = require('node:dgram').createSocket('udp6')
s.on('message', (m) => console.log(m.every((b) => b === m[0]) ? m.length + ' ' + m[0] : 'damaged'))
s.bind(${PORT}, '::', () => console.log('listening'))`

for (const kind of ['bridge', 'switch'] as const) {
  t.test(`through a ${kind}`, root, async (t) => {
    const world = World.for(t)
    await world.host('host')
    await world.endpoint('one', 'host', { address: '10.66.0.1', ipv6: true })
    await world.ip('one', 'address', 'add', 'fd66::1/64', 'dev', 'eth0', 'nodad')
    const guest = tapGuest(t, world, 'host', 'guest')
    if (kind === 'bridge') {
      await world.ip('host', 'link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '0')
      await world.ip('host', 'link', 'set', 'br0', 'up')
      for (const label of ['one', 'guest']) await world.ip('host', 'link', 'set', label, 'up', 'master', 'br0')
    }
    const ports = { one: { device: 'one', vm: 'one' }, guest: { device: 'guest', vm: 'guest' } }
    const daemon = kind === 'switch' ? await world.switch('host', { networks: { lab0: { ports } } }) : null
    const [station] = stations(t, world, 'one')
    const listener = await world.start('one', process.execPath, '-e', LISTEN)
    await until('the listener', 10_000, () => (listener.stdout.includes('listening') ? true : undefined))
    const address = (await world.in('one', 'cat', '/sys/class/net/eth0/address')).trim()
    const mac = Uint8Array.from(address.split(':'), (byte) => Number.parseInt(byte, 16))

    // A bridge's port forwards a moment after it is up.
    await opensWay((frame) => guest.write(frame), station)
    const lines = () => listener.stdout.trim().split('\n').slice(1)
    const wanted: string[] = []
    let small = 0
    const got: number[] = []
    for (let id = 1; id <= 40; id++) {
      for (let i = 0; i < 5; i++) guest.write(testFrame(small++))
      const length = [4000, 1473, 60_000, 8000][id % 4]
      const { frame, header } = datagram(id % 2 === 0 ? 4 : 6, mac, id, length, id % 3 === 0)
      t.equal(guest.write(frame, header), null)
      wanted.push(`${length} ${id}`)
      for (let i = 0; i < 5; i++) guest.write(testFrame(small++))
      // The listener's buffer is small, and its machine busy.
      await until('the datagram', 3000, () => (lines().length >= id ? true : undefined), 5).catch(() => undefined)
      if (id % 8 !== 0) continue
      got.push(...(await station.collect(small - got.length, isOurs, 3000)).map(idOf))
    }
    t.equal(got.length, small, 'no small frame is lost')
    t.same(
      got,
      [...got].sort((a, b) => a - b),
      'and they are in order',
    )
    await until('the datagrams', 5000, () => (lines().length >= wanted.length ? true : undefined)).catch(
      () => undefined,
    )
    t.same(lines().sort(), wanted.sort(), 'each datagram arrives, whole')
    t.match(await world.in('one', 'cat', '/proc/net/snmp6'), /Udp6InCsumErrors\s+0\s/)
    if (daemon === null) return
    const { counters } = await daemon.port('guest')
    t.same(counters.drops, {}, 'nothing is dropped')
    t.equal(counters.kernelDrops, 0)
    t.same((await daemon.port('one')).counters.drops, {})
  })
}
