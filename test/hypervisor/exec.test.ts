// The `exec` driver with commands made up for it: the contract of docs/reference/exec-driver.md, and every way in which
// a command may break it. Machines here are files that say `running` or `paused`; test/lab/exec.test.ts has real ones.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createExecHypervisor } from '../../src/hypervisor/exec/driver.js'
import type { ExecDefinition } from '../../src/hypervisor/exec/types.js'
import type { LoadRequest, MachineDefinition } from '../../src/hypervisor/hypervisor.js'
import { identify, isAlive } from '../../src/hypervisor/shared/process.js'
import { whyNotRun } from '../../src/hypervisor/shared/safe-path.js'
import { fileLimit, patience } from '../patience.js'
import { sleep, soon, until } from './boot-guest.js'
import { scratch } from './machines.js'

const self = fileURLToPath(import.meta.url)

t.setTimeout(fileLimit(120_000))
const root = { skip: process.getuid?.() === 0 ? false : 'needs root' }

const inspecting = (more = '') =>
  `[ -e state ] || { echo '{"state":"off"}'; exit; }
printf '{"state":"%s","memoryBytes":1024,"nics":[{"device":"tap0"}],"incarnation":"1"' "$(cat state)"
[ -e from ] && printf ',"directory":"%s"' "$(cat from)"
echo '${more}}'`

const usual: Record<string, string> = {
  inspect: inspecting(),
  pause: 'echo paused > state',
  resume: 'echo running > state',
  destroy: 'rm -f state from',
  capture: `cp state "$SNAPSWITCH_MEMORY"; echo '{"files":[]}'`,
  load: 'echo paused > state; printf %s "$SNAPSWITCH_DIRECTORY" > from',
}

/** A command in a directory of its own, which is where it keeps its machine. */
function commandOf(actions: Record<string, string>): { command: string; home: string; at: (name: string) => string } {
  const home = scratch('exec')
  const command = join(home, 'command')
  const cases = Object.entries({ ...usual, ...actions }).map(([action, text]) => `${action})\n${text}\n;;`)
  writeFileSync(command, `#!/bin/sh\ncd ${home}\necho "$1" >> calls\ncase $1 in\n${cases.join('\n')}\nesac\n`, {
    mode: 0o755,
  })
  writeFileSync(join(home, 'state'), 'running\n')
  return { command, home, at: (name) => join(home, name) }
}

const stateOf = (home: string) =>
  existsSync(join(home, 'state')) ? readFileSync(join(home, 'state'), 'utf8').trim() : 'off'
const callsOf = (home: string) => readFileSync(join(home, 'calls'), 'utf8').trim().split('\n')
const attach = (command: string) => createExecHypervisor().attach('vm', { exec: { command } }, soon(20_000))

if (process.argv[2] === 'daemon') await beDaemon(process.argv[3]!, process.argv[4]!)

/** A whole capture; what it ends with. */
async function take(command: string, deadline = soon(20_000)) {
  const machine = await attach(command)
  const directory = scratch()
  await machine.prepare({ directory, label: 's1' }, soon(5000))
  await machine.pause(soon(5000))
  const capture = machine.capture(deadline)
  const resumed = await capture.resumed.then(
    () => true,
    () => false,
  )
  const sealed = await capture.sealed.then(
    (seal) => ({ seal, error: null }),
    (error) => ({ seal: null, error }),
  )
  return { machine, directory, resumed, ...sealed }
}

const definitionOf = (command: string, more: Partial<ExecDefinition> = {}): MachineDefinition => ({
  ...{
    kind: 'exec',
    name: 'vm',
    memoryBytes: 1,
    nics: [],
    hypervisorVersion: '',
    command,
    machine: 'vm',
    details: 'd',
  },
  ...more,
})

function requestFor(command: string, more: Partial<LoadRequest> = {}): LoadRequest {
  return {
    definition: definitionOf(command),
    memoryFile: '/memory',
    disks: [],
    taps: [],
    directory: scratch('load'),
    ...more,
  }
}

