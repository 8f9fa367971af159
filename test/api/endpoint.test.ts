// Addresses of daemons: which are understood, and what is said of those that are not, by whoever reads them.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadCoordinatorConfig } from '../../coordinator/config.js'
import { describeEndpoint, endpointFrom, parseEndpoint } from '../../src/api/endpoint.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { parseSocket } from '../../src/cli/options.js'
import { workDirectory } from '../coordinator/fake-switch.js'

t.test('a path, absolute or relative, is a unix socket', async (t) => {
  for (const path of ['/run/snapswitch/switch.sock', 'a.sock', './tls:', 'C:/x', 'a b://c'])
    t.same(parseEndpoint(path), { kind: 'unix', path })
  t.equal(describeEndpoint(endpointFrom('/etc', parseEndpoint('../run/a.sock'))), '/run/a.sock')
  t.equal(describeEndpoint(endpointFrom('/etc', parseEndpoint('/run/a.sock'))), '/run/a.sock')
})

t.test('what is none is refused, with a code, wherever it stands', async (t) => {
  for (const [text, message] of [
    ['', /is empty/],
    ['a\0b', /zero byte/],
    ['tls://host:1', /tls:\/\/host:1 begins with tls:\/\/, and daemons listen on unix sockets only/],
    ['HTTP://host', /begins with HTTP:\/\//],
    ['unix:///run/x', /begins with unix:\/\//],
  ] as const) {
    const refusal = { code: 'ENDPOINT_INVALID', message, action: 'Give the path of a unix socket.' }
    t.throws(() => parseEndpoint(text), refusal)
    t.throws(() => new SwitchClient(text), refusal)
    t.throws(() => parseSocket(text), { code: 'commander.invalidArgument' }, 'wrong usage of a command')
  }
  const file = join(await workDirectory(t), 'lab.yaml')
  for (const [socket, line, hosts] of [
    ['tls://a:1', 2, '{ a: { socket: a.sock } }'],
    ['c.sock', 3, '{ a: { socket: tls://a:1 } }'],
  ] as const) {
    writeFileSync(file, `store: s\nsocket: ${socket}\nnetworks: { lab0: { hosts: ${hosts} } }\n`)
    const where = new RegExp(`lab\\.yaml:${line}:\\d+: tls://a:1 begins with tls://`)
    t.throws(() => loadCoordinatorConfig(file), { code: 'CONFIG_INVALID', message: where })
  }
})
