// The reference says what the program is: made anew it is as it stands, every key has a meaning, examples are
// configurations.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { loadCoordinatorConfig } from '../../coordinator/config.js'
import { referencePages } from '../../scripts/reference.js'
import { parseConfig } from '../../src/api/config-file.js'
import { SwitchConfig } from '../../switch/config.js'
import { FIXED } from '../../switch/reload.js'
import { attempt } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'

const read = (path: string) => readFileSync(join(repositoryRoot(), path), 'utf8')

t.test('the pages are as the program makes them', async (t) => {
  for (const [path, text] of Object.entries(referencePages())) {
    t.equal(read(path) === text, true, `${path}: if not, npm run reference writes it`)
  }
  t.notMatch(read('docs/reference/config.md'), /\| {2}\|$/m, 'every key says what it is for')
})

t.test('the manual pages are roff that man reads', async (t) => {
  for (const page of ['snapswitch.1', 'snapswitch.yaml.5']) {
    const path = join(repositoryRoot(), 'man', page)
    const { code, stderr, stdout } = await attempt('man', ['--warnings', '-l', path]).catch(() => ({
      code: -1,
      stderr: '',
      stdout: '',
    }))
    if (code === -1) t.comment('no man here')
    else t.ok(code === 0 && stderr === '' && stdout.length > 2000, `${page}: ${stderr}`)
  }
})

t.test('the guide names every key that needs a restart', async (t) => {
  const [line = ''] = /^.*CONFIG_FIXED.*$/m.exec(read('docs/guide/operating.md')) ?? []
  t.same(
    [...line.matchAll(/`([a-z]+)`/g)].map(([, key]) => key),
    FIXED.filter((key) => key in SwitchConfig.properties),
  )
})

t.test('the examples are configurations', async (t) => {
  const examples = readdirSync(join(repositoryRoot(), 'examples')).filter((name) => name.endsWith('.yaml'))
  t.ok(examples.length >= 5)
  for (const name of examples) {
    const path = join(repositoryRoot(), 'examples', name)
    if (name.startsWith('coordinator')) t.ok(loadCoordinatorConfig(path).networks.lab0, name)
    else t.ok(parseConfig(read(join('examples', name)), path, SwitchConfig).value.networks.lab0, name)
    t.ok(parse(read(join('examples', name))))
  }
})
