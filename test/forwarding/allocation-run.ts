// Sends a million frames through a forwarder and prints, as JSON, what that cost the JavaScript heap. A process of its
// own (started with --expose-gc by allocation.test.ts), so that nothing else allocates meanwhile.

import { Ends, PeerChannel } from '../../src/epoch/peer-channel.js'
import { colorVid } from '../../src/frame/color-tag.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { Output } from '../../switch/forwarding/port-state.js'
import { measure } from './allocation.js'
import { defaults, mac } from './rig.js'

const TRUNK = 3

class CountingOutput implements Output {
  count = 0
  send(): boolean {
    this.count++
    return true
  }
}

const events = { early: () => undefined, peer: () => undefined, closed: () => undefined }
const forwarder = new Forwarder(defaults, createCounters(), events)
const outputs = [0, 1, 2, TRUNK].map((index) => {
  const kind = index === TRUNK ? ('trunk' as const) : ('member' as const)
  const output = new CountingOutput()
  forwarder.addPort({ index, name: `p${index}`, kind, vm: null, epoch: 0, mac: mac(index) }, output)
  return output
})

// A peer that has agreed on what is counted.
const peer = new PeerChannel(new Ends('bbbbbbbbbbbbbbbb', 0))
const { channel } = forwarder.byIndex[TRUNK]!
// A small integer: of a fraction the compiler may make a new object for each call, here and not in a port.
const START = 1_000_000
for (let hello = 0; hello < 3; hello++) {
  channel!.hello({ ...peer.words, host: 'b', bootId: 'bbbbbbbbbbbbbbbb', count: 0 }, mac(99), START)
  peer.hello({ ...channel!.words, host: 'a', bootId: defaults.bootId, count: 0 }, mac(99), START)
}

// As a port does: frames of all kinds lie in one piece of memory, and one cursor goes over them.
const LENGTH = 64
const KINDS = 4
const memory = new Uint8Array(KINDS * (VNET_HEADER_LENGTH + LENGTH))
const ingress = [0, 1, TRUNK, 2]
for (let kind = 0; kind < KINDS; kind++) {
  const at = kind * (VNET_HEADER_LENGTH + LENGTH) + VNET_HEADER_LENGTH
  // From member to member and back, from the trunk, and to an unknown address in a VLAN (a flood).
  memory.set(mac([2, 1, 1, 99][kind]), at)
  memory.set(mac([1, 2, 50, 3][kind]), at + 6)
  memory.set([8, 0], at + 12)
}
const cursor = new Frame(memory)

function pass(count: number): void {
  let now = START
  for (let i = 0; i < count; i++) {
    const kind = i % KINDS
    cursor.vnet = kind * (VNET_HEADER_LENGTH + LENGTH)
    cursor.start = cursor.vnet + VNET_HEADER_LENGTH
    cursor.length = LENGTH
    const port = ingress[kind]
    cursor.tagTpid = port === TRUNK ? EtherType.SERVICE_VLAN : kind === 3 ? EtherType.VLAN : 0
    cursor.tagTci = port === TRUNK ? colorVid(0, peer.sends) : 5
    if (i % 8192 === 0) now++
    forwarder.receive(port, cursor, now)
    if (i % 65_536 === 0) forwarder.tick(now)
  }
}

await measure(pass, () => outputs.reduce((sum, output) => sum + output.count, 0))
