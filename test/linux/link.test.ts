// rtnetlink against the kernel: what `ip` makes and says is what we see, and the other way round.

import { closeSync, openSync, writeSync } from 'node:fs'
import t from 'tap'
import { addAddress, defaultRouteDevices, listAddresses } from '../../src/linux/addresses.js'
import { libc } from '../../src/linux/libc.js'
import { Links, LinkWatch } from '../../src/linux/link.js'
import { isCalled } from '../../src/linux/link-message.js'
import { attributes, NetlinkBody, readText, readU32 } from '../../src/linux/netlink.js'
import { LinkCounterReader } from '../../src/linux/stats.js'
import { DeviceSysctl } from '../../src/linux/sysctl.js'
import { TransmitCounters } from '../../src/linux/transmit-counters.js'
import { enterFreshNamespace, mountOwnSysfs, run, until } from './namespace.js'
import { readSysctl, writeSysctl } from './sysctl.js'
import { experimentalFrame, packetSocket, send } from './wire.js'

enterFreshNamespace()

t.test('attributes: what is built is parsed, and nonsense ends the list', async (t) => {
  const body = new NetlinkBody()
    .u32(7)
    .attributeU8(1, 9)
    .attributeText(2, 'a name of some length')
    .nested(3, (inner) => inner.attributeU32(4, 0xdeadbeef).attribute(5, new Uint8Array(600)))
  const found = attributes(body.bytes(), 4)
  t.same([...found.keys()], [1, 2, 3])
  t.same([...found.get(1)!], [9])
  t.equal(readText(found.get(2)!), 'a name of some length')
  const inner = attributes(found.get(3)!)
  t.equal(readU32(inner.get(4)!), 0xdeadbeef)
  t.equal(inner.get(5)!.length, 600)
  t.same([...attributes(new Uint8Array([3, 0, 1, 0])).keys()], [], 'shorter than its own header')
  t.same([...attributes(new Uint8Array([4, 0, 1, 0, 200, 0, 2, 0])).keys()], [1], 'longer than the message')
})

t.test('lists, finds and changes devices', async (t) => {
  const links = new Links()
  t.teardown(() => links.close())
  run('ip', 'link', 'add', 'ssw-a', 'type', 'veth', 'peer', 'name', 'ssw-b')
  run('ip', 'link', 'add', 'ssw-br', 'type', 'bridge')
  run('ip', 'link', 'set', 'ssw-b', 'master', 'ssw-br')
  for (let index = 0; index < 120; index += 1) run('ip', 'link', 'add', `ssw-d${index}`, 'type', 'bridge')
  const all = links.list()
  t.equal(all.length, 124, 'a dump of several datagrams is whole')
  const a = links.get('ssw-a')
  const b = links.get('ssw-b')
  t.match(a, {
    kind: 'veth',
    ethernet: true,
    mtu: 1500,
    up: false,
    lowerUp: false,
    master: null,
    peer: b.index,
    peerNamespace: null,
  })
  t.equal(b.master, links.get('ssw-br').index)
  t.match(links.get('lo'), { kind: null, mac: '00:00:00:00:00:00', ethernet: false })
  t.same(links.findByIndex(a.index), a)
  t.equal(links.find('ssw-none'), null)
  t.equal(links.find(''), null)
  t.equal(links.find('a-name-beyond-any-device'), null)
  t.throws(() => links.get('ssw-none'), { code: 'DEVICE_MISSING', action: /ip link/ })

  links.change(a.index, { up: true, mtu: 9000, mac: '02:00:00:00:00:0a', ipv6Addresses: 'none' })
  links.change(b.index, { up: true })
  t.match(links.get('ssw-a'), { up: true, lowerUp: true, mtu: 9000, mac: '02:00:00:00:00:0a' })
  const shown = run('ip', '-d', 'link', 'show', 'ssw-a')
  t.match(shown, /mtu 9000/)
  t.match(shown, /link\/ether 02:00:00:00:00:0a/)
  t.match(shown, /addrgenmode none/)
  t.notMatch(run('ip', '-6', 'address', 'show', 'dev', 'ssw-a'), /inet6/, 'no link-local address')
  links.change(a.index, { mtu: 1400 })
  t.match(links.get('ssw-a'), { up: true, mtu: 1400 }, 'what is not named stays')
  links.change(a.index, { up: false })
  t.match(links.get('ssw-a'), { up: false })

  t.throws(() => links.change(a.index, { mtu: 10 }), { code: 'SYSCALL', message: /less than device minimum.*EINVAL/ })
  t.throws(() => links.change(9999, { up: true }), { code: 'DEVICE_MISSING' })
  t.throws(() => links.change(a.index, { mac: '02:00' }), { code: 'CONFIG_INVALID' })
  links.remove(a.index)
  t.equal(links.find('ssw-b'), null, 'a veth goes with its other end')
  t.throws(() => links.remove(a.index), { code: 'DEVICE_MISSING' })
})

