// What a play sends enters at its ports, as what their devices bring does, and nothing else gets in.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { copyFrame, type Frame, type FrameCopy } from '../../src/frame/frame.js'
import { libc } from '../../src/linux/libc.js'
import { acceptPackets, connectForPackets, listenForPackets } from '../../src/linux/unix-packets.js'
import { PlayInput } from '../../switch/datapath/play-input.js'
import type { Port } from '../../switch/datapath/port/port.js'
import { numbered } from '../play/player.js'

const HEAD = 18

function message(place: number, frame: Uint8Array, garbage = 0): Uint8Array {
  const bytes = new Uint8Array(HEAD + frame.length).fill(garbage, 8, HEAD)
  bytes.set([place & 0xff, place >> 8])
  bytes.set(frame, HEAD)
  return bytes
}

/** A connection with a play at its end: ports 40 and 50 are its places 0 and 1. */
function connected(t: { teardown(end: () => void): void }) {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-play-'))
  const path = join(directory, 'socket')
  const listener = listenForPackets(path)
  const client = connectForPackets(path, 1 << 20)
  const fd = acceptPackets(listener)!
  const ports = [40, 50].map((index) => ({ index }) as Port)
  let over = 0
  const input = new PlayInput(fd, ports, () => over++)
  const came: { port: number; copy: FrameCopy }[] = []
  const sink = { receive: (port: number, frame: Frame) => came.push({ port, copy: copyFrame(frame) }) }
  let isOpen = true
  const close = () => {
    if (isOpen) libc().close(client)
    isOpen = false
  }
  t.teardown(() => {
    close()
    input.close()
    for (const one of [fd, listener]) libc().close(one)
    rmSync(directory, { recursive: true, force: true })
  })
  return {
    input,
    ports,
    came,
    close,
    receive: () => input.receive(sink, 0),
    send: (bytes: Uint8Array) => libc().send(client, bytes, bytes.length, 0),
    get over() {
      return over
    },
  }
}

t.test('frames enter at their port, their tag beside them, their header empty', async (t) => {
  const { input, came, send, receive } = connected(t)
  send(message(0, numbered(1), 0xff))
  send(message(1, numbered(2, 64, [0x81, 0, 0x60, 9])))
  t.equal(receive(), 2)
  t.same(
    came.map(({ port }) => port),
    [40, 50],
  )
  t.same(came[0]!.copy.bytes, Uint8Array.of(...new Array(10).fill(0), ...numbered(1)))
  t.match(came[1]!.copy, { tagTpid: 0x8100, tagTci: 0x6009 })
  const untagged = Uint8Array.from(numbered(2, 64, [0x81, 0, 0x60, 9]))
  untagged.copyWithin(12, 16)
  t.same(came[1]!.copy.bytes.subarray(10), untagged.subarray(0, 60))
  t.match(input, { frames: 2, refused: 0 })
})

t.test('what is no frame, or for no port, is refused', async (t) => {
  const { input, ports, came, send, receive } = connected(t)
  send(message(2, numbered(1)))
  send(message(65535, numbered(1)))
  send(message(0, new Uint8Array(13)))
  send(Uint8Array.of(0))
  t.equal(receive(), 0)
  input.forget(ports[0]!)
  send(message(0, numbered(1)))
  send(message(1, numbered(2)))
  t.equal(receive(), 1)
  t.match(input, { frames: 1, refused: 5 })
  t.same(
    came.map(({ port }) => port),
    [50],
    'also when another port has got the number of one that is gone',
  )
})

t.test('at most a batch at a time, and the end once', async (t) => {
  const play = connected(t)
  for (let i = 0; i < 100; i++) play.send(message(i % 2, numbered(i)))
  play.close()
  t.equal(play.receive(), 64)
  t.notOk(play.input.isOver)
  t.equal(play.receive(), 36, 'what was sent before the end comes')
  for (let i = 0; i < 3; i++) play.receive()
  t.ok(play.input.isOver)
  t.equal(play.over, 1)
  t.equal(play.input.frames, 100)
})