t.test('a machine is looked at, paused, saved and resumed', root, async (t) => {
  const { command, home, at } = commandOf({
    inspect: inspecting(
      ',"details":"as it was","files":[{"role":"kernel","path":"/boot/k"}],"version":"v1","warnings":["w"]',
    ),
    capture: `echo memory > "$SNAPSWITCH_MEMORY"; echo disk > "$SNAPSWITCH_DIRECTORY/d"; cp state seen
printf '{\\n "files": [{"role":"disk","path":"%s"}]\\n}\\n' "$SNAPSWITCH_DIRECTORY/d"`,
  })
  const { machine, directory, seal, resumed } = await take(command)
  t.match(await machine.inspect(soon(5000)), {
    ...{ name: 'vm', state: 'running', stateDetail: null, memoryBytes: 1024, disks: [], hypervisorVersion: 'v1' },
    ...{ nics: [{ device: 'tap0', mac: null }], captureMode: 'stopped', warnings: ['w'] },
  })
  t.match(await machine.definition(soon(5000)), { kind: 'exec', command, machine: 'vm', details: 'as it was' })
  t.equal(machine.incarnation, '1')
  t.equal(readFileSync(at('seen'), 'utf8').trim(), 'paused', 'it is saved while it stands still')
  t.ok(resumed)
  t.equal(stateOf(home), 'running')
  const memory = join(directory, 'saved', 'memory.img')
  t.same(seal, {
    memoryFile: memory,
    memoryBytes: 7,
    memoryDigest: createHash('sha256').update('memory\n').digest('hex'),
    disks: [],
    files: [{ role: 'disk', path: join(directory, 'saved', 'd') }],
  })
  t.same(callsOf(home).slice(0, 5), ['inspect', 'inspect', 'pause', 'capture', 'resume'])
  await machine.destroy(soon(5000))
  t.notOk(await createExecHypervisor().isThere('vm', { exec: { command } }))
  await t.rejects(attach(command), { code: 'MACHINE_NOT_RUNNING' })
})

t.test('a command has a clean environment, and is told all in it and on its standard input', root, async (t) => {
  process.env.LD_PRELOAD_OF_SOMEBODY = 'x'
  t.teardown(() => delete process.env.LD_PRELOAD_OF_SOMEBODY)
  const { command, home, at } = commandOf({ load: `env -0 > env; cat > input; pwd -P > /dev/null; ${usual.load}` })
  await createExecHypervisor().isThere('vm', { exec: { command } })
  await (await attach(command)).destroy(soon(5000))
  const files = [{ role: 'disk', path: '/there/d' }]
  const request = requestFor(command, {
    definition: definitionOf(command, { files, machine: 'other name' }),
    files: new Map([['/there/d', '/here/d']]),
    taps: ['tap0', 'tap1'],
  })
  const { spec, control } = await createExecHypervisor().load(request, soon(20_000))
  const { directory } = request
  t.same(spec, { exec: { command, machine: 'other name', directory } })
  const words = readFileSync(at('env'), 'utf8').split('\0')
  const told = (what: RegExp) => words.find((word) => what.test(word))!
  const [daemon, pid, timeout] = [/^SNAPSWITCH_DAEMON=./, /^SNAPSWITCH_PID=\d+$/, /^SNAPSWITCH_TIMEOUT_MS=\d+$/].map(
    told,
  )
  const expected = [
    'HOME=/root',
    'LANG=C.UTF-8',
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'SNAPSWITCH_ACTION=load',
    `SNAPSWITCH_COMMAND=${command}`,
    'SNAPSWITCH_DETAILS=d',
    `SNAPSWITCH_DIRECTORY=${directory}`,
    'SNAPSWITCH_FILES=disk\t/here/d',
    'SNAPSWITCH_MACHINE=other name',
    'SNAPSWITCH_MEMORY=/memory',
    'SNAPSWITCH_NAME=vm',
    'SNAPSWITCH_TAPS=tap0\ntap1',
    daemon,
    pid,
    timeout,
  ]
  // Of the shell itself, and of the test runner, which adds to all that is started.
  const own = (word: string) => word !== '' && !/^(PWD|OLDPWD|SHLVL|_|NODE_OPTIONS|_TAPJS_\w+)=/.test(word)
  t.same(words.filter(own).sort(), expected.sort())
  const input = JSON.parse(readFileSync(at('input'), 'utf8'))
  t.match(input, { action: 'load', machine: 'other name', name: 'vm', directory, taps: ['tap0', 'tap1'], details: 'd' })
  t.same(input.files, [{ role: 'disk', path: '/here/d' }])
  t.equal((await control.inspect(soon(5000))).state, 'paused')
  await control.destroy(soon(5000))
  t.equal(stateOf(home), 'off')
  t.same(readdirSync(directory).sort(), ['.ended', '.whole'], 'its directory may go')
})

