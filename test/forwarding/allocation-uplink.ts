// The same as allocation-run.ts for an uplink whose peers have agreed: a member's frames to and from another host by
// the DSCP bit, and to and from an outside host.

import { EtherType } from '../../src/frame/ethernet.js'
import { measure } from './allocation.js'
import { ip, Lan, UPLINK } from './lan.js'
import { frame, mac } from './rig.js'

const OUTSIDE = mac(0x7777)

const lan = new Lan()
// An odd epoch: the bit is turned over on the way out, and back on the way in.
const [a, b] = ['a', 'b'].map((name) => lan.host(name, 1, {}, 7))
lan.outsider('o')
lan.pass(300)
for (const host of [a, b]) host.send(1, { type: EtherType.ARP })
lan.send('o', { type: EtherType.ARP, from: OUTSIDE })
lan.run()
lan.pass(3000)

const { forwarder } = a
let count = 0
for (const port of forwarder.ports) {
  const counting = port.isMember ? port.output : null
  if (counting !== null) counting.send = () => ++count > 0
}
a.device.send = () => ++count > 0

const [member, remote] = [a.macOf(1), b.macOf(1)]
const frames = [
  [1, frame({ ...ip(4, 1), from: member, to: remote })],
  [UPLINK, frame({ ...ip(6, 2, 4), from: remote, to: member })],
  [1, frame({ ...ip(4, 3), from: member, to: OUTSIDE })],
  [UPLINK, frame({ ...ip(4, 4, 4), from: OUTSIDE, to: member })],
] as const
const originals = frames.map(([, { bytes }]) => bytes.slice())

await measure(
  (many) => {
    const { now } = lan
    for (let i = 0; i < many; i++) {
      const at = i % frames.length
      const [port, made] = frames[at]
      // The bit is turned over in place.
      made.bytes[made.start + 15] = originals[at][made.start + 15]
      forwarder.receive(port, made, now)
    }
  },
  () => count,
)
