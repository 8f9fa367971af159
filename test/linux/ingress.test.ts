// The host's stack must neither see nor answer what enters a switch port, while packet sockets see every frame.

import { createSocket } from 'node:dgram'
import t from 'tap'
import { quietLink, releaseLeft } from '../../src/linux/ingress.js'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { createTap, deleteTap, openTap } from '../../src/linux/tap.js'
import { patience } from '../patience.js'
import { enterFreshNamespace, run, until } from './namespace.js'
import { readSysctl } from './sysctl.js'
import { arpRequest, dhcpDiscover, experimentalFrame, packetSocket, readAll, receiveAll, write } from './wire.js'

enterFreshNamespace()

const links = new Links()
const hooks = (name: string) => run('tc', 'qdisc', 'show', 'dev', name)
const filters = (name: string) => run('tc', 'filter', 'show', 'dev', name, 'ingress')
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

let number = 0
/** A fresh TAP with us on both sides, gone after the test. */
function lab(t: { teardown(undo: () => void): void }) {
  number += 1
  const name = `ssw-q${number}`
  const link = createTap(name)
  const guest = openTap(name, { nonBlocking: true })
  const ours = packetSocket(link.index)
  t.teardown(() => {
    libc().close(ours)
    libc().close(guest)
    if (links.find(name) !== null) deleteTap(name)
  })
  return { name, link, guest, ours }
}

t.teardown(() => links.close())

t.test('the host answers before and after, not meanwhile; packet sockets see all', async (t) => {
  const { name, link, guest, ours } = lab(t)
  links.change(link.index, { ipv6Addresses: 'none', up: true })
  run('ip', 'address', 'add', '192.0.2.1/24', 'dev', name)
  readAll(guest)
  const ask = () => {
    write(guest, arpRequest([192, 0, 2, 1]))
    return readAll(guest).filter((frame) => frame[12] === 8 && frame[13] === 6).length
  }
  t.equal(ask(), 1, 'left alone, the host answers ARP for its address')
  t.equal(receiveAll(ours).length, 1)

  const quiet = quietLink(links, link)
  t.equal(ask(), 0, 'now it does not')
  for (let round = 0; round < 200; round += 1) write(guest, experimentalFrame())
  const seen = receiveAll(ours)
  t.equal(seen.length, 201, 'the packet socket has the request and all frames')
  t.ok(seen.every((frame) => frame.length === 60))
  await pause(100)
  t.equal(readAll(guest).length, 0, 'and the host stays silent')

  quiet.release()
  t.equal(ask(), 1, 'given back, it answers again')
  quiet.release()
})

t.test('a DHCP server on the host hears no guest', async (t) => {
  const { name, link, guest, ours } = lab(t)
  links.change(link.index, { ipv6Addresses: 'none', up: true })
  run('ip', 'address', 'add', '192.0.2.1/24', 'dev', name)
  const server = createSocket('udp4')
  t.teardown(() => server.close())
  let heard = 0
  server.on('message', () => {
    heard += 1
  })
  await new Promise<void>((resolve) => server.bind(67, '0.0.0.0', resolve))
  write(guest, dhcpDiscover())
  await until(() => heard === 1, 'left alone, the server hears the guest')
  const quiet = quietLink(links, link)
  for (let round = 0; round < 20; round += 1) write(guest, dhcpDiscover())
  await pause(200)
  t.equal(heard, 1, 'now it does not')
  t.equal(receiveAll(ours).length, 21, 'and the packet socket has them all')
  quiet.release()
})

t.test('no IPv6 from the host when the device comes up', async (t) => {
  const talk = async (isQuiet: boolean) => {
    const { name, link, guest } = lab(t)
    const quiet = isQuiet ? quietLink(links, link) : null
    links.change(link.index, { up: true })
    const deadline = performance.now() + (isQuiet ? 1500 : patience(4000))
    let heard = 0
    while (performance.now() < deadline && (isQuiet || heard === 0)) {
      await pause(50)
      heard += readAll(guest).filter((frame) => frame[12] === 0x86 && frame[13] === 0xdd).length
    }
    quiet?.release()
    return { name, heard }
  }
  const loud = await talk(false)
  t.ok(loud.heard > 0, 'left alone, it sends MLD reports and solicitations')
  const quiet = await talk(true)
  t.equal(quiet.heard, 0)
  t.equal(readSysctl(`ipv6/conf/${quiet.name}/disable_ipv6`), '0', 'the setting is put back')
})

