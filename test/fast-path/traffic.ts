// Threads that stand for what is behind the ports of a rig (rig.ts): one sends numbered frames from each end to each
// other, a few at a time; one reads them, and says what was lost, doubled or overtaken.

import { parentPort, workerData } from 'node:worker_threads'
import { libc } from '../../src/linux/libc.js'
import { setReceiveBuffer } from './rig.js'

export interface Traffic {
  readonly role: 'send' | 'read'
  /** Descriptors of the far ends: packet sockets with virtio-net headers, or TAPs'. */
  readonly ends: readonly number[]
  readonly isTap: boolean
  /** Words: negative, do not begin yet; more than 0, stop sending; who is ready; how many came. */
  readonly words: SharedArrayBuffer
  readonly burst: number
  readonly pauseMs: number
}

export const Word = { STOP: 0, READY: 1, RECEIVED: 2, PAUSE: 3 } as const

/** What became of the frames of one pair. */
export interface Fate {
  readonly received: number
  readonly doubled: number
  readonly overtaken: number
  readonly highest: number
}

const VNET = 10
const WINDOW = 256
const STALL_MS = 1000
const NUMBER_AT = VNET + 14
const MSG_DONTWAIT = 0x40

export const addressOf = (end: number) => [2, 0, 0, 0, 0, 0x10 + end]

export function numbered(from: number, to: number, length = 60): Uint8Array {
  const frame = new Uint8Array(VNET + length)
  frame.set([...addressOf(to), ...addressOf(from), 0x88, 0xb6], VNET)
  return frame
}

function sendAll({ ends, isTap, words, burst, pauseMs }: Traffic): number[][] {
  const state = new Int32Array(words)
  const { send, write } = libc()
  const frames = ends.map((_, from) => ends.map((_, to) => numbered(from, to)))
  const sent = ends.map(() => ends.map(() => 0))
  let total = 0
  Atomics.add(state, Word.READY, 1)
  Atomics.wait(state, Word.STOP, -1)
  while (Atomics.load(state, Word.STOP) === 0) {
    // Nothing on the way is to overflow. What is lost is waited for no longer than this.
    const until = performance.now() + STALL_MS
    while (total - Atomics.load(state, Word.RECEIVED) > WINDOW && performance.now() < until)
      Atomics.wait(state, Word.PAUSE, 0, 0.05)
    for (const [from, fd] of ends.entries()) {
      for (let i = 0; i < burst; i++) {
        for (const to of ends.keys()) {
          if (to === from) continue
          const frame = frames[from]![to]!
          new DataView(frame.buffer).setUint32(NUMBER_AT, sent[from]![to]!)
          const done = isTap ? write(fd, frame, frame.length) : send(fd, frame, frame.length, 0)
          if (done !== frame.length) continue
          sent[from]![to]!++
          total++
        }
      }
    }
    if (pauseMs > 0) Atomics.wait(state, Word.STOP, 0, pauseMs)
  }
  return sent
}

function readAll({ ends, isTap, words }: Traffic): Fate[][] {
  const state = new Int32Array(words)
  const { recv, read } = libc()
  const buffer = new Uint8Array(2048)
  const view = new DataView(buffer.buffer)
  const fates = ends.map(() => ends.map(() => ({ received: 0, doubled: 0, overtaken: 0, highest: -1 })))
  const seen = ends.map(() => ends.map(() => new Uint8Array(64 * 1024 * 1024)))
  let idle = 0
  Atomics.add(state, Word.READY, 1)
  // All have stopped, and nothing has come for long.
  while (Atomics.load(state, Word.STOP) < 2 || idle < 200) {
    let came = 0
    for (const [to, fd] of ends.entries()) {
      for (let i = 0; i < 64; i++) {
        const length = isTap ? read(fd, buffer, buffer.length) : recv(fd, buffer, buffer.length, MSG_DONTWAIT)
        if (length < 0) break
        if (length < NUMBER_AT + 4 || buffer[VNET + 12] !== 0x88 || buffer[VNET + 13] !== 0xb6) continue
        if (buffer[VNET + 5] !== 0x10 + to) continue
        came++
        const from = buffer[VNET + 11]! - 0x10
        const number = view.getUint32(NUMBER_AT)
        const fate = fates[from]![to]!
        fate.received++
        if (seen[from]![to]![number] === 1) fate.doubled++
        else if (number < fate.highest) fate.overtaken++
        seen[from]![to]![number] = 1
        fate.highest = Math.max(fate.highest, number)
      }
    }
    Atomics.add(state, Word.RECEIVED, came)
    idle = came > 0 ? 0 : idle + 1
    if (came === 0) Atomics.wait(state, Word.PAUSE, 0, 0.05)
    if (came === 0 && Atomics.load(state, Word.STOP) >= 2) Atomics.wait(state, Word.STOP, 2, 5)
  }
  return fates
}

if (parentPort !== null) {
  const traffic = workerData as Traffic
  if (!traffic.isTap) for (const fd of traffic.ends) setReceiveBuffer(fd)
  parentPort.postMessage(traffic.role === 'send' ? sendAll(traffic) : readAll(traffic))
}
