// The guest's program run on this machine over loopback, with the test as its network and as its ring neighbour: it
// must report every kind of damage, each under its own name, and count exactly.

import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { bitsOf, hopResult } from '../../guest/expected.js'
import { until } from '../lab/command.js'
import { GuestConsole } from '../lab/console.js'
import { guestImage } from '../lab/image.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(60_000))

// Not /tmp: a memory file system may refuse O_DIRECT.
const scratch = (test: Test): string => {
  const directory = mkdtempSync('/var/tmp/snapswitch-program-')
  test.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

async function startProgram(test: Test, directory: string, name: string, words: string): Promise<GuestConsole> {
  const file = join(directory, name)
  writeFileSync(file, '')
  const child: ChildProcess = spawn((await guestImage()).program, [file, words], { stdio: 'ignore' })
  test.teardown(() => child.kill('SIGKILL'))
  return new GuestConsole(file)
}

// --- streams ---------------------------------------------------------------------------------------------------------

const kindData = 3

t.test('lost, doubled, reordered and corrupt datagrams are counted exactly', async (t) => {
  const directory = scratch(t)
  const [sender, relayAddress, receiver] = ['127.77.1.1', '127.77.1.2', '127.77.1.3']
  const relay = createSocket('udp4')
  t.teardown(() => relay.close())
  await new Promise<void>((resolve) => relay.bind(5001, relayAddress, resolve))
  let backPort = 0
  let kept: Buffer | undefined
  relay.on('message', (bytes, from) => {
    if (from.address === receiver) return relay.send(bytes, backPort, sender)
    backPort = from.port
    const forward = (datagram: Buffer) => relay.send(datagram, 5001, receiver)
    const number = bytes.readUInt32LE(4) === kindData ? Number(bytes.readBigUInt64LE(16)) : -1
    if (number === 10 || number === 11) return
    if (number === 20) forward(bytes)
    if (number === 40) bytes[bytes.length - 1]! ^= 0x10
    if (number === 30) {
      kept = Buffer.from(bytes)
      return
    }
    forward(bytes)
    if (number === 33) forward(kept!)
  })
  const to = await startProgram(t, directory, 'receiver', `lab.ip=${receiver} lab.receive=7@5001`)
  const from = await startProgram(t, directory, 'sender', `lab.ip=${sender} lab.send=7@${relayAddress}:5001/1000/200`)
  const received = (await to.done(20_000)).receive[0]!
  const sent = (await from.done(20_000)).send[0]!
  t.match(received, { stream: 7, received: 197, lost: 3, doubled: 1, reordered: 1, corrupt: 1, stale: 0, overruns: 0 })
  t.match(sent, { sent: 200, errors: 0, acknowledged: true, peerReceived: 197 })
})

t.test('the last datagrams lost are lost too', async (t) => {
  // They leave no gap behind them: only the total in END tells.
  const directory = scratch(t)
  const [sender, relayAddress, receiver] = ['127.77.1.4', '127.77.1.5', '127.77.1.6']
  const relay = createSocket('udp4')
  t.teardown(() => relay.close())
  await new Promise<void>((resolve) => relay.bind(5001, relayAddress, resolve))
  let backPort = 0
  relay.on('message', (bytes, from) => {
    if (from.address === receiver) return relay.send(bytes, backPort, sender)
    backPort = from.port
    if (bytes.readUInt32LE(4) !== kindData || bytes.readBigUInt64LE(16) < 95n) relay.send(bytes, 5001, receiver)
  })
  const to = await startProgram(t, directory, 'receiver', `lab.ip=${receiver} lab.receive=1@5001`)
  await startProgram(t, directory, 'sender', `lab.ip=${sender} lab.send=1@${relayAddress}:5001/1000/100`)
  t.match((await to.done(20_000)).receive[0], { received: 95, lost: 5, doubled: 0, reordered: 0 })
})

// --- the ring --------------------------------------------------------------------------------------------------------

interface Token {
  readonly number: number
  readonly value: number
}

function fnv1a(bytes: Buffer): bigint {
  let hash = 0xcbf29ce484222325n
  for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  return hash
}

function encode(token: Token, node: number): Buffer {
  const bytes = Buffer.alloc(32)
  bytes.writeUInt32LE(0x52494e47, 0)
  bytes.writeUInt32LE(node, 4)
  bytes.writeBigUInt64LE(BigInt(token.number), 8)
  bytes.writeDoubleLE(token.value, 16)
  bytes.writeBigUInt64LE(fnv1a(bytes.subarray(0, 24)), 24)
  return bytes
}

/** The test as node 1 of a ring of two; the program is node 0. */
class Neighbour {
  readonly tokens: Token[] = []
  #server: Server
  #from: Socket | undefined
  #to: Socket | undefined
  #taken = 0

  constructor(here: string) {
    let rest = Buffer.alloc(0)
    this.#server = createServer((socket) => {
      this.#from = socket
      socket
        .on('error', () => undefined)
        .on('data', (bytes) => {
          rest = Buffer.concat([rest, bytes])
          for (; rest.length >= 32; rest = rest.subarray(32)) {
            this.tokens.push({ number: Number(rest.readBigUInt64LE(8)), value: rest.readDoubleLE(16) })
          }
        })
    }).listen(7000, here)
  }

  async connect(there: string): Promise<void> {
    this.#to = await until('the program’s ring port', 10_000, () => {
      return new Promise<Socket | undefined>((resolve) => {
        const socket = connect(7000, there)
        socket.once('connect', () => resolve(socket)).on('error', () => resolve(undefined))
      })
    })
    this.#to.setNoDelay(true)
  }

  /** The next token that the program passes on. */
  take(): Promise<Token> {
    const index = this.#taken++
    return until(`token ${index}`, 10_000, () => this.tokens[index], 2)
  }

  /** Works on a token as node 1 does and passes it on. */
  answer(token: Token): void {
    this.send({ number: token.number + 1, value: hopResult(token.value, token.number, 1) })
  }

  send(token: Token): void {
    this.#to!.write(encode(token, 1))
  }

  sendBytes(bytes: Buffer): void {
    this.#to!.write(bytes)
  }

  reset(): void {
    this.#to!.resetAndDestroy()
  }

  close(): void {
    this.#to?.destroy()
    this.#from?.destroy()
    this.#server.close()
  }
}

