// Codecs under damaged input: what was written is read back; what was damaged is refused under its own error, or read
// as something that makes sense.

import assert from 'node:assert/strict'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { COLORS, colorVid, epochOfVid, GENERATIONS, generationOfVid, LAST_VID } from '../../../src/frame/color-tag.js'
import { CONTROL_LENGTH, ControlType, decodeControl, encodeControl } from '../../../src/frame/control.js'
import { type ChannelFrame, inlineVlanTag, readChannel, writeChannel } from '../../../src/trace/channel.js'
import { readPcapng } from '../../../src/trace/pcapng-reader.js'
import { PcapngWriter } from '../../../src/trace/pcapng-writer.js'
import type { Random } from '../../simulation/chance.js'
import { mutate, randomBytes } from './mutate.js'

const NAME_CHARACTERS = 'abcXYZ019_.-'

function name(random: Random): string {
  const rest = Array.from({ length: random.integer(0, 62) }, () => random.pick([...NAME_CHARACTERS]))
  return `a${rest.join('')}`
}

function controlMessage(random: Random) {
  return {
    type: random.pick(Object.values(ControlType)),
    bootId: Buffer.from(randomBytes(random, 8)).toString('hex'),
    network: name(random),
    host: name(random),
    number: random.integer(0, Number.MAX_SAFE_INTEGER),
    heard: {
      bootId: Buffer.from(randomBytes(random, 8)).toString('hex'),
      number: random.integer(0, Number.MAX_SAFE_INTEGER),
    },
    accepts: random.integer(0, 3),
    sends: random.integer(0, 3),
    takes: random.chance(0.5),
    epoch: random.integer(0, 0xffffffff),
    count: random.integer(0, Number.MAX_SAFE_INTEGER),
  }
}

export function control(random: Random): void {
  const message = controlMessage(random)
  const bytes = encodeControl(message, randomBytes(random, 6), randomBytes(random, 6))
  assert.deepEqual(decodeControl(bytes), message)
  const damaged = mutate(random, bytes)
  const decoded = decodeControl(damaged)
  if (typeof decoded === 'string') return
  // The layout has no slack: what is accepted says exactly what its bytes say.
  const again = encodeControl(decoded, damaged.subarray(0, 6), damaged.subarray(6, 12))
  assert.deepEqual(again.subarray(14), damaged.slice(14, CONTROL_LENGTH))
}

const HALF = Math.floor(COLORS / 2)

export function color(random: Random): void {
  const reference = random.integer(0, random.pick([10, COLORS, 1e6, 0xffffffff]))
  const epoch = Math.max(0, reference + random.integer(-HALF + 1, HALF - 1))
  const generation = random.integer(0, GENERATIONS - 1)
  assert.equal(epochOfVid(colorVid(epoch, generation), reference), epoch)
  assert.equal(generationOfVid(colorVid(epoch, generation)), generation)
  const vid = random.integer(-1, 0xffff)
  const found = epochOfVid(vid, reference)
  if (vid < 1 || vid > LAST_VID) assert.equal(found, -1)
  else assert.ok(found >= 0 && colorVid(found, generationOfVid(vid)) === vid, `VID ${vid} read as ${found}`)
}

function channelFrame(random: Random): ChannelFrame {
  return {
    port: random.pick(['one', 'two', 'three']),
    vm: random.pick(['vm1', 'vm2']),
    color: random.integer(0, 0xffffffff),
    verdict: random.pick(['in-transit', 'residue'] as const),
    timeNs: BigInt(random.integer(0, Number.MAX_SAFE_INTEGER)),
    vnetHeader: randomBytes(random, 10),
    vlanTag: random.chance(0.3) ? { tpid: random.pick([0x8100, 0x88a8]), tci: random.integer(0, 0xffff) } : null,
    bytes: randomBytes(random, random.integer(12, random.pick([60, 100, 1514]))),
  }
}

/** True: `act` refused the file as damaged. Anything else it throws is a defect. */
function refused(act: () => void): boolean {
  try {
    act()
    return false
  } catch (thrown) {
    if (thrown instanceof SnapswitchError && thrown.code === 'TRACE_INVALID') return true
    throw thrown
  }
}

export function channel(random: Random): void {
  const frames = Array.from({ length: random.integer(0, 8) }, () => channelFrame(random))
  const file = writeChannel(frames)
  assert.deepEqual(readChannel(file), frames.map(inlineVlanTag))
  const damaged = mutate(random, file)
  refused(() => {
    for (const frame of readChannel(damaged)) {
      assert.ok(frame.bytes.length <= damaged.length)
      assert.equal(frame.vnetHeader.length, 10)
      assert.ok(frame.color >= 0 && frame.color <= 0xffffffff)
      // What a restore takes from it can be written again.
      writeChannel([frame])
    }
  })
}

export function pcapng(random: Random): void {
  const writer = new PcapngWriter({ application: name(random), comment: name(random) })
  const id = writer.interface({ name: name(random), description: name(random) })
  const packets = random.integer(0, 6)
  for (let i = 0; i < packets; i++) {
    writer.packet(id, BigInt(random.integer(0, 2 ** 50)), randomBytes(random, random.integer(0, 200)), {
      direction: 'inbound',
      comment: name(random),
    })
  }
  const file = writer.take()
  assert.equal([...readPcapng(file)].filter(({ kind }) => kind === 'packet').length, packets)
  const damaged = mutate(random, file)
  refused(() => {
    let blocks = 0
    for (const block of readPcapng(damaged)) {
      assert.ok(block.offset < damaged.length)
      // The shortest block has twelve bytes.
      assert.ok(++blocks <= damaged.length / 12)
    }
  })
}
