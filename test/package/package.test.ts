// The package: made from a fresh checkout it holds the product and nothing else, and on a bare system it installs and
// works.

import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { attempt, run } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root } from '../switch/world.js'
import { makePackage } from './pack.js'

t.setTimeout(fileLimit(300_000))

t.test('the units are what systemd understands', async (t) => {
  const units = ['switch', 'coordinator'].map((role) =>
    join(repositoryRoot(), 'packaging', 'systemd', `snapswitch-${role}.service`),
  )
  // Machines that a restore has started must outlive the daemon, and the loss of one of them.
  t.match(readFileSync(units[0], 'utf8'), /^KillMode=process$/m)
  t.match(readFileSync(units[0], 'utf8'), /^OOMPolicy=continue$/m)
  const verified = await attempt('systemd-analyze', ['verify', ...units]).catch(() => null)
  if (verified === null) {
    t.comment('no systemd here')
    return
  }
  // That the program is not installed, and that a host may not be booted by systemd, is no fault of theirs.
  const faults = verified.stderr
    .split('\n')
    .filter((line) => /snapswitch-\w+\.service:.*(Unknown|Failed to parse|Invalid|ignoring)/i.test(line))
  t.same(faults, [])
})

t.test('made, installed on a bare system, used', root, async (t) => {
  const { directory, file } = await makePackage(t)
  const files = (await run('tar', ['-tzf', file]))
    .trim()
    .split('\n')
    .map((path) => path.replace(/^package\//, ''))
  t.same(
    files.filter((path) => /(^|\/)(test|bench\/\w+\/|guest|scripts|node_modules|dist\/(?!bundle))\/|\.ts$/.test(path)),
    [],
    'the product only',
  )
  for (const path of [
    'bin/snapswitch',
    'dist/bundle/start.js',
    'dist/bundle/program.cjs',
    'dist/bundle/program.switch.cache',
    'dist/bundle/worker.js',
    'dist/bundle/LICENSES.txt',
    'README.md',
    'docs/reference/config.md',
    'man/snapswitch.1',
    'examples/switch.yaml',
    'packaging/systemd/snapswitch-switch.service',
    'npm-shrinkwrap.json',
  ]) {
    t.ok(files.includes(path), path)
  }
  const shrinkwrap = JSON.parse(await run('tar', ['-xzOf', file, 'package/npm-shrinkwrap.json']))
  for (const name of ['tap', 'fastify']) t.notOk(`node_modules/${name}` in shrinkwrap.packages, 'inside, or not needed')
  t.notOk(files.includes('dist/bundle/inputs.json'), 'nothing to be compared with')
  t.match(
    shrinkwrap.packages['node_modules/koffi'],
    { version: /^\d/, integrity: /^sha512-/ },
    'what was tested is what is installed',
  )

  const why = await unfit()
  if (why !== null) {
    t.pass('installs and works', { skip: why })
    return
  }
  const cache = (await run('npm', ['config', 'get', 'cache'])).trim()
  mkdirSync(cache, { recursive: true })
  const script = join(repositoryRoot(), 'test', 'package', 'bare-root.sh')
  const own = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child', 'bash', script]
  const { code, stdout, stderr } = await attempt('unshare', [...own, directory, file, cache], patience(180_000))
  if (code === 77) {
    t.pass('installs and works', { skip: 'the registry of npm cannot be reached' })
    return
  }
  t.equal(code, 0, `${stdout.slice(-2000)}\n${stderr.slice(-2000)}`)
  t.match(
    stdout,
    /== doctor\n[\s\S]*This machine can run snapswitch\.\n== ports\nPORT[\s\S]*lan .*eth2[\s\S]*== snapshot[\s\S]*== done\n$/,
  )
})

/** Why this machine has no bare system to offer; null when it has. */
async function unfit(): Promise<string | null> {
  if (!/^\/usr\/(?!local\/)/.test(process.execPath))
    return `node is at ${process.execPath}, outside of a distribution's /usr`
  for (const program of ['npm', 'qemu-system-x86_64', 'qemu-img', 'ip']) {
    const { code, stdout } = await attempt('sh', ['-c', `readlink -f "$(command -v ${program})"`])
    if (code !== 0 || !/^\/usr\/(?!local\/)/.test(stdout)) return `${program} is not in /usr`
  }
  const { code } = await attempt('unshare', ['--mount', '--pid', '--fork', '--net', 'true'])
  return code === 0 ? null : 'no namespaces can be made here'
}