t.test('other names of a device, and what stands on it elsewhere', async (t) => {
  const links = new Links()
  t.teardown(() => links.close())
  run('ip', 'link', 'add', 'ssw-n0', 'type', 'veth', 'peer', 'name', 'ssw-n1')
  const { index } = links.get('ssw-n0')
  const long = 'a-name-that-is-longer-than-what-the-kernel-calls-a-device'
  for (const name of [long, 'short-name']) run('ip', 'link', 'property', 'add', 'dev', 'ssw-n0', 'altname', name)
  for (const name of ['ssw-n0', long, 'short-name']) {
    t.equal(links.find(name)?.index, index)
    t.ok(isCalled(links.get(name), name))
  }
  t.same([...links.get('ssw-n0').otherNames].sort(), [long, 'short-name'])
  t.same(links.get('ssw-n1').otherNames, [])
  t.equal(links.find('x'.repeat(128)), null)

  t.same(links.elsewhere(), [])
  const there = `ssw-n${process.pid}`
  run('ip', 'netns', 'add', there)
  t.teardown(() => run('ip', 'netns', 'del', there))
  run('ip', 'link', 'add', 'link', 'ssw-n0', 'name', 'ssw-up', 'type', 'macvlan', 'mode', 'bridge')
  t.match(links.get('ssw-up'), { peer: index, peerNamespace: null, macvlanBridge: true })
  run('ip', 'link', 'set', 'ssw-up', 'netns', there)
  t.match(links.elsewhere(), [{ name: 'ssw-up', kind: 'macvlan', peer: index }])
  run('ip', 'link', 'set', 'ssw-n1', 'netns', there)
  t.same(
    links
      .elsewhere()
      .map(({ name }) => name)
      .sort(),
    ['ssw-n1', 'ssw-up'],
    'a cable’s other end is one that has a peer',
  )
  run('ip', '-n', there, 'link', 'del', 'ssw-up')
  t.same(
    links.elsewhere().map(({ name }) => name),
    ['ssw-n1'],
  )
})

t.test('addresses, and where the default route leads', async (t) => {
  const links = new Links()
  t.teardown(() => links.close())
  run('ip', 'link', 'add', 'ssw-i0', 'up', 'type', 'veth', 'peer', 'name', 'ssw-i1')
  run('ip', 'link', 'set', 'ssw-i1', 'up')
  const { index } = links.get('ssw-i0')
  t.same(defaultRouteDevices(links.socket), [])
  run('ip', 'address', 'add', '192.0.2.1/24', 'dev', 'ssw-i0')
  run('ip', 'address', 'add', '192.0.2.9', 'peer', '192.0.2.10', 'dev', 'ssw-i1')
  run('ip', 'address', 'add', '2001:db8:0:0:1::9/64', 'dev', 'ssw-i0', 'nodad', 'noprefixroute')
  await until(() => listAddresses(links.socket, index).some(({ linkLocal }) => linkLocal), 'the link-local address')
  const all = listAddresses(links.socket)
  const own = listAddresses(links.socket, index)
  t.same(
    own,
    all.filter((address) => address.index === index),
  )
  t.same(
    own.filter(({ linkLocal }) => !linkLocal).map(({ text, version }) => [text, version]),
    [
      ['192.0.2.1/24', 4],
      ['2001:db8::1:0:0:9/64', 6],
    ],
  )
  t.ok(all.some(({ text }) => text === '192.0.2.9/32'))
  const shown = () =>
    run('ip', '-o', 'address', 'show', 'dev', 'ssw-i0', 'scope', 'global').replaceAll('tentative ', '')
  const before = shown()
  run('ip', 'address', 'flush', 'dev', 'ssw-i0')
  for (const address of own) addAddress(links.socket, address)
  t.equal(shown(), before, 'set again as they were')
  t.doesNotThrow(() => addAddress(links.socket, own[0]!), 'there already')
  for (const [route, devices] of [
    [['default', 'via', '192.0.2.7'], [index]],
    [['0.0.0.0/1', 'via', '192.0.2.7'], [index]],
    [['203.0.113.0/24', 'via', '192.0.2.7'], []],
    [['unreachable', 'default'], []],
    [
      ['default', 'nexthop', 'via', '192.0.2.7', 'nexthop', 'via', '192.0.2.10', 'dev', 'ssw-i1'],
      [index, links.get('ssw-i1').index],
    ],
  ] as const) {
    // A route to half of the addresses lets the other half be; the one looked at is in the upper.
    const args = route[0] === '0.0.0.0/1' ? ['128.0.0.0/1', ...route.slice(1)] : [...route]
    run('ip', 'route', 'add', ...args)
    t.same(defaultRouteDevices(links.socket), devices, args.join(' '))
    run('ip', 'route', 'del', ...args)
  }
})

