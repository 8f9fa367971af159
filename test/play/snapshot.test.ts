// A snapshot, its audit and a restore while a capture is played into the ports of their machines: what is played in is
// colored, held, recorded and fenced as what machines send. The machines are driven by a command, and have no guests:
// what they would send is played.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { AuditReport, Manifest, SnapshotFrames } from '../../src/api/schemas.js'
import { until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit, patience } from '../patience.js'
import { replayed } from '../recording/processes.js'
import { root, World } from '../switch/world.js'
import { captureFile, numbered, startPlay } from './player.js'

t.setTimeout(fileLimit(240_000))

const VMS = ['web', 'db']
/** The play must outlast a snapshot, which takes longer on a busy machine. */
const INTERVAL_MS = Math.min(6, 2 * patience(1))

/** `web` takes longer to stop: what it sends meanwhile is in transit to `db`, which has made its cut. */
function command(world: World): string {
  const path = join(world.directory, 'drive')
  const text = `#!/bin/sh
vm=$2
file=${world.directory}/$vm.state
start() {
  # Ahead of others: one that does not get to read what it was sent before its cut is prepared loses that.
  setsid nice -n -15 ${process.execPath} ${join(import.meta.dirname, 'machine.js')} "$vm" "$file.came" "$file.pid" </dev/null >/dev/null 2>&1 &
  until [ -e "$file.pid" ]; do sleep 0.05; done
}
case $1 in
inspect)
  state=$(cat "$file" 2>/dev/null || echo off)
  [ "$state" = off ] && { echo '{ "state": "off" }'; exit; }
  loaded=$(cat "$file.directory" 2>/dev/null)
  echo '{ "state": "'"$state"'", "memoryBytes": 4096, "nics": [{ "device": "'"$2"'", "mac": null }],
    "directory": '"\${loaded:-null}"' }' ;;
pause) [ "$2" = web ] && sleep 0.5; echo paused >"$file" ;;
resume) echo running >"$file" ;;
capture) sleep 0.2; echo memory >"$SNAPSWITCH_MEMORY"; echo '{ "files": [] }' ;;
load) echo "\\"$SNAPSWITCH_DIRECTORY\\"" >"$file.directory"; start; echo paused >"$file" ;;
start) start; echo running >"$file" ;;
destroy) [ -e "$file.pid" ] && kill "$(cat "$file.pid")"; rm -f "$file" "$file.pid" ;;
esac
`
  writeFileSync(path, text, { mode: 0o755 })
  return path
}

