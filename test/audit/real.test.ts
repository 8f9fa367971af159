// A snapshot of real guests under traffic, made with a recording, and audited: consistent as it is. Then a byte of a
// memory image is changed, an event (with and without the digests made right), the channel state, and each time the
// verdict is another, with the place.

import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { AuditReport, FileReference, LocalPart, Manifest, SnapshotFrames } from '../../src/api/schemas.js'
import { readChannel, writeChannel } from '../../src/trace/channel.js'
import { Event } from '../../src/trace/events.js'
import { attempt, sleep } from '../lab/command.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import { fileLimit } from '../patience.js'
import { replayed } from '../recording/processes.js'
import { putTogether, type Recording, takeApart, without } from './tamper.js'

t.setTimeout(fileLimit(280_000))

const [one, two, three] = ['10.77.0.1', '10.77.0.2', '10.77.0.3'] as const
const ring = { ring: [one, two, three], hops: 100_000, hopDelayUs: 8000, journalEvery: 10 }
const plan: LabPlan = {
  network: 'lab0',
  hosts: ['a', 'b'],
  memoryMiB: 128,
  machines: [
    {
      name: 'vm1',
      host: 'a',
      job: { ...ring, ip: `${one}/24`, node: 0, send: [`1@${three}:5001/700`, `2@${two}:5002/700`] },
    },
    { name: 'vm2', host: 'a', job: { ...ring, ip: `${two}/24`, node: 1, receive: ['2@5002'] } },
    { name: 'vm3', host: 'b', job: { ...ring, ip: `${three}/24`, node: 2, receive: ['1@5001'] } },
  ],
}
/** The snapshot that is audited. */
let name = ''

/** A delivery before the cut that was not held: its frame's arrival stands right before it. */
const plainDelivery = ({ events, head }: Recording) =>
  events.findIndex(
    ({ kind, cause, color, epoch }) =>
      kind === Event.delivered && cause >= 0 && color === head.epoch - 1 && epoch === color,
  )

/** Runs the command as a person would. */
async function audit(lab: Lab): Promise<{ report: AuditReport; code: number }> {
  const [command, ...args] = lab.commandLine(['snapshot', 'audit', name, '-j'])
  const { code, stdout, stderr } = await attempt(command, args, 120_000)
  if (stdout === '') throw new Error(`no report: ${stderr}`)
  return { report: JSON.parse(stdout), code }
}

const verdicts = (report: AuditReport) =>
  Object.fromEntries(report.checks.map(({ check, verdict }) => [check, verdict]))
const findings = (report: AuditReport) => report.checks.flatMap((check) => check.findings)

/** A snapshot's files as somebody with root on all hosts sees them; `restore` puts everything back. */
class Files {
  readonly manifest: Manifest
  readonly #lab: Lab
  readonly #before = new Map<string, Uint8Array>()

