// A fault that shows at times, from one command: three guests run until it shows while the switch records; the
// recording is replayed, stepped to the frame that did it, and played into live guests, where it shows again at that
// frame.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { piecesOf, Replay } from '../../switch/recording/library.js'
import { attempt, until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import { end } from '../lab/processes.js'
import type { Check } from './checks.js'
import type { Progress } from './progress.js'
import { tell } from './story.js'

const FAULT_MS = 60_000
const CALL_MS = 60_000
const [buyer, bank, shop] = ['10.82.0.1', '10.82.0.2', '10.82.0.3'] as const
const PORT = 5000
const plan: LabPlan = {
  network: 'lab0',
  hosts: ['a'],
  memoryMiB: 128,
  machines: [
    { name: 'shop', host: 'a', job: { ip: `${shop}/24`, orders: `shop@${PORT}` } },
    { name: 'bank', host: 'a', job: { ip: `${bank}/24`, orders: `bank@${PORT}/${shop}:${PORT}` } },
    { name: 'buyer', host: 'a', job: { ip: `${buyer}/24`, orders: `buyer@${bank}:${PORT}/${shop}:${PORT}` } },
  ],
}

const must = (phase: string, what: string, ok: boolean, seen: string): Check => ({
  phase,
  kind: 'must',
  what,
  ok,
  seen,
})

/** The number of the order that the shop has dropped. */
function dropped(lab: Lab): Promise<number> {
  return until('an order to be dropped', FAULT_MS, () => {
    const orders = lab.machine('shop').console.state?.orders
    return orders !== undefined && orders.dropped >= 0 ? orders.dropped : undefined
  })
}

interface Culprit {
  /** Numbers of the frames: the payment's news, and the order that came after it. */
  readonly frame: number
  readonly order: number
  /** How much later the order came. */
  readonly lateUs: number
}

/** In the recording: the bank's word of that payment, and when the order came. */
function findCulprit(file: string, number: number): Culprit | null {
  const found = new Map<string, { frame: number; now: number }>()
  const words = [`PAID ${number}`, `ORDER ${number}`]
  const replay: Replay = new Replay(piecesOf(file), {
    coming: (input, frame) => {
      if (frame === null) return
      const text = Buffer.from(frame.bytes.subarray(frame.start, frame.start + frame.length)).toString('latin1')
      for (const word of words) {
        if (text.slice(42).startsWith(word) && !/^\d/.test(text.slice(42 + word.length)))
          found.set(word, { frame: input.frame, now: input.now })
      }
    },
  })
  replay.run()
  const [paid, order] = words.map((word) => found.get(word))
  if (paid === undefined || order === undefined) return null
  return { frame: paid.frame, order: order.frame, lateUs: (order.now - paid.now) * 1000 }
}

async function command(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return attempt(program(), [...args], CALL_MS)
}

async function demonstrate(lab: Lab, progress: Progress): Promise<Check[]> {
  const socket = lab.switchSocket('a')
  const file = join(lab.directory, 'run.pcapng')
  progress.step('Starting a switch, and recording the network   (snapswitch record lab0 -w run.pcapng)')
  await lab.startSwitch('a')
  const recording = spawn(program(), ['record', '--socket', socket, 'lab0', '-w', file])
  const ended = once(recording, 'close') as Promise<[number | null]>
  let said = ''
  recording.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  await until('the recording', CALL_MS, () => said.includes('recording network') || undefined)
  progress.step('Booting three guests: a shop, a bank, a buyer. The shop has a fault that shows at times')
  for (const { name } of plan.machines) await lab.startMachine(name)
  const number = await dropped(lab)
  const served = lab.machine('shop').console.state!.orders!.served
  progress.note(`the shop has dropped order ${number}; ${served} others went well`)
  recording.kill('SIGINT')
  const [code] = await ended
  const checks = [must('record', 'the recording is whole', code === 0, said.trim().split('\n').at(-1) ?? '')]

  progress.step('snapswitch replay run.pcapng')
  const replayed = await command(['replay', file])
  for (const line of replayed.stdout.trim().split('\n')) progress.note(line)
  checks.push(must('replay', 'the same comes out', replayed.code === 0, `${statSync(file).size} bytes`))
  const culprit = findCulprit(file, number)
  const seen =
    culprit === null ? 'not found' : `frame ${culprit.frame}, ${Math.round(culprit.lateUs)} us before its order`
  checks.push(must('replay', 'the frame that did it', culprit !== null && culprit.order > culprit.frame, seen))
  if (culprit === null) return checks
  progress.step(`snapswitch replay run.pcapng --step --from frame:${culprit.frame} --until frame:${culprit.order}`)
  const range = ['--from', `frame:${culprit.frame}`, '--until', `frame:${culprit.order}`]
  const steps = await command(['replay', file, '--step', ...range])
  for (const line of steps.stdout.trim().split('\n').slice(0, 12)) progress.note(line)
  const isTold = steps.stdout.includes(`frame ${culprit.frame} at bank`) && steps.stdout.includes('leaves by shop')
  checks.push(must('replay', 'stepped to it', isTold, isTold ? 'from the bank, to the shop' : steps.stderr.trim()))

  progress.step('A new shop, and nobody else; snapswitch play run.pcapng, up to that frame')
  await end(
    plan.machines.map(({ name }) => lab.machine(name).guest!.id),
    0,
  )
  lab.restartConsoles()
  await lab.startMachine('shop')
  // What the guests have left to their devices to be filled in.
  const maps = ['--checksums', '-m', 'interface:bank=port:bank', '-m', 'interface:buyer=port:buyer']
  const played = await command(['play', '--socket', socket, file, ...maps])
  for (const line of (played.code === 0 ? played.stdout : played.stderr).trim().split('\n')) progress.note(line)
  const again = await dropped(lab).catch(() => -1)
  const sameServed = lab.machine('shop').console.state?.orders?.served
  progress.note(`the new shop has dropped order ${again}`)
  checks.push(must('play', 'played into the switch', played.code === 0, played.stderr.trim().split('\n')[0] ?? ''))
  checks.push(
    must('play', 'it fails again, at the same frame', again === number, `order ${again}, ${sameServed} served`),
  )
  return checks
}

tell({
  building: 'Building a host (network namespace) with TAPs for three guests',
  build: () => Lab.build(plan),
  demonstrate,
  lastWords: (lab, lines) => lab.lastWords(lines),
  destroy: (lab) => lab.destroy(),
})
