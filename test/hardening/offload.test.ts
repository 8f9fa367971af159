// Offloads in all directions, with real guests: on one switch, over a colored trunk, and to the outside over a plain
// port; with a driver or device that takes whole GSO frames and unfinished checksums, and one that takes neither.
// Verdicts: the receiving kernels' own checksum errors, tcpdump's where frames must be finished, and that TCP has next
// to nothing to send again.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { addTap } from '../lab/namespaces.js'
import { end, type ProcessId } from '../lab/processes.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { initramfsWithIperf, OffloadGuest } from './offload-guest.js'

t.setTimeout(fileLimit(200_000))

const NUMBERS = { alpha: 1, beta: 2, bare: 3, gamma: 4, outOn: 11, outOff: 12 } as const
type Name = keyof typeof NUMBERS
const GUESTS = ['alpha', 'beta', 'bare', 'gamma'] as const
const OUTSIDE = ['outOn', 'outOff'] as const
const isGuest = (name: Name): name is (typeof GUESTS)[number] => GUESTS.includes(name as never)

/** `bare` is a driver without offloads, `gamma` is behind the trunk, `outOff` a device without offloads. */
const PAIRS: readonly (readonly [Name, Name])[] = [
  ['alpha', 'beta'],
  ['alpha', 'bare'],
  ['bare', 'alpha'],
  ['alpha', 'gamma'],
  ['bare', 'gamma'],
  ['gamma', 'bare'],
  ['alpha', 'outOn'],
  ['alpha', 'outOff'],
  ['outOff', 'alpha'],
  ['outOn', 'bare'],
]

interface Result {
  /** For the report only. */
  readonly mbits: number
  readonly retransmits: number
  readonly lostPercent: number
}

/** iperf3's report: JSON, in whatever the shell prints around it. */
function report(text: string): Result {
  const json = text.slice(text.indexOf('{\n'), text.lastIndexOf('}') + 1)
  const { end, error } = JSON.parse(json) as {
    error?: string
    end: {
      sum_received?: { bits_per_second: number }
      sum_sent?: { retransmits?: number }
      sum?: { bits_per_second: number; lost_percent: number }
    }
  }
  if (error !== undefined) throw new Error(error)
  return {
    mbits: Math.round((end.sum_received ?? end.sum!).bits_per_second / 1e6),
    retransmits: end.sum_sent?.retransmits ?? 0,
    lostPercent: end.sum?.lost_percent ?? 0,
  }
}

const RIGHT = /\(correct\)|udp sum ok/
const TRIES = 5

/**
 * Of some 4500 TCP segments few are sent again, of datagrams few are lost. A connection whose GSO frames get lost sends
 * each again, and alone, every time; a guest that gets no processor for a while loses frames in its own queues, now and
 * then.
 */
async function goesWell(t: Pick<Test, 'ok' | 'comment'>, what: string, measure: () => Promise<Result>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { mbits, retransmits, lostPercent } = await measure()
    const seen = `${what}: ${retransmits} retransmits, ${lostPercent} % lost`
    const isWell = retransmits < 100 && lostPercent < 5
    t.comment(`${seen}, ${mbits} Mbit/s`)
    if (isWell || attempt === TRIES) return void t.ok(isWell, seen)
  }
}

