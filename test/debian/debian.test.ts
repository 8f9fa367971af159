// snapswitch where users run it: a Debian 12 of its own, with its kernel (6.1, older than the one these tests run on
// mostly) and systemd as PID 1. One machine for everything. What is no such host's business is tested elsewhere; here
// is what that kernel, its modules and the units do differently. README.md.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root } from '../switch/world.js'
import { debianDisk, Machine, productDisk, REPOSITORY, Unfit } from './machine.js'

// The disk is made once, in some minutes. All of it takes 35 to 60 on two processors.
t.setTimeout(fileLimit(5_400_000))

const WITHIN = `${REPOSITORY}/test/debian/within`
/** How much slower an emulated machine is than this one. */
const EMULATED = 12

t.test('Debian 12', root, async (t) => {
  let machine: Machine
  try {
    machine = await Machine.boot(t, await debianDisk(), await productDisk(t))
  } catch (error) {
    if (!(error instanceof Unfit)) throw error
    t.pass('booted', { skip: error.message })
    return
  }

  await t.test('doctor', async (t) => {
    const stdout = await machine.run('snapswitch doctor', 240_000)
    t.match(stdout, /This machine can run snapswitch\./)
    t.match(await machine.run('uname -r; node --version'), /^6\.1\..*\nv2\d/)
  })
  await t.test('UDP segments that their sender leaves to be cut', (t) => segments(t, machine))
  await t.test('SCTP that its sender leaves to be finished and cut', (t) => sctp(t, machine))
  await t.test('tests of what that kernel does otherwise', (t) => file(t, machine, 'debian/kernel'))
  for (const name of FAST_PATH)
    await t.test(`the fast path: ${name}`, (t) => file(t, machine, `fast-path/${name}.test`))
  await t.test('the units', (t) => units(t, machine))
})

/** As through a bridge. That kernel can write no virtio-net header for them. */
async function segments(t: Test, machine: Machine): Promise<void> {
  const [bridge, ours] = [
    await machine.run(`${WITHIN}/segments.sh bridge`, 120_000),
    await machine.run(`${WITHIN}/segments.sh switch`, 240_000),
  ]
  t.equal(ours, bridge)
  t.match(bridge, /^(.*: 992 right, 0 wrong, 32 of 17, 240 of 333, 240 of 700, 240 of 1000, 240 of 1200\n){4}$/)
  const ports = JSON.parse(await machine.run('cat /run/results/segments-ports.json'))
  for (const { name, counters } of ports) {
    t.same(counters.drops, {}, `${name}: nothing dropped`)
    t.equal(counters.kernelDrops, 0, name)
  }
}

/** As through a bridge; what a device without offloads gets, and all that leaves the switch, is whole. */
async function sctp(t: Test, machine: Machine): Promise<void> {
  const lines: Record<string, string[]> = {}
  for (const kind of ['bridge', 'switch']) {
    lines[kind] = (await machine.run(`${WITHIN}/sctp.sh ${kind}`, 300_000)).trim().split('\n')
    t.comment(lines[kind].join('; '))
  }
  t.same(lines.switch, lines.bridge)
  t.ok(lines.bridge!.length === 10 && lines.bridge!.every((line) => /: 36 right, 0 wrong$/.test(line)))
  const ports = JSON.parse(await machine.run('cat /run/results/sctp-ports.json'))
  for (const { name, counters } of ports) t.same(counters.drops, {}, `${name}: nothing dropped`)
  for (const kind of ['bridge', 'switch']) {
    const names = lines[kind]!.map((line) => line.split(':')[0]!)
    for (const name of names.filter((name) => kind === 'switch' || name.startsWith('bare'))) {
      const { sctp, bad, longest } = await packets(machine, `sctp-${kind}-${name}`)
      t.ok(sctp > 40, `${kind}, ${name}: ${sctp} packets`)
      t.equal(bad, 0, `${kind}, ${name}: none with a wrong checksum`)
      t.ok(longest <= 1518, `${kind}, ${name}: ${longest} bytes at most`)
    }
  }
}

/** What tshark makes of a capture in the machine. */
async function packets(machine: Machine, name: string): Promise<{ sctp: number; bad: number; longest: number }> {
  const file = join(machine.directory, `${name}.pcap`)
  writeFileSync(file, Buffer.from(await machine.run(`base64 -w0 /run/results/${name}.pcap`), 'base64'))
  const fields = ['-T', 'fields', '-e', 'frame.len', '-e', 'sctp.checksum.status']
  const options = ['-o', 'sctp.checksum:CRC 32c', '-d', 'udp.port==9899,sctp', '-Y', 'sctp']
  const rows = (await run('tshark', ['-r', file, ...options, ...fields], 60_000)).trim().split('\n')
  const status = rows.map((row) => row.split('\t')[1])
  return {
    sctp: rows.length,
    bad: status.filter((value) => value !== '1').length,
    longest: Math.max(...rows.map((row) => Number(row.split('\t')[0]))),
  }
}

/** Its verifier and hooks may do otherwise. Each makes devices of the same names, in a namespace of its own. */
const FAST_PATH = ['needs', 'flips', 'snapshots', 'others', 'trunk', 'vlans', 'fast-path']

/** A test file of the repository, in the machine. */
async function file(t: Test, machine: Machine, path: string): Promise<void> {
  const { code, stdout, stderr } = await machine.attempt(
    `cd ${REPOSITORY} && export FLIPS=40 SNAPSWITCH_TEST_SLOWNESS=${Math.ceil(EMULATED * patience(1))} && ` +
      `node --enable-source-maps dist/test/${path}.js`,
    900_000,
  )
  for (const [line] of stdout.matchAll(/^ *# (?!Subtest|time|\{).*$/gm)) t.comment(line.trim())
  const [plan] = stdout.match(/^1\.\.\d+$/m) ?? []
  const outcomes = stdout.match(/^(?:not )?ok .*$/gm) ?? []
  t.equal(plan, `1..${outcomes.length}`, 'all of them ran')
  for (const outcome of outcomes) t.match(outcome, /^ok/, outcome)
  t.same(stdout.match(/# SKIP.*$/gm) ?? [], [], 'none was skipped')
  if (!t.equal(code, 0)) t.comment(`${stdout.slice(-6000)}\n${stderr.slice(-3000)}`)
}

/** The daemons under systemd, and a reboot. */
async function units(t: Test, machine: Machine): Promise<void> {
  const steps = async (stage: string) => (await machine.run(`${WITHIN}/units.sh ${stage}`, 600_000)).trim().split('\n')
  t.same(await steps('install'), [
    'a bridge',
    'installed: forwards',
    'verified',
    'killed: back, forwards',
    'killed: TCP goes on',
    'coordinator: switch lab:',
    'coordinator: back',
    'stopped: success 0, the kernel forwards',
    'started: forwards',
    'no circle',
  ])
  t.comment(await machine.run('cat /run/results/security /run/results/outage'))
  t.same(await steps('features'), [
    'machines: found',
    'snapshot br0/s1: complete',
    'machine: loaded by the daemon',
    'restarted: the machine goes on',
    'killed: the machine goes on',
    'captured',
    'mirrored',
    'nothing was denied',
  ])
  t.same(await steps('upgrade'), [
    'upgraded: the former daemon goes on',
    'snapshot br0/s2: complete',
    'restarted: the new one',
  ])
  await machine.reboot()
  t.same(await steps('again'), [
    'booted: forwards',
    'booted: 0 restarts, active coordinator',
    'booted: none has failed',
    'booted: no circle',
  ])
  t.same(await steps('end'), ['uninstalled', 'the kernel forwards'])
}