t.test('one that hangs is killed with all that it has started', root, async (t) => {
  const { command, at } = commandOf({ pause: 'echo why >&2; sleep 1000 & echo $! > child; echo $$ > self; wait' })
  const machine = await attach(command)
  await t.rejects(machine.pause(soon(1000)), {
    code: 'HYPERVISOR_UNREACHABLE',
    message: /command pause vm did not end within \d+\.\d s: why$/,
  })
  for (const name of ['child', 'self']) {
    const pid = Number(readFileSync(at(name), 'utf8'))
    await until(`${name} to end`, () => identify(pid) === null)
  }
  t.pass('all are gone')
  await machine.close()
})

t.test('one that fails says why', root, async (t) => {
  const { command } = commandOf({ pause: 'echo one >&2; echo two >&2; exit 3' })
  const machine = await attach(command)
  await t.rejects(machine.pause(soon(5000)), {
    code: 'HYPERVISOR_REFUSED',
    message: /command pause vm ended with exit code 3: one \| two$/,
  })
  const killed = await attach(commandOf({ resume: 'kill -9 $$' }).command)
  await t.rejects(killed.resume(soon(5000)), { code: 'HYPERVISOR_REFUSED', message: /was ended by SIGKILL$/ })
})

t.test('an answer that cannot be understood is named', root, async (t) => {
  const answers: [string, RegExp][] = [
    ['echo hello', /"hello".* JSON object is expected/],
    [':', /wrote nothing/],
    [`echo '{"state":"running"}'`, /does not say memoryBytes/],
    [`echo '{"state":"asleep"}'`, /state/],
    [`echo '{"state":"off","memorybytes":1}'`, /memorybytes/],
    [`echo '{"state":"running","memoryBytes":1,"nics":[{"device":"a/b"}]}'`, /nics\[0\]\.device/],
    [inspecting(',"files":[{"role":"a","path":"/a"},{"role":"a","path":"/b"}]'), /two files with the role a/],
    [inspecting(',"files":[{"role":"a","path":"relative"}]'), /absolute path/],
    [inspecting(',"files":[{"role":"a","path":"/a\\\\tb"}]'), /absolute path/],
    [inspecting(`,"details":"${'é'.repeat(32_769)}"`), /65538 bytes of details, where 65536 are the most/],
    [
      inspecting(`,"files":[${['a', 'b'].map((role) => `{"role":"${role}","path":"/${'x'.repeat(25_000)}"}`).join()}]`),
      /50007 bytes of files, where 49152 are the most/,
    ],
    ['head -c 2000000 /dev/zero', /more than 1048576 bytes/],
    ['cat /dev/zero', /more than 1048576 bytes/],
  ]
  for (const [inspect, message] of answers) {
    const { command } = commandOf({ inspect })
    await t.rejects(attach(command), { code: 'HYPERVISOR_PROTOCOL', message }, inspect)
    t.ok(await createExecHypervisor().isThere('vm', { exec: { command } }), 'in doubt it is there')
  }
})

