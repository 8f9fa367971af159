// The command against fake switches and a real coordinator on real sockets: what it prints, and its exit codes.

import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Coordinator } from '../../coordinator/coordinator.js'
import { ConfiguredNetworks } from '../../coordinator/networks.js'
import { createCoordinatorApi } from '../../coordinator/server.js'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import { parseEndpoint } from '../../src/api/endpoint.js'
import type { Manifest } from '../../src/api/schemas.js'
import { run } from '../../src/cli/main.js'
import type { Terminal } from '../../src/cli/output.js'
import { CopyRate, describeStep } from '../../src/cli/progress.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { version } from '../../src/runtime/package.js'
import { FakeSwitch, silent, workDirectory } from '../coordinator/fake-switch.js'
import { manifestOf } from '../coordinator/fixtures.js'

interface Result {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function command(args: readonly string[], live = false): Promise<Result> {
  let out = ''
  let err = ''
  const terminal: Terminal = {
    out: (text) => {
      out += text
    },
    err: (text) => {
      err += text
    },
    live,
    columns: 60,
    onInterrupt: () => () => {},
  }
  const code = await run(['node', 'snapswitch', ...args], terminal)
  return { code, out, err }
}

async function lab(t: Test) {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1', 'vm2'])
  const b = new FakeSwitch(directory, 'b', ['vm3'])
  await Promise.all([a.start(), b.start()])
  const hosts = { a: { socket: a.socketPath }, b: { socket: b.socketPath } }
  const networks = { lab0: { hosts }, lab1: { hosts } }
  const socket = join(directory, 'coordinator.sock')
  const config = { socket, store: join(directory, 'store'), log: 'silent', networks } as const
  const catalogue = new Catalogue(config.store)
  const coordinator = new Coordinator({
    networks: new ConfiguredNetworks(config.networks),
    catalogue,
    logger: silent,
    version,
  })
  const api = await createCoordinatorApi(coordinator, { endpoint: parseEndpoint(socket), logger: silent, version })
  await api.listen()
  t.teardown(async () => {
    await coordinator.stop(100)
    await api.close()
    await Promise.all([a.stop(), b.stop()])
  })
  const snapshot = (...args: string[]) => command(['snapshot', ...args, '--socket', socket])
  return { a, b, catalogue, socket, snapshot }
}

t.test('snapshot: create, list, show, restore, delete', async (t) => {
  const { a, b, snapshot } = await lab(t)
  const created = await snapshot('create', 'lab0', '--name', 'demo')
  t.equal(created.code, 0, created.err)
  t.match(
    created.out,
    /^snapshot lab0\/demo: complete, begun \d{4}-.*, epoch 1\ntook .*, of these .* from the cut to the last file\n/,
  )
  t.match(created.out, /^vm1 +a +10\.0 ms +\d+ B +1 +498\.0 ms +background +3 +2 +1 +0 +4$/m)
  t.match(created.err, /^ +\d+\.\d{3} s {2}host b vm3: paused$/m, 'plain lines of progress')
  t.notOk(created.err.includes('\u001b'), 'no escapes when stderr is no terminal')

  const json = await snapshot('create', 'lab0', '-n', 'two', '-j', '--policy', 'drop')
  const manifest = JSON.parse(json.out) as Manifest
  t.match(manifest, { name: 'two', state: 'complete', policy: 'drop' })
  t.equal(json.err, '', 'nothing but JSON')

  const listed = await snapshot('list')
  t.match(listed.out, /^SNAPSHOT +STATE +HEALTH +LOADS +CREATED/)
  t.match(listed.out, /^lab0\/demo +complete +ok +- +\d{4}-/m)
  t.equal(listed.out.trim().split('\n').length, 3)
  t.same(
    (JSON.parse((await snapshot('list', '-j')).out) as Manifest[]).map((m) => m.name),
    ['demo', 'two'],
  )
  t.same(JSON.parse((await snapshot('list', 'lab1', '-j')).out), [])
  t.match(await snapshot('list', 'lab2'), {
    code: 1,
    out: '',
    err: /^error NETWORK_UNKNOWN: the coordinator has no network lab2\nwhat to do: Did you mean lab0\? Its networks: lab0, lab1\.\n$/,
  })

  const shown = (await snapshot('show', 'demo')).out
  t.equal(
    shown.replace('files: ok\n', '').replace(/\nWhere the time went[\s\S]*/, ''),
    created.out.replace(/\nMACHINE +DISK[\s\S]*/, ''),
  )
  t.match(created.out, /^vm1 +disk0 +\/state\/a\/vm1\/overlay.qcow2$/m, 'start scripts must know')
  t.match(shown, /^MACHINE +SETTLE/m, 'and where the time went')
  t.equal((await snapshot('show', 'lab0/demo')).out, shown)

  const running = await snapshot('restore', 'demo', '--place', 'vm3=a')
  t.equal(running.code, 1)
  t.match(running.err, /^error MACHINE_RUNNING: .*vm1 on host a.*\nwhat to do: .*--replace/m)
  const restored = await snapshot('restore', 'demo', '--place', 'vm3=a', '--place', 'vm1=b', '--replace')
  t.equal(restored.code, 0, restored.err)
  t.match(restored.out, /^restored lab0\/demo in .*, epoch 3$/m)
  t.match(restored.out, /^vm1 +b\b/m)
  t.match(restored.out, /^the machines are back at 1970-.* ago: what they have done since is undone$/m)
  t.notMatch(restored.out, /peers outside/, 'there are none')
  t.same([a.running, b.running], [['vm2', 'vm3'], ['vm1']])

  t.equal((await snapshot('delete', 'demo')).out, 'deleted lab0/demo\n')
  t.match(await snapshot('show', 'demo'), {
    code: 1,
    err: /^error SNAPSHOT_UNKNOWN: there is no snapshot demo\nwhat to do: /,
  })
})

t.test('names: alone, with their network, ambiguous, wrong', async (t) => {
  const { snapshot, catalogue } = await lab(t)
  await catalogue.write(manifestOf({ a: ['vm1'] }))
  await catalogue.write(manifestOf({ a: ['vm1'] }, { network: 'lab1' }))
  await catalogue.write(manifestOf({ a: ['vm1'] }, { name: 'nightly' }))
  t.match(await snapshot('show', 'demo'), { code: 1, err: /more than one network.*\n.*lab0\/demo or lab1\/demo/ })
  t.match(await snapshot('show', 'lab1/demo'), { code: 0, out: /^snapshot lab1\/demo/ })
  t.match(await snapshot('show', 'nightyl'), { code: 1, err: /Did you mean nightly\?/ })
  t.match(await snapshot('show', 'a/b/c'), { code: 1, err: /^error NAME_INVALID: "a\/b\/c"/ })
  t.match(await snapshot('create', 'lab0', '--name', 'a/b'), {
    code: 1,
    err: /^error NAME_INVALID: "a\/b" is no snapshot name/,
  })
  t.match(await snapshot('create', '../lab0', '--name', 'x'), { code: 1, err: /NAME_INVALID/ })
  t.match(await snapshot('create', 'lab2', '--name', 'x'), {
    code: 1,
    err: /NETWORK_UNKNOWN.*lab2.*\nwhat to do: Did you mean lab/,
  })
  t.match(await snapshot('create', 'lab0', '--name', 'nightly'), { code: 1, err: /SNAPSHOT_EXISTS/ })
})

t.test('snapshots whose files or hosts are gone: list, show, verify', async (t) => {
  const { a, b, snapshot, catalogue } = await lab(t)
  await snapshot('create', 'lab0', '--name', 'demo')
  t.match(await snapshot('verify', 'demo'), { code: 0, out: /^snapshot lab0\/demo: ok; \d+ files, .*by content/ })
  t.match(await snapshot('verify', 'demo', '--quick'), { code: 0, out: /by presence and size only/ })
  const { memory } = (await catalogue.read('lab0', 'demo')).parts[1].members[0]
  b.files.delete(memory.digest)
  const found = await snapshot('verify', 'demo')
  t.equal(found.code, 1)
  t.match(found.out, /^snapshot lab0\/demo: damaged on b;/)
  t.match(found.out, /^host b: 1 file is not as it was$/m)
  t.match(found.out, new RegExp(`^ +${memory.path} +memory of vm3 +\\d+ B +it is not there +no host$`, 'm'))
  t.match(found.out, /^It cannot be restored as it is/m)
  t.match(JSON.parse((await snapshot('verify', 'demo', '-j')).out), {
    restorable: false,
    health: {
      verdict: 'damaged',
      hosts: [
        { host: 'a', verdict: 'ok' },
        { host: 'b', faults: [{ file: memory }] },
      ],
    },
  })
  a.parts.clear()
  t.match((await snapshot('list')).out, /^lab0\/demo +complete +damaged on a +- +\d{4}-/m)
  await b.stop()
  t.match((await snapshot('list')).out, /^lab0\/demo +complete +damaged on a; host b away +- +\d{4}-/m)
  t.match(
    (await snapshot('show', 'demo')).out,
    /^files: damaged on a; host b away\nhost a: .*has no record.*\nhost b cannot be asked: /m,
  )
  t.match(JSON.parse((await snapshot('list', '-j')).out), [{ state: 'complete', health: { verdict: 'damaged' } }])
})

t.test('snapshots without a name; failed ones go when one succeeds', async (t) => {
  const { a, b, snapshot } = await lab(t)
  const names = async () => (JSON.parse((await snapshot('list', '-j')).out) as Manifest[]).map((m) => m.name)
  t.match((await snapshot('create', 'lab0')).out, /^snapshot lab0\/s1: complete/)
  b.faults.set('take', new SnapswitchError('STORE_FULL', 'disk full', 'Free some space.'))
  t.match((await snapshot('create', 'lab0')).err, /snapshot lab0\/s2 was not taken/)
  t.equal((await snapshot('create', 'lab0', '-n', 'named')).code, 1)
  b.faults.clear()
  t.same(await names(), ['s1', 's2', 'named'])
  b.faults.set('discard', new SnapswitchError('INTERNAL', 'no', 'None.'))
  a.faults.set('take', new SnapswitchError('STORE_FULL', 'disk full', 'Free some space.'))
  await snapshot('create', 'lab0', '-n', 'half', '--deadline', '2s')
  a.faults.clear()
  t.match((await snapshot('create', 'lab0')).out, /^snapshot lab0\/s3: complete/)
  t.same(await names(), ['s1', 'half', 's3'], 'what a host may still have something of stays on record')
  b.faults.clear()
  t.match((await snapshot('create', 'lab0')).out, /^snapshot lab0\/s4: complete/)
  t.same(await names(), ['s1', 's3', 's4'], 'until that host was told')
})

t.test('prune: exit code 1 when a host has not done it', async (t) => {
  const { b, snapshot } = await lab(t)
  t.match(await snapshot('prune'), { code: 0, out: /^host a: .* freed, .*\nhost b: / })
  b.faults.set('pruneDisks', new SnapswitchError('STORE_IO', 'a bad sector', 'Mend it.'))
  for (const options of [[], ['--dry-run']])
    t.match(await snapshot('prune', ...options), { code: 1, out: /^host a: .* freed, .*\nhost b: a bad sector\n/ })
  const told = await snapshot('prune', '-j')
  t.equal(told.code, 1)
  t.match(JSON.parse(told.out), { hosts: [{ error: null }, { error: { code: 'STORE_IO' } }] })
})

t.test('a name that is none, while a host takes calls and does not answer', async (t) => {
  const { b, snapshot } = await lab(t)
  await b.stop()
  const silent = createServer(() => undefined)
  silent.listen(b.socketPath)
  await once(silent, 'listening')
  t.teardown(() => void silent.close())
  t.match(await snapshot('show', 'lab0/typo'), { code: 1, out: '', err: /^error SNAPSHOT_UNKNOWN: / })
})

t.test('failures come with code, reason and what to do', async (t) => {
  const { b, snapshot } = await lab(t)
  b.faults.set('take', new SnapswitchError('STORE_FULL', 'disk full', 'Free some space.'))
  const failed = await snapshot('create', 'lab0', '--name', 'demo')
  t.equal(failed.code, 1)
  t.match(
    failed.err,
    /error STORE_FULL: snapshot lab0\/demo was not taken; all machines run on\. host b: disk full\nwhat to do: Free some space\.\n$/,
  )
  t.match((await snapshot('list')).out, /^lab0\/demo +failed/m)
  t.match((await snapshot('show', 'demo')).out, /^error STORE_FULL/m)
  t.match(await snapshot('restore', 'demo'), { code: 1, err: /^error SNAPSHOT_NOT_COMPLETE: .*failed/m })
  const nobody = await command(['snapshot', 'list', '--socket', '/nonexistent/x.sock'])
  t.match(nobody, { code: 1, out: '', err: /^error SOCKET_UNREACHABLE: .*\nwhat to do: Start the switch/ })
})

t.test('usage errors end with code 2, help with 0', async (t) => {
  const usage = async (args: string[], message: RegExp) =>
    t.match(await command(args), { code: 2, err: message }, args.join(' '))
  await usage(['snapshot', 'creat'], /unknown command 'creat'[\s\S]*create/)
  await usage(['snapshot', 'show'], /missing required argument/)
  await usage(['snapshot', 'create', 'lab0', '--name', 'x', '--policy', 'keep'], /buffer.*drop/)
  await usage(['snapshot', 'create', 'lab0', '--name', 'x', '--deadline', '2 weeks'], /from 1ms to 1h/)
  await usage(['snapshot', 'restore', 'x', '--place', 'vm1'], /machine=host/)
  await usage(['snapshot', 'restore', 'x', '--place', 'vm1=a', '--place', 'vm1=b'], /placed on a already/)
  await usage(['--frobnicate'], /unknown option/)
  await usage(['port', 'list', '--socket', ''], /path of a unix socket/)
  t.match(await command(['--help']), { code: 0, out: /snapswitch doctor/ })
  t.match(await command(['--version']), { code: 0, out: `${version}\n` })
  t.match(await command([]), { code: 2, err: /Usage: snapswitch/ })
})

t.test('status, port list, fdb show', async (t) => {
  const { a, b, socket } = await lab(t)
  const at = ['--socket', a.socketPath]
  const status = await command(['status', ...at])
  t.equal(status.code, 0, status.err)
  t.match(status.out, /^switch a: version .*, pid 1, up 1h 6m$/m)
  t.match(status.out, /^vm1 +vm1-port +\/run\/vm1\.qmp$/m)
  t.match(JSON.parse((await command(['status', ...at, '-j'])).out), { host: 'a' })
  await b.stop()
  const coordinator = await command(['status', '--socket', socket])
  t.match(coordinator.out, /^lab0 +a +yes +vm1,vm2 /m)
  t.match(coordinator.out, /^lab0 +b +NO +- /m)

  const ports = await command(['port', 'list', ...at])
  t.match(ports.out, /^vm1-port +lab0 +tap-vm1 +member +vm1 +yes +1500 +0 +open +10 +2\.0 KiB +5 +500 B +2$/m)
  t.equal(JSON.parse((await command(['port', 'list', ...at, '-j'])).out).length, 2)
  t.equal(JSON.parse((await command(['port', 'list', ...at, '-j', '--network', 'lab0'])).out).length, 2)
  t.match(await command(['port', 'list', ...at, '--network', 'other']), {
    code: 1,
    out: '',
    err: /^error NETWORK_UNKNOWN: host a has no network other\nwhat to do: Its networks: lab0\.\n$/,
  })

  for (const args of [
    ['fdb', 'show'],
    ['fdb', 'show', 'lab0'],
  ]) {
    const fdb = await command([...args, ...at, '-j'])
    t.match(JSON.parse(fdb.out), [
      { mac: '02:00:00:00:00:01', ifname: 'tap-vm1', vlan: 5, flags: [], master: 'lab0', state: '' },
    ])
  }
  t.match((await command(['fdb', 'show', ...at])).out, /^02:00:00:00:00:01 +vm1-port +tap-vm1 +5 +lab0 +- +3$/m)
})

t.test('sockets by environment', async (t) => {
  const { a, socket } = await lab(t)
  process.env.SNAPSWITCH_SOCKET = a.socketPath
  process.env.SNAPSWITCH_COORDINATOR = socket
  t.teardown(() => {
    delete process.env.SNAPSWITCH_SOCKET
    delete process.env.SNAPSWITCH_COORDINATOR
  })
  t.equal((await command(['port', 'list'])).code, 0)
  t.equal((await command(['snapshot', 'list'])).code, 0)
  const both = JSON.parse((await command(['status', '-j'])).out)
  t.match(both, { switch: { host: 'a' }, coordinator: { networks: [{ name: 'lab0' }, { name: 'lab1' }] } })
})

t.test('copying is one line: bytes, rate, time left', (t) => {
  const rate = new CopyRate()
  const step = (atUs: number, bytes: number, files: number) => {
    rate.note(atUs, bytes)
    const copied = { bytes, ofBytes: 100 << 20, files, ofFiles: 7 }
    return describeStep({ type: 'step', text: 'copying files', copied, atUs }, rate)
  }
  t.equal(step(0, 0, 0), 'copying files: 0 B of 100.0 MiB, 0 of 7 files done')
  t.equal(step(1e6, 10 << 20, 1), 'copying files: 10.0 MiB of 100.0 MiB, 10.0 MiB/s, 9s left, 1 of 7 files done')
  for (let second = 2; second < 20; second++) step(second * 1e6, (10 << 20) + (second << 20), 1)
  t.match(step(20e6, 30 << 20, 1), /, 1\.0 MiB\/s, 1m 10s left, /, 'the rate of now, not of the beginning')
  for (let second = 21; second < 30; second++) step(second * 1e6, 30 << 20, 1)
  t.equal(step(30e6, 30 << 20, 1), 'copying files: 30.0 MiB of 100.0 MiB, 1 of 7 files done', 'nothing moves')
  t.end()
})

t.test('on a terminal progress is one line that changes', async (t) => {
  const { socket } = await lab(t)
  const { code, err, out } = await command(['snapshot', 'create', 'lab0', '-n', 'demo', '--socket', socket], true)
  t.equal(code, 0)
  t.notMatch(err, /\n/, 'it stays on its line')
  t.ok(err.endsWith('\r\u001b[K'), 'and is gone at the end')
  for (const line of err.split('\r\u001b[K')) t.ok(line.length < 60, 'no wider than the terminal')
  t.match(out, /complete/)
})

t.test('doctor', async (t) => {
  const { code, out } = await command(['doctor', '-j'])
  const { ok, findings } = JSON.parse(out) as {
    ok: boolean
    findings: { what: string; ok: boolean; required: boolean; cost: string }[]
  }
  t.equal(code, ok ? 0 : 1)
  t.equal(
    ok,
    findings.every((f) => f.ok || !f.required),
  )
  for (const f of findings) t.equal(f.cost === '', f.ok, `${f.what}: a cost is named when it lacks, and only then`)
  for (const what of ['kernel', 'CAP_NET_ADMIN', '/dev/net/tun', 'userfaultfd', 'KVM', 'qemu-img', 'libvirt']) {
    t.ok(
      findings.some((f) => f.what === what),
      what,
    )
  }
  t.match((await command(['doctor'])).out, /This machine can/)
})

t.test('doctor: a host without QEMU can forward', async (t) => {
  const path = process.env.PATH
  t.teardown(() => {
    process.env.PATH = path
  })
  process.env.PATH = await workDirectory(t)
  const { findings } = JSON.parse((await command(['doctor', '-j'])).out) as {
    findings: { what: string; ok: boolean; required: boolean; cost: string }[]
  }
  const told = (what: string) => findings.find((found) => found.what === what)
  t.match(told('QEMU'), { ok: false, required: false, cost: /^Machines cannot be restored on this host/ })
  t.match(told('qemu-img'), { ok: false, required: false, cost: /^No snapshot can be taken/ })
})