t.test('all is put back as it was, and what others made stays', async (t) => {
  const { name, link } = lab(t)
  const before = hooks(name)
  const quiet = quietLink(links, link)
  t.match(hooks(name), /clsact/)
  t.match(filters(name), /bpf .*handle 0x73770005 direct-action/)
  quiet.release()
  t.equal(hooks(name), before)

  run('tc', 'qdisc', 'add', 'dev', name, 'clsact')
  run('tc', 'filter', 'add', 'dev', name, 'ingress', 'pref', '7', 'protocol', 'ip', 'u32', 'match', 'u32', '0', '0')
  const theirs = filters(name)
  const guestOfTheirs = quietLink(links, link)
  t.match(filters(name), /handle 0x73770006/)
  guestOfTheirs.release()
  t.match(hooks(name), /clsact/)
  t.equal(filters(name), theirs)
})

t.test('a daemon that takes over after a kill finds what it must undo', async (t) => {
  const { name, link } = lab(t)
  const before = hooks(name)
  quietLink(links, link) // never released: its owner was killed
  const setting = () => readSysctl(`ipv6/conf/${name}/disable_ipv6`)
  t.equal(setting(), '1')
  const next = quietLink(links, link)
  next.release()
  t.equal(hooks(name), before)
  t.equal(setting(), '0', 'IPv6, which the first one has switched off, is on again')

  run('tc', 'qdisc', 'add', 'dev', name, 'clsact')
  quietLink(links, link)
  quietLink(links, link).release()
  t.match(hooks(name), /clsact/, 'it was not ours')
  t.equal(filters(name), '')
})

t.test('a device that is renamed is given back, and the one that has its name by then is left alone', async (t) => {
  const { name, link } = lab(t)
  const setting = (of: string) => readSysctl(`ipv6/conf/${of}/disable_ipv6`)
  const quiet = quietLink(links, link)
  links.change(link.index, { name: 'ssw-renamed' })
  const stranger = createTap(name)
  t.teardown(() => links.remove(stranger.index))
  t.teardown(() => links.remove(link.index))
  run('sysctl', '-qw', `net.ipv6.conf.${name}.disable_ipv6=1`)
  quiet.release()
  t.same([setting('ssw-renamed'), hooks('ssw-renamed').includes('clsact')], ['0', false])
  t.equal(setting(name), '1', 'it is the stranger’s own')

  // The same after a kill: its name tells nothing, the filter does.
  quietLink(links, links.get('ssw-renamed'))
  links.change(link.index, { name: 'ssw-again' })
  t.same(
    releaseLeft(links, () => true),
    [],
    'spared',
  )
  t.equal(setting('ssw-again'), '1')
  t.same(
    releaseLeft(links, (index) => index === stranger.index),
    [link.index],
  )
  t.same([setting('ssw-again'), hooks('ssw-again').includes('clsact')], ['0', false])
  t.same(
    releaseLeft(links, () => false),
    [],
  )
})

t.test('filters that others have put on our hook stay', async (t) => {
  const { name, link } = lab(t)
  const quiet = quietLink(links, link)
  run('tc', 'filter', 'add', 'dev', name, 'egress', 'pref', '7', 'protocol', 'ip', 'u32', 'match', 'u32', '0', '0')
  quiet.release()
  t.match(run('tc', 'filter', 'show', 'dev', name, 'egress'), /pref 7 u32/)
  t.equal(filters(name), '')
})

t.test('what somebody undoes is put back', async (t) => {
  const { name, link } = lab(t)
  const quiet = quietLink(links, link)
  t.same(quiet.renew(links.get(name)), [])
  run('tc', 'qdisc', 'delete', 'dev', name, 'clsact')
  run('sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=0')
  t.same(quiet.renew(links.get(name)), ['filter', 'IPv6'])
  t.match(filters(name), /bpf .*handle 0x73770005/)
  t.same(quiet.renew(links.get(name)), [])
  quiet.release()
  t.same([hooks(name).includes('clsact'), readSysctl(`ipv6/conf/${name}/disable_ipv6`)], [false, '0'])
  t.same(quiet.renew(links.get(name)), [], 'released is released')
})

t.test('in the way, or gone', async (t) => {
  const { name, link, guest, ours } = lab(t)
  run('tc', 'qdisc', 'add', 'dev', name, 'clsact')
  run('tc', 'filter', 'add', 'dev', name, 'ingress', 'pref', '1', 'protocol', 'all', 'u32', 'match', 'u32', '0', '0')
  const theirs = filters(name)
  t.throws(() => quietLink(links, link), { code: 'DEVICE_BUSY', action: /pref/ })
  t.equal(filters(name), theirs)
  t.equal(readSysctl(`ipv6/conf/${name}/disable_ipv6`), '0')
  run('tc', 'qdisc', 'delete', 'dev', name, 'clsact')

  const quiet = quietLink(links, link)
  links.remove(link.index)
  t.doesNotThrow(() => quiet.release(), 'the device is gone: nothing to put back')
  t.throws(() => quietLink(links, link), { code: 'DEVICE_MISSING' })
  t.same(receiveAll(ours), [])
  t.same(readAll(guest), [])
})
