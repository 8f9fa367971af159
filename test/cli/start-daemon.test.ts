// `snapswitch take` where no daemon runs: what systemd says of a start that fails is said, and a daemon of its own that
// does not answer is ended.

import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
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
