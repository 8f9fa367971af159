// What the switch's configuration is refused for beyond its schema, with the place.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { loadSwitchConfig, rulesOf } from '../../switch/config.js'

t.test('ports that are not what their kind wants, or are there twice', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'switch.yaml')
  const load = (lab0: string, lab1 = '{}', more = '') => {
    writeFileSync(file, `host: a\nnetworks:\n  lab0: { ports: ${lab0} }\n  lab1: { ports: ${lab1} }\n${more}`)
    return loadSwitchConfig(file)
  }
  const refused = (lab0: string, lab1: string | undefined, message: RegExp) =>
    t.throws(() => load(lab0, lab1), { code: 'CONFIG_INVALID', message })

  t.equal(load('{ p: { device: d, vm: web } }', '{ q: { device: e, vm: web } }').networks.lab1.ports.q.device, 'e')
  for (const more of ['  a/b: {}\n', 'machines: { a/b: { qmp: /q } }\n']) {
    t.throws(() => load('{}', '{}', more), { code: 'CONFIG_INVALID', message: /"a\/b" is no name that fits/ })
  }
  refused('{ p: { device: d } }', '{ p: { device: e } }', /:4:\d+: network lab0 of this host has a port p already/)
  refused('{ p: { device: d } }', '{ q: { device: d } }', /:4:\d+: device d is already port p/)
  refused('{ p: { device: d, kind: member } }', undefined, /:3:\d+: a member port needs `vm:`/)
  refused('{ p: { device: d, kind: trunk, vm: web } }', undefined, /:3:\d+: a trunk port has no `vm:`/)
  refused('{ p: { device: d, kind: trunk, color: dscp } }', undefined, /:3:\d+: only a port of kind uplink/)
  refused('{ u: { device: d, kind: uplink }, t: { device: e, kind: trunk } }', undefined, /one uplink or trunks/)
  for (const name of ['../x', 'a/b', '.p', '""', 'constructor', 'é']) {
    refused(`{ ${name}: { device: d } }`, undefined, /:3:\d+: .*".*" is no name that fits: letters, digits/)
  }
})

t.test('rules of ports that contradict themselves', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'switch.yaml')
  const load = (rules: string) => {
    writeFileSync(file, `host: a\nnetworks:\n  lab0:\n    ports:\n      p: { device: d, ${rules} }\n`)
    return loadSwitchConfig(file).networks.lab0.ports.p
  }
  t.same(rulesOf(load('vlan: { pvid: 10, tagged: [20, 30-39] }, isolated: true')), {
    vlan: { pvid: 10, tagged: [20, '30-39'] },
    isolated: true,
  })
  t.same(rulesOf(load('kind: plain')), {})
  for (const [rules, message] of [
    ['vlan: { pvid: 0 }', /:5:\d+: .*pvid/],
    ['vlan: { pvid: 4095 }', /:5:\d+: .*pvid/],
    ['vlan: { tagged: [4095] }', /must be <= 4094/],
    ['vlan: { tagged: [20-10] }', /:5:\d+: 20-10 is no range/],
    ['vlan: { tagged: [10-5000] }', /:5:\d+: 10-5000 is no range/],
    ['vlan: { untagged: [10], tagged: [5-15] }', /:5:\d+: VLAN 10 is in both/],
    ['vlan: { tagged: [10, 10] }', /:5:\d+: VLAN 10 is twice in `tagged`/],
    ['vlan: { native: 1 }', /:5:\d+: .*native/],
    ['kind: trunk, hairpin: true', /:5:\d+: a trunk port has no `hairpin:`/],
    ['fdb: [{ mac: "01:00:5e:00:00:01" }]', /:5:\d+: .* is no address that anybody sends from/],
    ['fdb: [{ mac: "02:00:00:00:00:01" }, { mac: "02:00:00:00:00:01" }]', /is there twice/],
    ['vlan: { tagged: [10] }, fdb: [{ mac: "02:00:00:00:00:01" }]', /`vlan:` is needed/],
    ['vlan: { pvid: 10 }, fdb: [{ mac: "02:00:00:00:00:01", vlan: 20 }]', /the port is not in VLAN 20/],
  ] as const) {
    t.throws(() => load(rules), { code: 'CONFIG_INVALID', message }, rules)
  }
})

t.test('a machine is reached by one driver', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'switch.yaml')
  const load = (machine: string, more = '') => {
    writeFileSync(file, `host: a\nnetworks: {}\nmachines: { vm: ${machine} }\n${more}`)
    return loadSwitchConfig(file)
  }
  const { machines, libvirt } = load('{ exec: { command: /bin/vm, machine: other name } }')
  t.same(machines, { vm: { exec: { command: '/bin/vm', machine: 'other name' } } })
  t.same(libvirt, { uri: 'qemu:///system' })
  t.equal(load('{ libvirt: { domain: d } }', 'libvirt: { uri: "qemu:///session" }\n').libvirt.uri, 'qemu:///session')
  for (const [machine, message] of [
    ['{}', /:3:\d+: .*a machine has one of `qmp:`, `libvirt:`, `exec:`/],
    ['{ qmp: /q, exec: { command: /c } }', /a machine has one of/],
    ['{ exec: { command: c } }', /does not fit: an absolute path/],
    ['{ exec: {} }', /command/],
    ['{ exec: { command: /c, machine: -x } }', /does not begin with -/],
    ['{ exec: { command: /c, comand: /c } }', /comand/],
    ['{ vbox: { name: x } }', /vbox/],
    ['{ qmp: relative }', /does not fit: an absolute path/],
  ] as const) {
    t.throws(() => load(machine), { code: 'CONFIG_INVALID', message }, machine)
  }
})
