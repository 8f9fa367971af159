// Ways round between ports, from lists of devices that are made up.

import t from 'tap'
import type { Link } from '../../src/linux/link-message.js'
import { findLoops } from '../../switch/ports/loops.js'
import fc from '../property.js'

const device = (index: number, more: Partial<Link> = {}): Link => ({
  index,
  name: `d${index}`,
  otherNames: [],
  kind: null,
  mtu: 1500,
  ethernet: true,
  up: true,
  lowerUp: true,
  promiscuous: false,
  mac: null,
  master: null,
  peer: null,
  peerNamespace: null,
  queueLength: 1000,
  tap: null,
  macvlanBridge: false,
  genericXdp: false,
  ipv6: false,
  ...more,
})
const cable = (one: number, other: number, more: Partial<Link> = {}, kind = 'veth') => [
  device(one, { kind, peer: other }),
  device(other, { kind, peer: one, ...more }),
]
const port = (ifindex: number, network: string) => ({ name: `p${ifindex}`, network, ifindex })
const names = (...args: Parameters<typeof findLoops>) =>
  findLoops(...args).map(({ ports }) => ports.map(({ name }) => name))

t.test('two ends of one cable', async (t) => {
  t.same(names([port(1, 'a'), port(2, 'a')], cable(1, 2)), [['p1', 'p2']])
  t.same(names([port(1, 'a'), port(2, 'a')], cable(1, 2, {}, 'netkit')), [['p1', 'p2']])
  t.same(names([port(1, 'a'), port(2, 'b')], cable(1, 2)), [], 'two networks are joined by it')
  t.same(names([port(1, 'a')], cable(1, 2)), [], 'the other end is somebody else’s')
  t.same(names([port(1, 'a'), port(2, 'a')], [device(1), device(2)]), [])
  const elsewhere = { kind: 'veth', peerNamespace: 3 }
  const far = [device(1, { ...elsewhere, peer: 2 }), device(2, { ...elsewhere, peer: 1 })]
  t.same(names([port(1, 'a'), port(2, 'a')], far), [], 'equal indexes in another namespace')
})

t.test('ways round through other networks, bridges and the device under macvlans', async (t) => {
  const ring = [...cable(1, 2), ...cable(3, 4), ...cable(5, 6)]
  const ports = [port(1, 'a'), port(2, 'b'), port(3, 'b'), port(4, 'c'), port(5, 'c'), port(6, 'a')]
  t.same(names(ports, ring), [['p5', 'p6']], 'the last one closes it')
  t.same(names(ports.slice(0, 5), ring), [])
  const bridge = device(9, { kind: 'bridge' })
  const bridged = [bridge, ...cable(1, 2, { master: 9 }), ...cable(3, 4, { master: 9 })]
  t.match(findLoops([port(1, 'a'), port(3, 'a')], bridged), [{ ports: [{ name: 'p3' }], throughBridge: true }])
  t.same(names([port(1, 'a'), port(3, 'b')], bridged), [])
  t.match(findLoops([port(9, 'a'), port(1, 'a')], bridged), [{ throughBridge: true }], 'the bridge itself is a port')
  const bond = [device(9, { kind: 'bond' }), ...cable(1, 2, { master: 9 }), ...cable(3, 4, { master: 9 })]
  t.same(names([port(1, 'a'), port(3, 'a')], bond), [])
  const macvlan = (index: number, macvlanBridge: boolean) => device(index, { kind: 'macvlan', peer: 7, macvlanBridge })
  t.same(names([port(1, 'a'), port(2, 'a')], [device(7), macvlan(1, true), macvlan(2, true)]), [['p2']])
  t.same(names([port(1, 'a'), port(2, 'a')], [device(7), macvlan(1, false), macvlan(2, false)]), [])
})

t.test('any cables between any networks: as many loops as there are cables too many for a tree', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(5), fc.nat(5)), { maxLength: 12 }), (cables) => {
      const links = cables.flatMap((_, at) => cable(at * 2 + 1, at * 2 + 2))
      const ports = cables.flatMap(([a, b], at) => [port(at * 2 + 1, `n${a}`), port(at * 2 + 2, `n${b}`)])
      const groups = new Map(ports.map(({ network }) => [network, network]))
      for (const [a, b] of cables) {
        const [from, to] = [groups.get(`n${a}`)!, groups.get(`n${b}`)!]
        for (const [network, group] of groups) if (group === from) groups.set(network, to)
      }
      const trees = new Set(groups.values()).size
      return findLoops(ports, links).length === cables.length - (groups.size - trees)
    }),
  )
})
