// Recorded runs, replayed: the same comes out, to the last bit; and what is otherwise is found.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import t from 'tap'
import { SentFrames } from '../../src/cli/replay-output.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { readPcapng } from '../../src/trace/pcapng-reader.js'
import type { Changes } from '../../switch/recording/changed.js'
import { changesOf } from '../../switch/recording/changes.js'
import { compareRuns, narrate } from '../../switch/recording/compare.js'
import { Replay, type ReplayObserver } from '../../switch/recording/replay.js'
import { piecesOf } from '../../switch/recording/source.js'
import { mac } from '../forwarding/rig.js'
import { run } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit } from '../patience.js'
import { GOLDEN_FRAMES, goldenFiles } from './golden.js'
import { dice, Scene } from './scene.js'
import { type SceneName, scenes } from './scenes.js'

t.setTimeout(fileLimit(120_000))

function replayed(file: Uint8Array): Replay {
  const replay = new Replay([file])
  replay.run()
  return replay
}

for (const name of Object.keys(scenes) as SceneName[]) {
  for (const midway of [false, true]) {
    t.test(`${name}${midway ? ', recorded from midway' : ''}`, async (t) => {
      for (const file of scenes[name](400, midway)) {
        const replay = replayed(file)
        t.equal(replay.difference, null, 'the same comes out')
        t.equal(replay.damagedBefore, null)
        t.equal(replay.end?.frames, replay.frames)
        t.ok(replay.frames > 100 && replay.marks > 5)
      }
    })
  }
}

t.test('golden runs: what the switch does is what it did', async (t) => {
  for (const { name, path } of goldenFiles()) {
    t.ok(existsSync(path), `${name} is there`)
    const replay = replayed(gunzipSync(readFileSync(path)))
    t.equal(replay.damagedBefore, null)
    t.equal(replay.difference, null, `${name}: if this is meant, node dist/test/recording/golden.js renews it`)
    t.ok(replay.marks >= 3 && replay.frames > GOLDEN_FRAMES / 4)
  }
})

t.test('a checkpoint that is loaded is saved as it was', async (t) => {
  for (const name of ['trunk', 'uplink', 'restore'] as const) {
    for (const file of scenes[name](200, true)) {
      const replay = new Replay([file])
      const saved = JSON.stringify(replay.forwarder.save())
      t.equal(JSON.stringify(new Replay([file]).forwarder.save()), saved)
      // A state that was forgotten to be saved makes no difference to this; the runs from midway would differ.
      t.ok(saved.length > 1000)
    }
  }
})

t.test('pieces of any size are the same file', async (t) => {
  const [file] = scenes.learning(200)
  const whole = replayed(file!).digest()
  for (const size of [1, 7, 1000]) {
    const pieces = Array.from({ length: Math.ceil(file!.length / size) }, (_, i) =>
      file!.subarray(i * size, (i + 1) * size),
    )
    const replay = new Replay(pieces)
    replay.run()
    t.equal(replay.digest(), whole)
  }
})

t.test('a file that ends anywhere is replayed as far as it is whole', async (t) => {
  const [file] = scenes.learning(100)
  const roll = dice(7)
  const start = Buffer.from(file!).indexOf('a0') + 2000
  for (let i = 0; i < 50; i++) {
    const replay = replayed(file!.subarray(0, start + roll(file!.length - start)))
    t.equal(replay.difference, null)
    t.equal(replay.isTruncated, true)
  }
})

t.test('one bit flipped anywhere: another digest, or a clear error', async (t) => {
  const [file] = scenes.trunk(40)
  const whole = replayed(file!).digest()
  const roll = dice(99)
  let refused = 0
  for (let i = 0; i < 300; i++) {
    const other = file!.slice()
    other[roll(other.length)] ^= 1 << roll(8)
    try {
      t.not(replayed(other).digest(), whole)
    } catch (error) {
      if (!(error instanceof SnapswitchError)) throw error
      t.match(error.code, /^(TRACE_INVALID|RECORDING_VERSION)$/)
      refused++
    }
  }
  t.ok(refused > 0 && refused < 250, `${refused} refused`)
})

t.test('two runs that differ: the first difference, in words', async (t) => {
  const [file] = scenes.learning(200)
  const other = file!.slice()
  const view = new DataView(other.buffer)
  let frames = 0
  for (let at = 0; at < other.length; at += view.getUint32(at + 4, true)) {
    if (view.getUint32(at, true) !== 6 || frames++ < 50) continue
    other[at + 28 + 20] ^= 1
    break
  }
  const { differences } = compareRuns({ one: () => [file!], other: () => [other], changes: null }, 5)
  t.equal(differences.length, 1)
  t.match(differences[0], { kind: 'input', what: /^frame 50 at port a\d differs from byte 20 on$/ })
  t.match(differences[0]!.one[0], /frame 50 at a\d: /)
})

