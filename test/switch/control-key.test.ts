// `controlKey` in the configuration: what a key file must be, said where it stands.

import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { loadSwitchConfig, readControlKey } from '../../switch/config.js'

t.test('key files, good and bad', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'ssw-key-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const config = join(directory, 'switch.yaml')
  const key = join(directory, 'key')
  await writeFile(config, `host: a\nnetworks:\n  lab0:\n    controlKey: ${key}\n`)
  const write = async (text: string, mode = 0o600) => {
    await writeFile(key, text)
    await chmod(key, mode)
  }
  const refused = (message: RegExp) => t.throws(() => loadSwitchConfig(config), { code: 'CONFIG_INVALID', message })

  refused(/switch\.yaml:4:17: .*cannot read .*ENOENT/)
  await write('x'.repeat(16))
  t.equal(loadSwitchConfig(config).networks.lab0.controlKey, key, 'the configuration has the path, not the key')
  t.same(Buffer.from(readControlKey(key) as Uint8Array).toString(), 'x'.repeat(16))
  await write(`${'x'.repeat(32)}\n`)
  t.equal((readControlKey(key) as Uint8Array).length, 32, 'a newline at the end is no part of it')
  await write(`${'x'.repeat(15)}\n`)
  refused(/has 15 bytes and needs 16/)
  await write('x'.repeat(32), 0o644)
  refused(/chmod 600/)
  await write('x'.repeat(32), 0o640)
  t.equal(typeof readControlKey(key), 'object', 'a group may read it')
  await write('x'.repeat(5000))
  refused(/larger than 4096/)
  await rm(key)
  await mkdir(key)
  refused(/and not a file/)
  await writeFile(config, 'host: a\nnetworks:\n  lab0:\n    controlKey: key\n')
  refused(/must be an absolute path|absolute/)
})
