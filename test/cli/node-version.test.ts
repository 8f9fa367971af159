// One oldest version of Node.js everywhere: package.json's. What is older is refused, and pages and messages name the
// same.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { isNewEnough } from '../../src/cli/doctor.js'
import { attempt } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'

const read = (path: string) => readFileSync(join(repositoryRoot(), path), 'utf8')
const least = (JSON.parse(read('package.json')) as { engines: { node: string } }).engines.node.replace('>=', '')
const [major, minor, patch] = least.split('.').map(Number) as [number, number, number]

const older = [`${major - 2}.99.99`, `${major}.${minor - 1}.99`, `${major}.${minor}.${patch - 1}`]
const newer = [least, `${major}.${minor}.${patch + 1}`, `${major}.${minor + 1}.0`, `${major + 2}.0.0`]

t.test('doctor', async (t) => {
  for (const version of older) t.notOk(isNewEnough(version), version)
  for (const version of newer) t.ok(isNewEnough(version), version)
})

t.test('the scripts', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'snapswitch-node-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const disguise = join(directory, 'disguise.cjs')
  const node = join(directory, 'node')
  await writeFile(
    disguise,
    `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: process.env.AS_VERSION } })`,
  )
  await writeFile(node, `#!/bin/sh\nexec ${process.execPath} --require ${disguise} "$@"\n`)
  await chmod(node, 0o755)
  const tried = (version: string) =>
    attempt('env', [
      `PATH=${directory}:${process.env.PATH}`,
      `AS_VERSION=${version}`,
      'bash',
      '-c',
      `. ${join(repositoryRoot(), 'scripts/lib/common.sh')}; need_node`,
    ])
  for (const version of older) {
    const { code, stderr } = await tried(version)
    t.equal(code, 1, version)
    t.match(stderr, `Node.js ${least} or later`)
  }
  for (const version of newer) t.equal((await tried(version)).code, 0, version)
})

t.test('whoever names it names all of it', async (t) => {
  const files = execFileSync(
    'git',
    ['ls-files', '*.md', '*.ts', '*.js', '*.sh', 'bin', 'scripts', '.ci', 'packaging'],
    {
      cwd: repositoryRoot(),
      encoding: 'utf8',
    },
  ).split('\n')
  const short = new RegExp(`\\b${major}\\.${minor}\\b(?!\\.${patch}\\b)`)
  for (const file of new Set(files)) {
    if (file === '' || file === 'CHANGELOG.md') continue
    const lines = read(file)
      .split('\n')
      .flatMap((line, at) => (short.test(line) ? [`${file}:${at + 1}: ${line}`] : []))
    for (const line of lines) t.fail(line)
  }
})