t.test('tells of devices that come, change and go', async (t) => {
  const watch = new LinkWatch()
  t.teardown(() => watch.close())
  t.same(watch.drain(), [])
  const seen: string[] = []
  run('ip', 'link', 'add', 'ssw-w', 'type', 'bridge')
  run('ip', 'link', 'set', 'ssw-w', 'up')
  run('ip', 'link', 'delete', 'ssw-w')
  await until(() => {
    for (const event of watch.drain())
      if ('link' in event) seen.push(`${event.kind} ${event.link.name} ${event.link.up ? 'up' : 'down'}`)
    return seen.some((event) => event.startsWith('removed'))
  }, 'the removal is told')
  t.equal(seen[0], 'changed ssw-w down')
  t.ok(seen.includes('changed ssw-w up'))
  t.match(seen.at(-1), /^removed ssw-w/)
})

t.test('events beyond the socket buffer are an error, not silence', async (t) => {
  const watch = new LinkWatch()
  t.teardown(() => watch.close())
  run('ip', 'link', 'add', 'ssw-n', 'type', 'bridge')
  const links = new Links()
  t.teardown(() => links.close())
  const { index } = links.get('ssw-n')
  for (let round = 0; round < 600; round += 1) links.change(index, { mtu: 1400 + (round % 2) })
  t.throws(
    () => {
      while (watch.drain().length > 0);
    },
    { code: 'SYSCALL', message: /ENOBUFS/ },
  )
  t.doesNotThrow(() => watch.drain(), 'it goes on afterwards')
})

t.test('counters', async (t) => {
  const counters = new LinkCounterReader()
  t.teardown(() => counters.close())
  run('ip', 'link', 'set', 'lo', 'up')
  const before = counters.read(1)
  run('ping', '-c', '3', '-i', '0.01', '127.0.0.1')
  const after = counters.read(1)
  t.equal(after.txPackets - before.txPackets, 6, 'three requests, three answers')
  t.equal(after.rxPackets - before.rxPackets, 6)
  t.equal(after.txBytes - before.txBytes, 6 * 84, 'loopback counts without the Ethernet header')
  t.throws(() => counters.read(9999), { code: 'DEVICE_MISSING' })
  t.equal(counters.read(1).txPackets, after.txPackets, 'it goes on after an error')
})

