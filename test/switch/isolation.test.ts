// The host's own stack neither hears nor answers the guests, though it has addresses that they ask for; their frames
// are forwarded all the same, and what the host says elsewhere is none of theirs.

import t from 'tap'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { sleep, until } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { stations, untilQuiet } from './station.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

const GUEST = [2, 0, 0, 0, 0, 1]
const ALL = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
const from = (frame: FrameCopy) => [...frame.bytes.slice(VNET_HEADER_LENGTH + 6, VNET_HEADER_LENGTH + 12)]

function padded(...bytes: number[]): Uint8Array {
  const frame = new Uint8Array(Math.max(60, bytes.length))
  frame.set(bytes)
  return frame
}

/** RFC 1071. */
function checksum(bytes: readonly number[]): [number, number] {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i] << 8) | (bytes[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return [(~sum >> 8) & 0xff, ~sum & 0xff]
}

function arpRequest(target: number[]): Uint8Array {
  const body = [0, 1, 8, 0, 6, 4, 0, 1, ...GUEST, 10, 66, 0, 1, 0, 0, 0, 0, 0, 0, ...target]
  return padded(...ALL, ...GUEST, 8, 6, ...body)
}

/** ICMPv4 echo request to `target`, at the link address `to`. */
function echoRequest(to: number[], target: number[]): Uint8Array {
  const icmp = [8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4]
  icmp.splice(2, 2, ...checksum(icmp))
  const header = [0x45, 0, 0, 20 + icmp.length, 0, 1, 0, 0, 64, 1, 0, 0, 10, 66, 0, 1, ...target]
  header.splice(10, 2, ...checksum(header))
  return padded(...to, ...GUEST, 8, 0, ...header, ...icmp)
}

const GUEST_LINK_LOCAL = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1]

/** An ICMPv6 message of the guest to a multicast group. */
function icmp6(group: number[], message: number[]): Uint8Array {
  const pseudo = [...GUEST_LINK_LOCAL, ...group, 0, 0, 0, message.length, 0, 0, 0, 58]
  message.splice(2, 2, ...checksum([...pseudo, ...message]))
  const header = [0x60, 0, 0, 0, 0, message.length, 58, 255, ...GUEST_LINK_LOCAL, ...group]
  return padded(0x33, 0x33, ...group.slice(12), ...GUEST, 0x86, 0xdd, ...header, ...message)
}