t.test('a long answer is read whole, and an output that is held open is not waited for', root, async (t) => {
  const { command } = commandOf({
    inspect: `sleep 1000 & echo $! > child; ${inspecting(`,"details":"${'x'.repeat(60_000)}"`)}`,
  })
  const { home } = { home: join(command, '..') }
  t.teardown(() => process.kill(Number(readFileSync(join(home, 'child'), 'utf8')), 'SIGKILL'))
  const machine = await attach(command)
  t.equal(((await machine.definition(soon(5000))) as ExecDefinition).details.length, 60_000)
})

t.test('only what is root’s alone is run', root, async (t) => {
  const { command, home, at } = commandOf({})
  t.equal(whyNotRun(command), null)
  t.match(whyNotRun('command'), /no absolute path/)
  t.match(whyNotRun(at('nothing')), /nothing does not exist/)
  t.match(whyNotRun(home), /is no file/)
  t.match(whyNotRun('/dev/null'), /is no file/)
  t.match(whyNotRun(join(command, 'x')), /command is no directory/)
  for (const [mode, fault] of [
    [0o757, /others than root may write to .*command/],
    [0o775, /others than root may write to .*command/],
    [0o644, /not executable/],
  ] as const) {
    chmodSync(command, mode)
    t.match(whyNotRun(command), fault)
    await t.rejects(attach(command), { code: 'HYPERVISOR_UNREACHABLE', message: fault, action: /chown root/ })
  }
  chmodSync(command, 0o755)
  chownSync(command, 1000, 0)
  t.match(whyNotRun(command), /belongs to user 1000/)
  chownSync(command, 0, 0)
  symlinkSync(command, at('link'))
  symlinkSync('link', at('relative'))
  t.equal(whyNotRun(at('relative')), null, 'by way of links')
  symlinkSync('loop', at('loop'))
  t.match(whyNotRun(at('loop')), /too many symbolic links/)
  // Who may write to a directory may put another program in its place; so may the owner of a link.
  const open = at('open')
  mkdirSync(open)
  symlinkSync(command, join(open, 'link'))
  chmodSync(open, 0o777)
  t.match(whyNotRun(join(open, 'link')), /others than root may write to .*open/)
  symlinkSync(open, at('through'))
  t.match(whyNotRun(join(home, 'through', 'link')), /others than root may write to .*open/)
  t.match(whyNotRun(`${home}/through/../command`), /others than root may write to .*open/)
  chmodSync(open, 0o1777)
  t.equal(whyNotRun(join(open, 'link')), null, 'as in /tmp')
  chmodSync(open, 0o755)
  chownSync(open, 1000, 0)
  t.match(whyNotRun(join(open, 'link')), /open belongs to user 1000/)
  t.notOk(existsSync(at('calls')), 'nothing was run')
})

t.test('a capture that fails leaves the machine running, and nothing else', root, async (t) => {
  const missing = `cp state "$SNAPSWITCH_MEMORY"; echo '{"files":[{"role":"disk","path":"/nowhere/d"}]}'`
  const ways: [string, string, RegExp][] = [
    ['echo full >&2; exit 1', 'CAPTURE_FAILED', /could not be saved: .*exit code 1: full/],
    [`echo '{"files":[]}'`, 'HYPERVISOR_PROTOCOL', /memory\.img is not there/],
    [`: > "$SNAPSWITCH_MEMORY"; echo '{"files":[]}'`, 'HYPERVISOR_PROTOCOL', /memory\.img is empty/],
    [`ln -s /dev/null "$SNAPSWITCH_MEMORY"; echo '{"files":[]}'`, 'HYPERVISOR_PROTOCOL', /is empty or no file/],
    ['cp state "$SNAPSWITCH_MEMORY"', 'HYPERVISOR_PROTOCOL', /wrote nothing/],
    [`cp state "$SNAPSWITCH_MEMORY"; echo '{}'`, 'HYPERVISOR_PROTOCOL', /files/],
    [missing, 'HYPERVISOR_PROTOCOL', /nowhere\/d is not there/],
  ]
  for (const [capture, code, message] of ways) {
    const { command, home } = commandOf({ capture })
    const { error, resumed, directory, machine } = await take(command)
    t.match(error, { code, message }, capture)
    t.ok(resumed)
    t.equal(stateOf(home), 'running')
    t.same(readdirSync(directory), [])
    await machine.close()
  }
})

