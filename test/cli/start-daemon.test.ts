// `snapswitch take` where no daemon runs: what systemd says of a start that fails is said, a daemon of its own that
// does not answer is ended, and whoever may not start one is told, as is who may not `give` without one.

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { workDirectory } from '../coordinator/fake-switch.js'
import { attempt } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(60_000))

const root = { skip: process.getuid?.() === 0 ? false : 'needs root' }

t.test('systemctl start fails', root, async (t) => {
  const directory = await workDirectory(t)
  const systemctl = join(directory, 'systemctl')
  writeFileSync(
    systemctl,
    `#!/bin/sh
    [ "$1" = cat ] && exit 0
    echo "Job for $2 failed because a timeout was exceeded." >&2
    exit 1\n`,
  )
  chmodSync(systemctl, 0o755)
  // A /run of its own: without a daemon's socket, and with systemd.
  const script = `
    mount -t tmpfs none /run && mkdir -p /run/systemd/system
    PATH=${directory}:$PATH ${program()} take br0`
  const { code, stderr } = await attempt('unshare', ['-m', 'sh', '-c', script], patience(20_000))
  t.equal(code, 1)
  t.match(
    stderr,
    /^error SOCKET_UNREACHABLE: .*Job for snapswitch-switch.service failed because a timeout was exceeded/m,
  )
  t.match(stderr, /^what to do: .*journalctl -u snapswitch-switch.service$/m)
})

t.test('a daemon that does not answer is ended', root, async (t) => {
  const directory = await workDirectory(t)
  const at = (name: string) => join(directory, name)
  // It answers, but elsewhere.
  writeFileSync(at('switch.yaml'), `api: { socket: ${at('other.sock')} }\nstate: ${at('state')}\ncoordinator: none\n`)
  const command = [program(), 'take', 'br0', '--socket', at('switch.sock')]
  const { code, stderr } = await attempt('unshare', ['-n', ...command], patience(40_000))
  const log = readFileSync(at('switch.log'), 'utf8')
  const daemon = Number(/"pid":(\d+)/.exec(log)?.[1])
  const signal = (name: 'SIGKILL' | 0) => process.kill(daemon, name)
  t.teardown(() => {
    try {
      signal('SIGKILL')
    } catch {
      // It has ended.
    }
  })
  t.equal(code, 1)
  t.match(stderr, /^error SOCKET_UNREACHABLE: the daemon that was started does not answer, and was ended/m)
  t.match(log, /switch is up/)
  t.throws(() => signal(0), { code: 'ESRCH' })
})

/** As any user: root's files are not its to write, and it may nothing that takes a capability. */
const NOBODY = ['setpriv', '--bounding-set', '-all', '--inh-caps', '-all']

t.test('whoever may not start a daemon is told', root, async (t) => {
  const directory = await workDirectory(t)
  const at = (name: string) => join(directory, name)
  const take = (before: string, socket = '') =>
    attempt('unshare', ['-m', 'sh', '-c', `${before} exec ${NOBODY.join(' ')} ${program()} take br0 ${socket}`])
  const isTold = ({ code, stderr }: Awaited<ReturnType<typeof take>>, path: string) => {
    t.equal(code, 1)
    t.match(stderr, `error PERMISSION: no switch daemon can be started: EACCES: permission denied, `)
    t.match(stderr, path)
    t.match(stderr, /^what to do: Run it as root\.$/m)
  }
  isTold(await take('mount -t tmpfs -o mode=0555 none /run &&'), '/run/snapswitch')
  mkdirSync(at('own'))
  writeFileSync(at('own/switch.log'), '')
  chmodSync(at('own/switch.log'), 0o400)
  isTold(await take('', `--socket ${at('own/switch.sock')}`), at('own/switch.log'))
  chmodSync(at('own/switch.log'), 0o600)
  chmodSync(at('own'), 0o555)
  // The log can be written, and the configuration cannot.
  isTold(await take('', `--socket ${at('own/switch.sock')}`), at('own/switch.yaml'))
  const { code, stderr } = await take('', `--socket ${at('own/switch.log/switch.sock')}`)
  t.equal(code, 1)
  t.match(stderr, /^error SOCKET_UNREACHABLE: no switch daemon can be started: EEXIST: .*switch\.log'$/m)
})

t.test('whoever may not see what is taken is told', root, async (t) => {
  const directory = await workDirectory(t)
  const bridges = join(directory, 'bridges')
  mkdirSync(bridges)
  const record = { version: 1, bridge: 'br0', index: 1, boot: 'of before', network: 'lan', uplink: null }
  const rest = { hostEnd: 'a', switchEnd: 'b', ignoreFilters: false, configured: false, phase: 'resting' }
  writeFileSync(join(bridges, 'br0.json'), JSON.stringify({ ...record, ...rest }))
  const options = ['give', 'br0', '--state', directory, '--socket', '/nonexistent/switch.sock']
  for (const [path, mode] of [
    [bridges, 0o555],
    [bridges, 0],
    [directory, 0],
  ] as const) {
    chmodSync(path, mode)
    const { code, stderr } = await attempt(NOBODY[0] as string, [...NOBODY.slice(1), program(), ...options])
    t.equal(code, 1)
    t.match(stderr, `error PERMISSION: may not change what is in ${bridges}\nwhat to do: Run it as root.\n`)
  }
  const given = await attempt(program(), options)
  t.equal(given.code, 0, given.stderr)
  t.match(await attempt(program(), options), { code: 1, stderr: /^error BRIDGE_NOT_TAKEN: /m })
})
