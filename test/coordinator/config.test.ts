// The coordinator's configuration: what is wrong is said with file, line and column.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadCoordinatorConfig } from '../../coordinator/config.js'
import { workDirectory } from './fake-switch.js'

t.test('a good file, with defaults and relative paths', async (t) => {
  const directory = await workDirectory(t)
  const file = join(directory, 'lab.yaml')
  await writeFile(
    file,
    'store: snaps\nnetworks:\n  lab0:\n    hosts:\n      a: { socket: a.sock }\n      b: { socket: /b.sock }\n',
  )
  t.same(loadCoordinatorConfig(file), {
    socket: '/run/snapswitch/coordinator.sock',
    store: join(directory, 'snaps'),
    log: 'info',
    networks: { lab0: { hosts: { a: { socket: join(directory, 'a.sock') }, b: { socket: '/b.sock' } } } },
  })
})

t.test('faults', async (t) => {
  const file = join(await workDirectory(t), 'lab.yaml')
  const fault = async (text: string, code: string, ...messages: RegExp[]) => {
    await writeFile(file, text)
    for (const message of messages) t.throws(() => loadCoordinatorConfig(file), { code, message })
  }
  const networks = 'networks:\n  lab0:\n    hosts:\n      a: { socket: /a }\n'
  await fault(`stor: x\n${networks}`, 'CONFIG_INVALID', /lab\.yaml:1:1: unknown key "stor"; did you mean "store"\?/)
  await fault('store: x\n', 'CONFIG_INVALID', /the key "networks" is missing/)
  await fault(
    'networks:\n  lab0:\n    hosts: {}\n',
    'CONFIG_INVALID',
    /:3:12: networks\.lab0\.hosts: must not be empty/,
  )
  await fault(
    'networks:\n  a/b:\n    hosts:\n      a: { socket: /a }\n',
    'CONFIG_INVALID',
    /:2:3: networks: "a\/b" is no name/,
  )
  await fault(
    networks.replace('/a', '7'),
    'CONFIG_INVALID',
    /:4:20: networks\.lab0\.hosts\.a\.socket: must be a string, not 7/,
  )
  await fault(`${networks}      b: { socket: /a }\n`, 'CONFIG_INVALID', /:5:20: hosts a and b share a socket/)
  await fault(`${networks}log: loud\n`, 'CONFIG_INVALID', /:5:6: log: must be one of trace, .*silent/)
  await fault('networks: [\n', 'CONFIG_UNREADABLE', /lab\.yaml:\d+:\d+/)
  await fault(`${networks}networks: {}\n`, 'CONFIG_UNREADABLE', /unique/)
  await fault('', 'CONFIG_INVALID', /is empty/)
  t.throws(() => loadCoordinatorConfig(`${file}.none`), { code: 'CONFIG_UNREADABLE', message: /ENOENT/ })
})