t.test('a capture that hangs is killed at its deadline, and the machine runs', root, async (t) => {
  // A deadline well before the driver's own bound for a machine that stands still.
  const { command, home, at } = commandOf({ capture: 'echo $$ > self; echo x > "$SNAPSWITCH_MEMORY"; sleep 1000' })
  const { error, resumed, directory } = await take(command, performance.now() + Math.min(patience(1500), 15_000))
  t.match(error, { code: 'DEADLINE' })
  t.ok(resumed)
  t.equal(stateOf(home), 'running')
  t.same(readdirSync(directory), [])
  t.equal(identify(Number(readFileSync(at('self'), 'utf8'))), null)
})

t.test('a capture of a machine that cannot be resumed says so', root, async (t) => {
  const { command, home } = commandOf({ resume: 'exit 1' })
  const { error, resumed } = await take(command)
  t.match(error, { code: 'CAPTURE_FAILED', message: /resume vm ended with exit code 1/ })
  t.notOk(resumed)
  t.equal(stateOf(home), 'paused')
})

t.test('in the background: the command has it run, and goes on saving', root, async (t) => {
  const { command, home, at } = commandOf({
    inspect: inspecting(',"captureMode":"background"'),
    capture: `echo running > state; echo resumed; while [ ! -e go ]; do sleep 0.02; done
echo x > "$SNAPSWITCH_MEMORY"; echo '{"files":[]}'`,
  })
  const machine = await attach(command)
  t.equal((await machine.inspect(soon(5000))).captureMode, 'background')
  await machine.prepare({ directory: scratch(), label: 's' }, soon(5000))
  await machine.pause(soon(5000))
  const { resumed, sealed } = machine.capture(soon(20_000))
  await resumed
  t.notOk(existsSync(at('go')), 'before it is saved')
  writeFileSync(at('go'), '')
  t.match(await sealed, { memoryBytes: 2 })
  t.notOk(callsOf(home).includes('resume'))
  // One that does not come to that within its time is killed, and resumed.
  const slow = commandOf({ inspect: inspecting(',"captureMode":"background"'), capture: 'sleep 1000' })
  const { error, resumed: runs } = await take(slow.command)
  t.match(error, { code: 'CAPTURE_FAILED', message: /stood still for .*capture vm` gets on no more/ })
  t.ok(runs)
  t.equal(stateOf(slow.home), 'running')
})

t.test('a pause whose capture never comes is undone', root, async (t) => {
  const { command, home } = commandOf({})
  const machine = await attach(command)
  const directory = scratch()
  await machine.prepare({ directory, label: 's' }, soon(5000))
  await machine.pause(soon(5000))
  await machine.abandon()
  t.equal(stateOf(home), 'running')
  t.same(readdirSync(directory), [])
})

t.test('a load that fails leaves nothing', root, async (t) => {
  const load = async (actions: Record<string, string>) => {
    const made = commandOf({ inspect: inspecting(), ...actions })
    await (await attach(made.command)).destroy(soon(5000))
    const request = requestFor(made.command)
    const error = await createExecHypervisor()
      .load(request, soon(10_000))
      .then(
        () => null,
        (thrown) => thrown,
      )
    t.same(readdirSync(request.directory), [])
    t.equal(stateOf(made.home), 'off')
    return error
  }
  t.match(await load({ load: 'echo no such image >&2; exit 1' }), { code: 'RESTORE_FAILED', message: /no such image/ })
  t.match(await load({ load: 'echo running > state' }), { code: 'RESTORE_FAILED', message: /it came up running/ })
  t.match(await load({ load: ':' }), { code: 'RESTORE_FAILED', message: /is off/ })
  const { command, home } = commandOf({})
  await t.rejects(createExecHypervisor().load(requestFor(command), soon(5000)), { code: 'MACHINE_RUNNING' })
  t.equal(stateOf(home), 'running', 'one that is there is left alone')
})

t.test('what a restore needs is looked at before anything is ended', root, async (t) => {
  const { command, at } = commandOf({})
  const examine = (path: string) => createExecHypervisor().examine!(definitionOf(path), soon(5000))
  t.same(await examine(command), [])
  t.match(await examine(at('nothing')), [{ code: 'HYPERVISOR_UNREACHABLE', message: /nothing does not exist/ }])
  t.match(await examine(commandOf({ inspect: 'exit 1' }).command), [{ code: 'HYPERVISOR_REFUSED' }])
})

t.test('what a killed daemon has loaded is ended, unless it runs or is another', root, async (t) => {
  const ended = async (state: string | null, from: string | null, mayRun: boolean) => {
    const { command, home, at } = commandOf({})
    if (state !== null) writeFileSync(at('state'), `${state}\n`)
    else await (await attach(command)).destroy(soon(5000))
    if (from !== null) writeFileSync(at('from'), from)
    const load = { directory: '/d/e1', command, machine: 'vm', mayRun }
    return [await createExecHypervisor().endLoad(load, soon(10_000)), stateOf(home)]
  }
  t.same(await ended('paused', '/d/e1', false), [true, 'off'])
  t.same(await ended('paused', '/d/e1', true), [true, 'off'])
  t.same(await ended('running', '/d/e1', true), [false, 'running'])
  t.same(await ended('running', '/d/e1', false), [true, 'off'])
  t.same(await ended('paused', '/d/e2', false), [true, 'paused'], 'of another load')
  t.same(await ended('paused', null, false), [true, 'paused'], 'its owner’s')
  t.same(await ended(null, null, false), [true, 'off'])
})

t.test('commands that a killed daemon has left are ended before the machine is asked anything', root, async (t) => {
  const { command, home, at } = commandOf({
    // The machine, as it were: in a session of its own.
    pause: `${usual.pause}; setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > machine`,
    capture: 'echo $$ > self; sleep 1000',
  })
  const child = spawn(process.execPath, [self, 'daemon', command, scratch()], { stdio: 'inherit' })
  await until('the capture', () => existsSync(at('self')) && readFileSync(at('self'), 'utf8').endsWith('\n'))
  const stray = identify(Number(readFileSync(at('self'), 'utf8')))!
  await attach(command)
  await sleep(50)
  t.ok(isAlive(stray), 'its daemon is there')
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('exit', resolve))
  t.ok(isAlive(stray))
  const machine = await attach(command)
  t.notOk(isAlive(stray))
  const left = Number(readFileSync(at('machine'), 'utf8'))
  t.ok(identify(left), 'what left its process group may be the machine, and is not ended')
  process.kill(left, 'SIGKILL')
  t.equal((await machine.inspect(soon(5000))).state, 'paused')
  await machine.resume(soon(5000))
  t.equal(stateOf(home), 'running')
})

/** Run as a process of its own: a daemon that is killed in a capture. */
async function beDaemon(command: string, directory: string): Promise<never> {
  const machine = await attach(command)
  await machine.prepare({ directory, label: 's' }, soon(5000))
  await machine.pause(soon(5000))
  await machine.capture(soon(60_000)).sealed
  process.exit(1)
}