t.test('another configuration: which frames fare differently, and by which rule', async (t) => {
  const [file] = scenes.learning(200)
  const changes = {
    settings: <T>(settings: T) => settings,
    added: [],
    port: <T extends { index: number }>(spec: T) => (spec.index === 3 ? { ...spec, rules: { isolated: true } } : spec),
  }
  const same = compareRuns({ one: () => [file!], other: () => [file!], changes: null }, 5)
  t.match(same, { different: 0, differences: [] })
  const none = compareRuns({ one: () => [file!], other: () => [file!], changes }, 5)
  t.equal(none.different, 0, 'one isolated port is isolated from nobody')
  const locked = {
    ...changes,
    port: <T extends { index: number }>(spec: T) => ({ ...spec, rules: { isolated: true } }),
  }
  const { different, differences } = compareRuns({ one: () => [file!], other: () => [file!], changes: locked }, 3)
  t.ok(different > 50, `${different} frames`)
  t.equal(differences.length, 3)
  t.match(differences[0]!.other.join('\n'), /isolated/)
  t.notMatch(differences[0]!.one.join('\n'), /isolated/)
})

t.test('what becomes of a frame is told', async (t) => {
  const [file] = scenes.trunk(400)
  const replay = new Replay([file!])
  let held = 0
  while (replay.step())
    if (replay.forwarder.ports.some(({ hold }) => hold.length > 0) && held === 0) held = replay.input.number
  t.ok(held > 0)
  t.match(narrate(() => [file!], null, [held])[0]!.join('\n'), /is held for a\d, color \d+, port at epoch \d/)
})

t.test('gaps: each part is replayed from its own beginning, and they are told', async (t) => {
  const [file] = scenes.gaps(400)
  const replay = replayed(file!)
  t.match(replay, { difference: null, damagedBefore: null, isTruncated: false })
  t.equal(replay.gaps.length, 3)
  t.ok(replay.gaps.every(({ missed }) => missed === 51))
  t.equal(replay.end?.frames, replay.frames)
  // The state is that of the part that was replayed, not of the one that comes.
  const until = new Replay([file!])
  const [gap] = replay.gaps
  until.run(gap!.now)
  t.ok(until.gaps.length === 0 && until.forwarder.byIndex[10] === undefined)
  t.ok(until.step() && until.gaps.length === 1 && until.forwarder.byIndex[10] !== undefined)
  t.match(narrate(() => [file!], null, [gap!.after, gap!.after + 1])[1]![0], /^a gap: 51 frames were not recorded/)
  t.match(compareRuns({ one: () => [file!], other: () => [file!], changes: null }, 5), { different: 0 })
  const other = file!.slice()
  const at = Buffer.from(other).indexOf('"missed":51')
  other[at + '"missed":'.length] = '4'.charCodeAt(0)
  t.not(replayed(other).digest(), replay.digest())
  const { differences } = compareRuns({ one: () => [file!], other: () => [other], changes: null }, 5)
  t.match(differences, [{ kind: 'input', input: gap!.after + 1, what: /a gap of 51 frames before it.* 41 frames/ }])
})

t.test('frames that were sent, as a trace: a port that took another’s index is not the other', async (t) => {
  const scene = new Scene()
  const host = scene.host('a').port(0, 'member').port(1, 'member')
  host.record()
  host.send(0, { id: 1 })
  host.input('removePort', { index: 1 })
  const spec = { index: 1, name: 'db', kind: 'member', vm: 'db', epoch: 0, mac: mac(7) } as const
  host.input('addPort', { spec, now: scene.now })
  host.send(0, { id: 2 })
  const path = join(t.testdir(), 'sent.pcapng')
  const written = new SentFrames(path)
  const observer: ReplayObserver = {
    coming: (input) => written.coming(input),
    sending: (...sent) => written.sending(...sent),
  }
  const replay = new Replay([host.recorded()], observer)
  written.nameOf = (port) => replay.portNames.get(port)!
  replay.run()
  written.close()
  const names: (string | null)[] = []
  for (const block of readPcapng(readFileSync(path))) if (block.kind === 'packet') names.push(block.interface.name)
  t.same(names, ['a1', 'db'])
})