t.test('offloads', root, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-offload-'))
  const processes: ProcessId[] = []
  const world = World.for(t)
  const guests = new Map<Name, OffloadGuest>()
  t.teardown(async () => {
    for (const guest of guests.values()) await guest.destroy()
    await end(processes, 0)
    rmSync(directory, { recursive: true, force: true })
  })
  await world.host('a')
  await world.host('b')
  for (const label of OUTSIDE) {
    const offload = label === 'outOn' ? 'on' : 'off'
    await world.endpoint(label, 'a', { address: `10.66.0.${NUMBERS[label]}`, offload, ipv6: true })
    await world.ip(label, 'address', 'add', `fd66::${NUMBERS[label]}/64`, 'dev', 'eth0', 'nodad')
    await world.start(label, 'iperf3', '-s')
  }
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1508 })
  const hostOf = (name: Name) => (name === 'gamma' ? 'b' : 'a')
  for (const name of GUESTS) await addTap(world.name(hostOf(name)), name)
  const trunk = { trunk: { device: 'trunk', kind: 'trunk' } }
  const members = (...names: Name[]) => Object.fromEntries(names.map((name) => [name, { device: name, vm: name }]))
  const plain = Object.fromEntries(OUTSIDE.map((name) => [name, { device: name, kind: 'plain' }]))
  const a = await world.switch('a', {
    networks: { lab0: { ports: { ...members('alpha', 'beta', 'bare'), ...plain, ...trunk } } },
  })
  const b = await world.switch('b', { networks: { lab0: { ports: { ...members('gamma'), ...trunk } } } })
  const initramfs = await initramfsWithIperf(directory)
  await Promise.all(
    GUESTS.map(async (name) => {
      const offloads = name === 'bare' ? 'off' : 'on'
      const where = { directory, namespace: world.name(hostOf(name)), tap: name, initramfs }
      const spec = { name, number: NUMBERS[name], ...where, offloads } as const
      guests.set(name, await OffloadGuest.start(spec, (id) => processes.push(id)))
    }),
  )

  const on = (name: Name, line: string) =>
    isGuest(name) ? guests.get(name)!.do(line, 30_000) : world.try(name, 'sh', '-c', line).then(({ stdout }) => stdout)
  const iperf = async (from: Name, address: string, options: string) =>
    report(await on(from, `iperf3 -J -c ${address} ${options}`))

  for (const [from, to] of PAIRS) {
    await t.test(`${from} to ${to}`, async (t) => {
      const number = NUMBERS[to]
      // Where nothing is offloaded, each frame must be finished when it arrives.
      const filter = `-c 300 (tcp or udp) and dst port 5201`.split(' ')
      const capture = to === 'outOff' ? await world.capture(to, 'eth0', ...filter) : undefined
      for (const address of [`10.66.0.${number}`, `fd66::${number}`]) {
        await goesWell(t, `TCP to ${address}`, () => iperf(from, address, '-n 6M'))
        await goesWell(t, `UDP to ${address}`, () => iperf(from, address, '-u -b 8M -l 1300 -n 300K'))
      }
      // Not every host's kernel has VLAN devices; the guests' has.
      if (isGuest(from) && isGuest(to)) {
        await goesWell(t, 'TCP in a VLAN', () => iperf(from, `10.67.0.${number}`, '-n 4M'))
      }
      if (capture === undefined) return
      await capture.says(RIGHT, 20)
      const lines = (await capture.stop()).split('\n')
      t.same(
        lines.filter((line) => /incorrect|bad (udp )?cksum|wrong/i.test(line)),
        [],
        'no wrong checksum',
      )
      const correct = lines.filter((line) => RIGHT.test(line)).length
      t.ok(correct >= 20, `${correct} right ones`)
    })
  }

  await t.test('no kernel has seen a wrong checksum, and no frame was too long for its port', async (t) => {
    for (const name of Object.keys(NUMBERS) as Name[]) {
      const text = await on(name, 'cat /proc/net/snmp')
      for (const protocol of ['Tcp', 'Udp']) {
        const [head, values] = text.split('\n').filter((line) => line.startsWith(`${protocol}: `))
        const at = head.split(' ').indexOf('InCsumErrors')
        t.equal(values.split(' ')[at], '0', `${name}: ${protocol} checksum errors`)
      }
      const six = await on(name, 'cat /proc/net/snmp6')
      t.match(six, /Udp6InCsumErrors\s+0\s/, `${name}: UDP over IPv6`)
    }
    const ports = (
      await Promise.all([a, b].map((daemon) => daemon.client.ports({ deadlineMs: patience(5000) })))
    ).flat()
    for (const { name, counters } of ports) {
      const { 'too-long': tooLong, 'tx-error': failed, truncated } = counters.drops
      t.same({ tooLong, failed, truncated }, { tooLong: undefined, failed: undefined, truncated: undefined }, name)
    }
    const whole = ports.find(({ name }) => name === 'alpha')!.counters.rxGso
    t.ok(whole > 0, `${whole} GSO frames stayed whole`)
    t.ok(ports.find(({ name }) => name === 'trunk')!.counters.txGso > 0, 'on the trunk, too')
  })
  t.ok(a.running && b.running, 'both daemons run on')
})