  constructor(lab: Lab) {
    this.#lab = lab
    this.manifest = JSON.parse(readFileSync(this.#manifestFile, 'utf8'))
  }

  part(host: string): LocalPart {
    return this.manifest.parts.find((part) => part.host === host)!
  }

  /** A host's file as somebody outside of the host finds it. */
  outside(host: string, file: FileReference): string {
    return this.#lab.host(host).outside(file.path)
  }

  /** `consistently`: the manifest and the host's part.json get the new digest. */
  replace(host: string, file: FileReference, content: Uint8Array, consistently: boolean): void {
    this.#write(this.outside(host, file), content)
    if (!consistently) return
    const digest = createHash('sha256').update(content).digest('hex')
    const partFile = this.#lab.state(host, 'snapshots', 'lab0', name, 'part.json')
    for (const where of [this.#manifestFile, partFile]) {
      // By path and digest: hosts name files alike, and those whose channels were empty have files that are alike, too.
      const reference = new RegExp(`("path": "${file.path}",\\s*"bytes": )\\d+(,\\s*"digest": ")${file.digest}`)
      const text = readFileSync(where, 'utf8')
      const from = where === partFile ? 0 : text.indexOf(`"host": "${host}"`)
      const changed = text.slice(0, from) + text.slice(from).replace(reference, `$1${content.length}$2${digest}`)
      if (changed === text) throw new Error(`${where} does not name ${file.path}`)
      this.#write(where, Buffer.from(changed))
    }
  }

  restore(): void {
    for (const [path, content] of this.#before) writeFileSync(path, content)
    this.#before.clear()
  }

  #write(path: string, content: Uint8Array): void {
    if (!this.#before.has(path)) this.#before.set(path, readFileSync(path))
    writeFileSync(path, content)
  }

  get #manifestFile(): string {
    return join(this.#lab.store, 'lab0', name, 'manifest.json')
  }
}

t.test('audit of a real run', async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  await Promise.all(plan.hosts.map((host) => lab.startSwitch(host)))
  await lab.startCoordinator()
  await lab.startMachines()
  await sleep(2000)
  await lab.snapswitchJson<Manifest>(['snapshot', 'create', 'lab0', '--name', 'unrecorded'])
  let recording: Recording
  let files: Files
  // On a machine where guests get little time, little is sent in the fraction of a second that is recorded.
  for (let attempt = 1; ; attempt++) {
    name = `audited${attempt}`
    await lab.snapswitchJson<Manifest>(['snapshot', 'create', 'lab0', '--name', name, '--record'])
    files = new Files(lab)
    recording = takeApart(readFileSync(files.outside('a', files.part('a').events!)))
    if (plainDelivery(recording) >= 0 || attempt === 5) break
  }
  await lab.killMachines()
  const events = files.part('a').events as FileReference
  const delivered = plainDelivery(recording)
  t.ok(delivered >= 0, 'a frame was delivered while the recording ran')

  t.test('as it is', async (t) => {
    const { report, code } = await audit(lab)
    t.equal(report.verdict, 'consistent', JSON.stringify(findings(report)))
    t.equal(code, 0)
    t.ok(report.checks.every((check) => check.examined > 0 || check.check === 'channel state'))
    t.ok(report.hosts.every((host) => host.events > 0 && host.overflow === 0))
    const table = await attempt(lab.commandLine([])[0], lab.commandLine(['snapshot', 'audit', name]).slice(1))
    t.match(table.stdout, /^snapshot lab0\/audited\d, epoch \d: consistent\n/)
  })

  t.test('its frames, one by one', async (t) => {
    const show = async (...more: string[]) => {
      const [command, ...args] = lab.commandLine(['snapshot', 'show', name, '--frames', ...more])
      return attempt(command, args)
    }
    const listed = JSON.parse((await show('--json')).stdout) as SnapshotFrames
    const inChannel = files.manifest.parts.flatMap(({ host, channel }) =>
      readChannel(readFileSync(files.outside(host, channel))).map((frame) => ({ host, ...frame })),
    )
    t.same(
      listed.frames.filter(({ fate }) => fate !== 'held').map(({ port, fate, bytes }) => [port, fate, bytes]),
      inChannel.map(({ port, verdict, bytes }) => [port, verdict, bytes.length]),
    )
    const heldOf = (host: string) => {
      const { events } = takeApart(readFileSync(files.outside(host, files.part(host).events!)))
      return events.filter(({ kind }) => kind === Event.held).map(({ length }) => length)
    }
    const held = listed.frames.filter(({ fate }) => fate === 'held')
    t.same(
      held.map(({ bytes }) => bytes),
      [...heldOf('a'), ...heldOf('b')],
    )
    t.ok(listed.frames.every(({ summary }) => /^([0-9a-f]{2}:){5}[0-9a-f]{2} > .*, \d+ bytes$/.test(summary)))
    const { code, stdout } = await show()
    t.equal(code, 0)
    t.match(stdout, new RegExp(`^snapshot lab0/${name}: \\d+ in transit, \\d+ unread, ${held.length} held\n`))
    t.equal(stdout.split('\n').filter((line) => / > .* bytes$/.test(line)).length, listed.frames.length)
    t.comment(stdout)
    files.replace('a', files.part('a').channel, Buffer.from('damaged'), false)
    const damaged = await show()
    files.restore()
    t.equal(damaged.code, 1)
    t.match(damaged.stdout, /host a: frames are missing: [A-Z_]+: /)
  })

  t.test('its run is replayed, through its cut', async (t) => {
    const [command, ...args] = lab.commandLine(['snapshot', 'show', name])
    const shown = (await attempt(command, args)).stdout
    for (const host of plan.hosts) {
      const { run, runProblem } = files.part(host)
      t.equal(runProblem, undefined)
      t.match(shown, new RegExp(`^run on host ${host}, .*: snapswitch replay ${run!.path}$`, 'm'))
      const found = await replayed(files.outside(host, run!))
      t.match(found, { same: true, truncated: false, end: 'asked', gaps: [], restores: [] })
      t.match(found.cuts, [{ epoch: files.manifest.epoch }])
      t.ok(found.frames > 0, `${found.frames} frames`)
    }
  })

  t.test('made without a recording', async (t) => {
    const [command, ...args] = lab.commandLine(['snapshot', 'audit', 'unrecorded'])
    const { code, stderr } = await attempt(command, args)
    t.equal(code, 1)
    t.match(stderr, /error SNAPSHOT_NOT_RECORDED: .*\nwhat to do: .*--record/)
    const [show, ...shown] = lab.commandLine(['snapshot', 'show', 'unrecorded', '--frames', '--json'])
    const { frames, hosts } = JSON.parse((await attempt(show, shown)).stdout) as SnapshotFrames
    for (const { host, held, recorded } of hosts) {
      t.ok(recorded)
      const listed = frames.filter((frame) => frame.host === host && frame.fate === 'held')
      t.equal(listed.length, held, `${host} held ${held}`)
    }
  })

  t.test('a byte of a memory image', async (t) => {
    const { memory } = files.part('b').members[0]
    const { path } = memory
    const flip = () => {
      const image = openSync(files.outside('b', memory), 'r+')
      const byte = Buffer.alloc(1)
      readSync(image, byte, 0, 1, 1_000_000)
      writeSync(image, Buffer.of(byte[0] ^ 1), 0, 1, 1_000_000)
      closeSync(image)
    }
    flip()
    const { report, code } = await audit(lab)
    flip()
    t.equal(code, 1)
    t.match(verdicts(report), { files: 'violated', events: 'consistent', 'no orphan': 'consistent' })
    t.match(findings(report), [{ host: 'b', file: path }])
  })

  const changed = async (t: Test, content: Uint8Array, consistently: boolean, file = events): Promise<AuditReport> => {
    files.replace('a', file, content, consistently)
    try {
      const { report, code } = await audit(lab)
      t.equal(code, 1)
      t.equal(report.verdict, 'violated')
      return report
    } finally {
      files.restore()
    }
  }
  const { events: recorded } = recording
  const putBack = (change: Partial<Recording>) => putTogether({ ...recording, ...change })

  t.test('an event, and nothing else', async (t) => {
    const report = await changed(t, putBack({ events: without(recorded, new Set([delivered])) }), false)
    t.equal(verdicts(report).files, 'violated')
    t.match(findings(report), [{ host: 'a', file: events.path }])
  })

  t.test('a byte of the recording, the file’s digest made right', async (t) => {
    const content = new Uint8Array(readFileSync(files.outside('a', events)))
    const at = Buffer.from(content).indexOf(`snapswitch #${delivered} `) + 12
    content[at] ^= 1
    const report = await changed(t, content, true)
    t.match(verdicts(report), { files: 'consistent', events: 'violated' })
  })

  t.test('a word of the manifest, of part.json, of a definition', async (t) => {
    const edit = async (file: string, from: RegExp, to: string, what: RegExp) => {
      const before = readFileSync(file, 'utf8')
      t.match(before, from)
      writeFileSync(file, before.replace(from, to))
      try {
        const { report, code } = await audit(lab)
        t.same([code, verdicts(report).files], [1, 'violated'], `${file}: ${from}`)
        t.ok(
          findings(report).some((finding) => what.test(finding.what)),
          JSON.stringify(findings(report)),
        )
      } finally {
        writeFileSync(file, before)
      }
    }
    const kept = lab.state('a', 'snapshots', 'lab0', name)
    const manifest = join(lab.store, 'lab0', name, 'manifest.json')
    await edit(manifest, /"gatedAtUs": \d/, '"gatedAtUs": 9', /differ in members\[0\]\.gatedAtUs/)
    await edit(manifest, /"early": \d+\b(?![^}]*vm)/, '"early": 77', /figures\.early is not what the parts say/)
    await edit(join(kept, 'part.json'), /52:54:00:77:00:01/, '52:54:00:77:00:09', /differ in members\[0\]\.ports/)
    await edit(join(kept, 'vms', 'vm1', 'definition.json'), /"/, '"x', /definition\.json is damaged/)
  })

  t.test('a delivery taken out, all digests made right', async (t) => {
    const report = await changed(t, putBack({ events: without(recorded, new Set([delivered])) }), true)
    t.match(verdicts(report), { files: 'consistent', events: 'consistent', 'undisturbed run': 'violated' })
    const [finding] = findings(report)
    t.match(finding, { host: 'a', what: /never reached/ })
    t.type(finding.offset, 'number')
    t.match(finding.frame, /^[0-9a-f]{14}$/)
  })

  t.test('a color moved past the cut, all digests made right', async (t) => {
    const { cause } = recorded[delivered]
    const recolored = recorded.map((event, at) =>
      at === cause || event.cause === cause ? { ...event, color: recording.head.epoch } : event,
    )
    const report = await changed(t, putBack({ events: recolored }), true)
    t.equal(verdicts(report)['no orphan'], 'violated')
    t.ok(findings(report).some(({ what }) => /sent after its sender’s cut/.test(what)))
  })

  t.test('a frame that was sent before, in the channel state', async (t) => {
    const { channel } = files.part('a')
    const frames = readChannel(readFileSync(files.outside('a', channel)))
    const forged = {
      port: 'vm1',
      vm: 'vm1',
      color: 1,
      verdict: 'in-transit' as const,
      timeNs: 0n,
      vnetHeader: new Uint8Array(10),
      vlanTag: null,
      bytes: new Uint8Array(60).fill(7),
    }
    const report = await changed(t, writeChannel([...frames, forged]), true, channel)
    t.match(verdicts(report), { files: 'consistent', 'channel state': 'violated' })
    // Whatever was in transit: one less must show, too.
    if (frames.length === 0) return
    const less = await changed(t, writeChannel(frames.slice(1)), true, channel)
    t.match(verdicts(less), { files: 'consistent', 'channel state': 'violated' })
  })
})
