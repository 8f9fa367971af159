// Which frame goes where: what is written is read, and the first rule that fits decides.

import t from 'tap'
import { Mapping, parsePrefix, parseRule, type Rule } from '../../src/play/mapping.js'
import { ethernet, ip4, ip6, udp } from '../frame/tunnels.js'

const VLAN = [0x81, 0, 0, 7]
const four = ethernet(ip4(udp(4, [1, 2, 3]))).bytes
const six = ethernet(ip6(udp(6, [1, 2, 3])), VLAN).bytes
const arp = Uint8Array.of(
  ...four.subarray(0, 12),
  8,
  6,
  0,
  1,
  8,
  0,
  6,
  4,
  0,
  1,
  2,
  0,
  0,
  0,
  0,
  1,
  10,
  9,
  9,
  9,
  ...new Array(10).fill(0),
)

const mapped = (rules: readonly string[], bytes: Uint8Array, name: string | null = null, ports: string[] = []) => {
  const mapping = new Mapping(
    rules.map(parseRule),
    ports.map((port) => ({ kind: 'port', name: port })),
  )
  const number = mapping.targetOf({ interface: name, buffer: bytes, start: 0, length: bytes.length })
  const target = mapping.targets[number]
  return target === undefined ? null : `${target.kind}:${target.name}`
}

t.test('by address, interface, or all', async (t) => {
  t.equal(mapped(['device:eth1'], four), 'device:eth1')
  t.equal(mapped(['all=device:a=b'], four), 'device:a=b')
  t.equal(mapped(['mac:02:00:00:00:00:01=port:a', 'all=port:b'], four), 'port:a')
  t.equal(mapped(['mac:02:00:00:00:00:02=port:a', 'all=port:b'], four), 'port:b')
  t.equal(mapped(['ip:10.0.0.0/24=port:a'], four), 'port:a')
  t.equal(mapped(['ip:10.0.0.1=port:a'], four), 'port:a')
  t.equal(mapped(['ip:10.0.0.0/32=port:a'], four), null)
  t.equal(mapped(['ip:10.9.9.0/24=port:a'], arp), 'port:a', 'the sender of an ARP')
  t.equal(mapped(['ip:10.0.0.0/8=port:4', 'ip:fd00::/16=port:6'], six), 'port:6', 'behind a tag')
  t.equal(mapped(['ip:0.0.0.0/0=port:4'], six), null)
  t.equal(mapped(['interface:web=port:a'], four, 'web'), 'port:a')
  t.equal(mapped(['interface:web=port:a'], four, 'db'), null)
  t.equal(mapped(['interface:web=port:a'], four), null)
})

t.test('each interface to the port of its name', async (t) => {
  const rules = ['interface:mirror=device:x', 'interfaces=ports', 'mac:02:00:00:00:00:01=port:rest']
  t.equal(mapped(rules, four, 'web', ['web', 'db']), 'port:web')
  t.equal(mapped(rules, four, 'mirror', ['web', 'mirror']), 'device:x')
  t.equal(mapped(rules, four, 'other', ['web']), 'port:rest')
  t.equal(mapped(rules, six.subarray(0, 10), 'other', ['web']), null, 'too short for anything')
})

t.test('targets are numbered once', async (t) => {
  const rules: Rule[] = ['interface:a=port:x', 'interface:b=port:x', 'all=device:x'].map(parseRule)
  t.same(new Mapping(rules, [{ kind: 'port', name: 'x' }]).targets, [
    { kind: 'port', name: 'x' },
    { kind: 'device', name: 'x' },
  ])
})

t.test('prefixes', async (t) => {
  t.same(parsePrefix('fd00::1').address, Uint8Array.of(0xfd, ...new Array(14).fill(0), 1))
  t.same(parsePrefix('::').address, new Uint8Array(16))
  t.same(parsePrefix('1:2:3:4:5:6:7::').address, Uint8Array.of(0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 0))
  t.same(parsePrefix('::ffff:10.1.2.3/96').address.subarray(10), Uint8Array.of(0xff, 0xff, 10, 1, 2, 3))
  for (const text of ['10.0.0', '10.0.0.0/33', 'fd00::/129', '10.0.0.0/x', '10.0.0.0/8/8', 'web', '', 'fe80::1%eth0']) {
    t.throws(() => parsePrefix(text), { code: 'REQUEST_INVALID' }, text)
  }
})

t.test('what is not understood is refused', async (t) => {
  for (const text of ['', 'all', 'all=', 'all=web', 'mac:1=port:a', 'ip:web=port:a', 'vlan:1=port:a', 'interfaces=x']) {
    t.throws(() => parseRule(text), { name: 'SnapswitchError' }, text)
  }
})