t.test('other ports: taken out, added, of another kind', async (t) => {
  const [file] = scenes.learning(200)
  const settings = <T>(settings: T) => settings
  const port = <T>(spec: T) => spec
  const compared = (changes: Partial<Changes>) =>
    compareRuns({ one: () => [file!], other: () => [file!], changes: { settings, port, added: [], ...changes } }, 300)
  const without = compared({ port: (spec) => (spec.index === 1 ? null : spec) })
  t.ok(without.different > 50)
  const told = without.differences.flatMap(({ other }) => other).join('\n')
  t.match(told, /at a1: .*\n {2}is left out: the port is not there/)
  t.notMatch(told, /leaves by a1/)
  const more = compared({ added: [{ name: 'extra', kind: 'plain', vm: null }] })
  t.ok(more.different > 0)
  t.ok(more.differences.every(({ one, other }) => other.length === one.length + 1 && /extra/.test(other.join())))
  const plain = compared({ port: (spec) => ({ ...spec, kind: 'plain', vm: null }) })
  t.ok(plain.different > 0, 'frames have no color')
})

t.test('a configuration file: what becomes of the ports is told, and what cannot be tried is refused', async (t) => {
  const [file] = scenes.uplink(40)
  const ports = new Replay([file!]).forwarder.ports
  t.equal(ports.length, 0, 'recorded from the beginning')
  const [midway] = scenes.uplink(40, true)
  const specs = new Replay([midway!]).forwarder.ports.filter(({ peer }) => peer === null).map(({ spec }) => spec)
  const path = join(t.testdir(), 'switch.yaml')
  const changes = (yaml: string, network = 'lab0') => {
    writeFileSync(path, `networks: { lab0: { linkLocal: drop, ports: { ${yaml} } } }\n`)
    return changesOf(path, network, specs)
  }
  const all = changes(
    'a7: { device: up, kind: uplink }, a0: { device: t0, vm: a0 }, a3: { device: t3, vm: new }, x: { device: x, isolated: true }',
  )
  t.same(all.told, [
    'port a1 is not there: what came in by it is left out',
    'port a3 is member of new instead of plain',
    'port x is new: it gets frames, and none come in by it',
  ])
  t.ok(compareRuns({ one: () => [midway!], other: () => [midway!], changes: all }, 3).different > 0)
  t.throws(() => changes('a7: { device: up }'), {
    code: 'CONFIG_INVALID',
    message: /port a7 is plain instead of uplink/,
  })
  t.throws(() => changes('a7: { device: up, kind: uplink, color: carrier }'), {
    message: /uplink a7 has color carrier/,
  })
  t.throws(() => changes('t: { device: t, kind: trunk }'), { code: 'CONFIG_INVALID', message: /port t is a new trunk/ })
  t.throws(() => changes('a0: { device: t0 }', 'lab1'), { code: 'NETWORK_UNKNOWN', action: 'It has: lab0.' })
})

t.test('files that are compressed', async (t) => {
  // Longer than what is unpacked ahead.
  const [file] = scenes.learning(12_000)
  const path = join(t.testdir(), 'run.pcapng')
  writeFileSync(path, file!)
  const digest = replayed(file!).digest()
  for (const tool of ['gzip', 'zstd']) {
    await run(tool, ['-kqf', path])
    const packed = `${path}.${tool === 'gzip' ? 'gz' : 'zst'}`
    const whole = new Replay(piecesOf(packed))
    whole.run()
    t.equal(whole.digest(), digest, tool)
    // One that is left early ends its thread, and the process with it.
    t.ok(new Replay(piecesOf(packed)).step())
    const cut = readFileSync(packed).subarray(0, -2000)
    writeFileSync(packed, cut)
    const early = new Replay(piecesOf(packed))
    early.run()
    t.match(early, { isTruncated: true, difference: null, damagedBefore: null }, `${tool}, cut short`)
    cut.fill(0x55, cut.length >> 1)
    writeFileSync(packed, cut)
    t.throws(() => new Replay(piecesOf(packed)).run(), { code: 'TRACE_INVALID' }, `${tool}, damaged`)
  }
})

t.test('files that are none', async (t) => {
  const pcapng = readFileSync(join(repositoryRoot(), 'test', 'recording', 'golden', 'learning-0.pcapng.gz'))
  t.throws(() => new Replay([pcapng]), { code: 'TRACE_INVALID' })
  t.throws(() => new Replay([]), { code: 'TRACE_INVALID' })
  t.throws(() => new Replay([Buffer.from('no capture at all, but text')]), { code: 'TRACE_INVALID' })
  const [file] = scenes.learning(10)
  const other = Buffer.from(file!)
  other[other.indexOf('recording, version 1') + 'recording, version '.length] = '2'.charCodeAt(0)
  t.throws(() => new Replay([other]), { code: 'RECORDING_VERSION' })
})
