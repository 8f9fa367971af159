// What a caller's environment says to Node is not heard by the command, which root runs; nor does it reach core dumps.

import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { environmentForNode } from '../../src/runtime/environment.js'
import { attempt } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { root, World } from '../switch/world.js'

t.test('options, files and plug-ins that the environment names are left alone', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-environment-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const evil = join(directory, 'evil.cjs')
  writeFileSync(evil, "process.stdout.write('EVIL')")
  const named = {
    NODE_OPTIONS: `--require ${evil} --inspect=127.0.0.1:0 --report-on-signal`,
    NODE_PATH: directory,
    NODE_V8_COVERAGE: join(directory, 'coverage'),
    NODE_COMPILE_CACHE: join(directory, 'cache'),
    NODE_REDIRECT_WARNINGS: join(directory, 'warnings'),
    NODE_DEBUG: 'net,http,fs,module',
    NODE_DEBUG_NATIVE: 'inspector_server',
    NODE_PENDING_DEPRECATION: '1',
    NODE_EXTRA_CA_CERTS: join(directory, 'none'),
    NODE_REPL_EXTERNAL_MODULE: evil,
    NODE_CHANNEL_FD: '9',
    // A value of several lines, and names within it.
    NODE_NOTE: 'one\nPATH=/nowhere\nNODE_OPTIONS=x',
    UV_THREADPOOL_SIZE: '1',
    OPENSSL_CONF: join(directory, 'openssl.cnf'),
    SSLKEYLOGFILE: join(directory, 'keys'),
  }
  const link = join(directory, 'linked')
  symlinkSync(program(), link)
  const env = Object.entries(named).map(([name, value]) => `${name}=${value}`)
  for (const command of [program(), link]) {
    const { code, stdout, stderr } = await attempt('env', [...env, command, '--version'])
    t.same({ code, stderr }, { code: 0, stderr: '' })
    t.match(stdout, /^\d+\.\d+\.\d+\n$/)
  }
  t.same(readdirSync(directory).sort(), ['evil.cjs', 'linked'], 'nothing was written')
  t.same(environmentForNode({ ...named, PATH: '/bin', SNAPSWITCH_SOCKET: 'x' }), {
    PATH: '/bin',
    SNAPSWITCH_SOCKET: 'x',
  })
})

t.test('without node the command says what it needs', async (t) => {
  const { code, stderr } = await attempt('env', ['-i', 'PATH=/nowhere', program(), '--version'])
  t.not(code, 0)
  t.match(stderr, /needs Node/)
})

t.test('a core dump of a daemon would hold no memory', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  const daemon = await world.switch('host', { networks: { lab0: { ports: {} } } })
  t.match(readFileSync(`/proc/${daemon.pid}/coredump_filter`, 'latin1'), /^0+\n$/)
})