const ALL_ROUTERS = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
const ALL_NODES = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
const routerSolicitation = () => icmp6(ALL_ROUTERS, [133, 0, 0, 0, 0, 0, 0, 0, 1, 1, ...GUEST])
const echo6 = () => icmp6(ALL_NODES, [128, 0, 0, 0, 0, 1, 0, 1])
const mldQuery = () => icmp6(ALL_NODES, [130, 0, 0, 0, 0x27, 0x10, 0, 0, ...new Array(16).fill(0)])
/** A rogue guest's router advertisement with a prefix to configure addresses from. */
const routerAdvertisement = () =>
  icmp6(ALL_NODES, [
    ...[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
  ])

function dhcpDiscover(): Uint8Array {
  const bootp = [1, 1, 6, 0, 1, 2, 3, 4, ...new Array(20).fill(0), ...GUEST, ...new Array(10 + 192).fill(0)]
  bootp.push(99, 130, 83, 99, 53, 1, 1, 255)
  const udp = [0, 68, 0, 67, (8 + bootp.length) >> 8, (8 + bootp.length) & 0xff, 0, 0, ...bootp]
  const length = 20 + udp.length
  const header = [0x45, 0, length >> 8, length & 0xff, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]
  header.splice(10, 2, ...checksum(header))
  return padded(...ALL, ...GUEST, 8, 0, ...header, ...udp)
}

t.test('a host with addresses of its own stays out of its guests’ network', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host', { ipv6: true })
  await world.endpoint('one', 'host')
  await world.endpoint('two', 'host')
  // The host is a router, with an address on a device of its own and, worst of all, one on a port.
  await world.ip('host', 'address', 'add', '10.66.0.254/24', 'dev', 'one')
  await world.ip('host', 'address', 'add', '10.99.0.1/24', 'dev', 'lo')
  for (const setting of ['ipv4/ip_forward', 'ipv6/conf/all/forwarding', 'ipv4/conf/all/proxy_arp']) {
    await world.in('host', 'sh', '-c', `echo 1 >/proc/sys/net/${setting}`)
  }
  // Somebody on the host waits for DHCP clients.
  const script = `const s = require('node:dgram').createSocket({ type: 'udp4', reuseAddr: true })
    s.on('message', (m, from) => { console.log('heard ' + m.length); s.send('offer', from.port, from.address) })
    s.bind(67, () => { s.setBroadcast(true); console.log('listening') })`
  const dhcp = await world.start('host', process.execPath, '-e', script)
  await until('the DHCP server', 5000, () => (dhcp.stdout.includes('listening') ? true : undefined))
  const hostMac = (await world.ip('host', '-o', 'link', 'show', 'one')).match(/link\/ether (\S+)/)![1]
  const toHost = hostMac.split(':').map((byte) => Number.parseInt(byte, 16))

  const [one, two] = stations(t, world, 'one', 'two')
  const questions: [string, Uint8Array][] = [
    ['ARP for the port’s address', arpRequest([10, 66, 0, 254])],
    ['ARP for another address of the host', arpRequest([10, 99, 0, 1])],
    ['ARP that a proxy would answer', arpRequest([10, 1, 2, 3])],
    ['ping to the host’s link address', echoRequest(toHost, [10, 66, 0, 254])],
    ['broadcast ping', echoRequest(ALL, [10, 66, 0, 255])],
    ['IPv6 router solicitation', routerSolicitation()],
    ['IPv6 ping to all nodes', echo6()],
    ['MLD query', mldQuery()],
    ['IPv6 router advertisement', routerAdvertisement()],
    ['DHCP discover', dhcpDiscover()],
  ]

  await t.test('it does answer while there is no switch, so the test can tell', async () => {
    await world.ip('host', 'link', 'set', 'one', 'up')
    // The kernel gives a device its queue some time after it is up.
    await until('an ARP answer', 10_000, async () => {
      one.send(arpRequest([10, 66, 0, 254]))
      return (await one.collect(1, (frame) => from(frame).join() === toHost.join(), 200))[0]
    })
    one.send(dhcpDiscover())
    await until('the DHCP discover', 3000, () => (dhcp.stdout.includes('heard') ? true : undefined))
    dhcp.stdout = ''
  })

  const ports = { one: { device: 'one' }, two: { device: 'two' } }
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  // What the host's stack has said before the switch took the devices.
  await untilQuiet(one, two)

  for (const [name, frame] of questions) {
    await t.test(name, async (t) => {
      t.equal(one.send(frame), null)
      const heard = await two.collect(1, () => true)
      t.same(
        heard.map(({ bytes }) => Buffer.from(bytes.subarray(VNET_HEADER_LENGTH)).toString('hex')),
        [Buffer.from(frame).toString('hex')],
        'forwarded as it is',
      )
      await sleep(150)
      t.same(one.received().length, 0, 'the sender hears nothing')
      t.same(two.received().length, 0, 'nor does anybody else')
    })
  }

  await t.test('nothing has reached the host', async (t) => {
    t.equal(dhcp.stdout, '', 'no DHCP')
    t.notMatch(await world.ip('host', '-6', 'address', 'show'), /2001:db8/, 'no address from a guest’s advertisement')
    t.equal(await world.ip('host', 'neighbour', 'show', 'dev', 'two'), '')
  })

  await t.test('and the host sends nothing by itself: two seconds of silence', async (t) => {
    await sleep(2000)
    t.same([one.received().length, two.received().length], [0, 0])
  })
  t.equal(await daemon.stop(), 0)
})