t.test('what devices have sent, by sysfs or netlink', async (t) => {
  const links = new Links()
  const byFile = new TransmitCounters()
  const byNetlink = new TransmitCounters()
  t.teardown(() => {
    byFile.close()
    byNetlink.close()
    links.close()
  })
  run('ip', 'link', 'add', 'ssw-w0', 'type', 'veth', 'peer', 'name', 'ssw-w1')
  // No frames of the kernel's own between two looks at a counter.
  for (const name of ['ssw-w0', 'ssw-w1']) writeSysctl(`ipv6/conf/${name}/disable_ipv6`, '1')
  const link = links.get('ssw-w0')
  byNetlink.watch(link)
  t.equal(byNetlink.watches(link.index), false, 'this sysfs was mounted in the namespace that we have left')
  mountOwnSysfs()
  byFile.watch(link)
  t.equal(byFile.watches(link.index), true)
  byFile.watch({ ...link, mac: '02:00:00:00:00:99' })
  t.equal(byFile.watches(link.index), false, 'same name, another device')
  byFile.watch(link)
  for (const name of ['ssw-w0', 'ssw-w1']) run('ip', 'link', 'set', name, 'up')
  const socket = packetSocket(link.index)
  // The kernel gives a device its queue some time after it is up: what is sent earlier is lost.
  await until(() => {
    send(socket, experimentalFrame())
    return byFile.read(link.index).txPackets > 0
  }, 'the first frame')
  const before = byFile.read(link.index)
  for (let i = 0; i < 12; i++) send(socket, experimentalFrame())
  libc().close(socket)
  await until(() => byFile.read(link.index).txPackets >= before.txPackets + 12, 'twelve frames')
  t.match(byNetlink.read(link.index), { txPackets: byFile.read(link.index).txPackets, txDropped: 0 })
  run('ip', 'link', 'set', 'ssw-w0', 'name', 'ssw-w2')
  run('ip', 'link', 'set', 'ssw-w1', 'name', 'ssw-w0')
  t.same(byFile.read(link.index), byFile.read(link.index), 'under another name')
  t.match(byNetlink.read(link.index), { txPackets: byFile.read(link.index).txPackets, txDropped: 0 })
  t.equal(byFile.watches(link.index), true)
  run('ip', 'link', 'del', 'ssw-w2')
  t.throws(() => byFile.read(link.index), { code: 'DEVICE_MISSING' })
  t.equal(byFile.watches(link.index), false)
})

t.test('settings of a device follow it to another name, and never go to the next one of its name', async (t) => {
  const links = new Links()
  t.teardown(() => links.close())
  run('ip', 'link', 'add', 'ssw-s0', 'type', 'veth', 'peer', 'name', 'ssw-s1')
  const { index } = links.get('ssw-s0')
  const setting = new DeviceSysctl('ipv6', 'disable_ipv6', () => links.nameOf(index))
  const byName = (name: string) => readSysctl(`ipv6/conf/${name}/disable_ipv6`)
  t.equal(setting.read(), '0')
  run('ip', 'link', 'set', 'ssw-s0', 'name', 'ssw-s2')
  run('ip', 'link', 'set', 'ssw-s1', 'name', 'ssw-s0')
  t.ok(setting.write('1'))
  t.same([setting.read(), byName('ssw-s2'), byName('ssw-s0')], ['1', '1', '0'])

  // The names change places between the look at the name and the opening of the file: the worst that can be.
  let renames = 0
  const swaps = () => {
    const name = links.nameOf(index)!
    const another = name === 'ssw-s0' ? 'ssw-s2' : 'ssw-s0'
    if (renames++ < 3) {
      run('ip', 'link', 'set', name, 'name', 'ssw-s3')
      run('ip', 'link', 'set', another, 'name', name)
      run('ip', 'link', 'set', 'ssw-s3', 'name', another)
    }
    return name
  }
  t.ok(new DeviceSysctl('ipv6', 'disable_ipv6', swaps).write('0'))
  t.ok(renames > 3, 'it has looked again')
  t.same([byName('ssw-s0'), byName('ssw-s2'), setting.read()], ['0', '0', '0'])
  const other = links.get(links.nameOf(index) === 'ssw-s0' ? 'ssw-s2' : 'ssw-s0')
  new DeviceSysctl('ipv6', 'disable_ipv6', () => links.nameOf(other.index)).write('1')
  renames = 0
  t.equal(new DeviceSysctl('ipv6', 'disable_ipv6', swaps).read(), '0', 'its own, not the other one’s')

  const file = openSync(`/proc/sys/net/ipv6/conf/${links.nameOf(index)}/disable_ipv6`, 'r+')
  const was = links.nameOf(index)!
  run('ip', 'link', 'set', was, 'name', 'ssw-s5')
  run('ip', 'link', 'set', links.nameOf(other.index)!, 'name', was)
  t.throws(() => writeSync(file, '0'), { code: 'ENOENT' }, 'a file of a former name is dead, as the code relies on')
  closeSync(file)

  t.throws(() => setting.write('lunch'), { code: 'SYSCALL', message: /EINVAL/ })
  for (const name of ['all', 'default']) {
    t.notOk(new DeviceSysctl('ipv6', 'disable_ipv6', () => name).write('1'), 'that is no device')
    t.equal(byName(name), '0')
  }
  t.equal(new DeviceSysctl('ipv6', 'no_such_setting', () => links.nameOf(index)).read(), null)
  links.remove(index)
  t.same([setting.read(), setting.write('1')], [null, false])
})