t.test('a play goes on through a snapshot and a restore', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  const exec = { command: command(world) }
  t.teardown(() => Promise.all(VMS.map((vm) => world.try('host', exec.command, 'destroy', vm))))
  for (const vm of VMS) {
    await world.ip('host', 'tuntap', 'add', 'dev', vm, 'mode', 'tap', 'vnet_hdr')
    await world.in('host', exec.command, 'start', vm)
  }
  const daemon = await world.switch('host', {
    coordinator: 'embedded',
    networks: { lab0: { ports: { web: { device: 'web', vm: 'web' }, db: { device: 'db', vm: 'db' } } } },
    machines: { web: { exec }, db: { exec } },
  })
  const { coordinator } = await until('the coordinator', 20_000, async () => {
    const status = await daemon.client.status({ deadlineMs: patience(5000) })
    return status.coordinator == null ? undefined : status
  })
  const socket = ['--socket', world.socket('host')]
  const snapshot = async <T>(...args: string[]): Promise<T> => {
    const all = [program(), 'snapshot', ...args, '--json', '--socket', coordinator!.socket!]
    const { code, stdout, stderr } = await world.try('host', process.execPath, ...all)
    if (code !== 0) throw new Error(`${args.join(' ')}: ${stderr}`)
    return JSON.parse(stdout) as T
  }
  /** So many frames, some seconds of them; `first`: the number of the first one. */
  const captureOf = (name: string, count: number, first: number) =>
    captureFile(
      world,
      name,
      Array.from({ length: count }, (_, i) => ({ bytes: numbered(first + i), from: 'web', atMs: i * INTERVAL_MS })),
    )
  const playing = async (path: string, ...more: string[]) => {
    const before = (await daemon.port('web')).counters.rxFrames
    const running = await startPlay(world, 'host', path, '--map', 'all=port:web', '-j', ...more, ...socket)
    await until('the first frames', 10_000, async () =>
      (await daemon.port('web')).counters.rxFrames > before + 50 ? true : undefined,
    )
    return running
  }
  const PLAYED = 4000

  const path = captureOf('first.pcapng', PLAYED, 0)
  const first = await playing(path, '--expect', path, '--at', 'all=port:db', '--settle', '5s')
  const manifest = await snapshot<Manifest>('create', 'lab0', '--name', 's', '--record')

  await t.test('the snapshot has what was played, and nothing is lost or doubled', async (t) => {
    t.equal(manifest.state, 'complete')
    const [web, db] = VMS.map((vm) => manifest.parts[0]!.members.find((member) => member.vm === vm)!)
    t.ok(db!.recorded > 50, `${db!.recorded} frames in transit`)
    t.ok(db!.held > 10, `${db!.held} frames held`)
    t.equal(web!.recorded, 0)
    t.equal(manifest.figures?.lost, 0)
    await first.closed
    const { stdout } = first
    t.equal(first.child.exitCode, 0, stdout + first.stderr)
    t.match(JSON.parse(stdout), {
      frames: PLAYED,
      expected: [{ expected: PLAYED, found: PLAYED, lost: 0, doubled: 0, reordered: 0, changed: 0 }],
    })
    const audit = await snapshot<AuditReport>('audit', 's')
    t.equal(audit.verdict, 'consistent', JSON.stringify(audit.checks))
    const { frames } = await snapshot<SnapshotFrames>('show', 's', '--frames')
    const listed = (fate: string) => frames.filter((frame) => frame.fate === fate && frame.port === 'db').length
    t.same([listed('in-transit'), listed('held')], [db!.recorded, db!.held])
    t.ok(frames.every(({ summary }) => summary.startsWith('02:00:00:00:00:01 > 02:00:00:00:00:02, ')))
    const run = await replayed(manifest.parts[0]!.run!.path)
    t.match(run, { same: true, end: 'asked', cuts: [{ epoch: manifest.epoch }] })
    t.ok(run.frames > db!.recorded)
  })

  await t.test(
    'a restore: what was in transit comes once, and of the play only what was fenced is missing',
    async (t) => {
      const FIRST = 20_000
      const came = () => readFileSync(join(world.directory, 'db.state.came'))
      const already = came().length / 2
      const fenced = async () => {
        const ports = await Promise.all(VMS.map((name) => daemon.port(name)))
        return ports.reduce((sum, { counters }) => sum + (counters.drops.fenced ?? 0), 0)
      }
      const before = await fenced()
      const second = await playing(captureOf('second.pcapng', PLAYED, FIRST))
      await snapshot('restore', 's', '--replace')
      await second.closed
      t.equal(second.child.exitCode, 0, second.stderr)
      t.match(JSON.parse(second.stdout), { frames: PLAYED, switch: { frames: PLAYED, refused: 0 } })
      const numbersNow = () => {
        const all = came()
        return Array.from({ length: all.length / 2 - already }, (_, i) => all.readUInt16BE(2 * (already + i)))
      }
      await until('the last frame', 20_000, () => numbersNow().includes(FIRST + PLAYED - 1) || undefined)
      const numbers = numbersNow()
      t.equal(new Set(numbers).size, numbers.length, 'nothing comes twice')
      const inTransit = numbers.filter((number) => number < FIRST)
      const { recorded } = manifest.parts[0]!.members.find(({ vm }) => vm === 'db')!
      t.equal(inTransit.length, recorded)
      t.equal(numbers.length - inTransit.length + (await fenced()) - before, PLAYED, 'all others are there')
      t.same(
        numbers.slice(-10),
        Array.from({ length: 10 }, (_, i) => FIRST + PLAYED - 10 + i),
        'up to the last one',
      )
    },
  )
})