async function startRing(t: Test, net: number, words: string, directory = scratch(t)) {
  const [program, test] = [`127.77.${net}.1`, `127.77.${net}.2`]
  const neighbour = new Neighbour(test)
  t.teardown(() => neighbour.close())
  const ring = `lab.ip=${program} lab.node=0 lab.ring=${program},${test}`
  const console = await startProgram(t, directory, 'ring', `${ring} ${words}`)
  await neighbour.connect(program)
  return { console, neighbour }
}

t.test('the ring computes what expected.ts computes, hop by hop', async (t) => {
  const { console, neighbour } = await startRing(t, 2, 'lab.hops=200')
  let value = 0
  for (let number = 0; number < 200; number += 2) {
    const token = await neighbour.take()
    value = hopResult(value, number, 0)
    // Token n leaves its node as number n + 1.
    t.same(token, { number: number + 1, value })
    value = hopResult(value, number + 1, 1)
    neighbour.send({ number: number + 2, value })
  }
  const done = await console.done(10_000)
  t.match(done.ring, { value: bitsOf(value), finished: true, resets: 0, duplicated: 0, skipped: 0, corrupt: 0 })
})

t.test('a doubled, a skipped and a corrupt token are told apart', async (t) => {
  const { console, neighbour } = await startRing(t, 3, 'lab.hops=1000')
  neighbour.answer(await neighbour.take())
  const token = await neighbour.take()
  neighbour.send({ number: 2, value: 1 })
  t.match(await console.error('token_duplicated', 5_000), { number: 2, expected: 4 })
  const damaged = encode({ number: 4, value: 1 }, 1)
  damaged[20]! ^= 1
  neighbour.sendBytes(damaged)
  await console.error('token_corrupt', 5_000)
  t.equal(neighbour.tokens.length, 2, 'neither was passed on')
  neighbour.send({ number: 8, value: token.value })
  t.match(await console.error('token_skipped', 5_000), { number: 8, expected: 4 })
  const counters = { duplicated: 1, skipped: 1, corrupt: 1, resets: 0 }
  t.match(
    await until('the counters', 5_000, () => (console.state?.ring?.skipped ? console.state.ring : undefined)),
    counters,
  )
})

t.test('a connection reset is reported and ends the ring', async (t) => {
  const { console, neighbour } = await startRing(t, 4, 'lab.hops=1000')
  neighbour.answer(await neighbour.take())
  await neighbour.take()
  neighbour.reset()
  t.match(await console.error('ring_reset', 5_000), { side: 'previous', text: 'Connection reset by peer' })
  t.match((await console.done(5_000)).ring, { resets: 1, failed: true, finished: false })
})

t.test('a disk that is rolled back under a running program is reported', async (t) => {
  const directory = scratch(t)
  const disk = join(directory, 'disk')
  writeFileSync(disk, '')
  truncateSync(disk, 1 << 20)
  const { console, neighbour } = await startRing(t, 5, `lab.hops=1000 lab.journal_every=1 lab.disk=${disk}`, directory)
  const pass = async (tokens: number) => {
    for (let i = 0; i < tokens; i++) neighbour.answer(await neighbour.take())
  }
  await pass(5)
  // The program waits for nobody but us: with its token taken and not answered, the disk stands still.
  const held = await neighbour.take()
  copyFileSync(disk, `${disk}.old`)
  neighbour.answer(held)
  await pass(2)
  const last = await neighbour.take()
  t.same(console.errors, [])
  writeFileSync(disk, readFileSync(`${disk}.old`), { flag: 'r+' })
  neighbour.answer(last)
  const error = await console.error('disk_mismatch', 5_000)
  t.match(error, { slot: 0, memory: { sequence: 8 }, disk: { sequence: 0 } })
})

t.test('a configuration word that nobody knows is refused', async (t) => {
  const console = await startProgram(t, scratch(t), 'bad', 'lab.hopz=3')
  t.match(await console.error('config', 5_000), { key: 'hopz', value: '3' })
})
