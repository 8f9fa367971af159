// A peer switch at the other end of a rig's trunk, as far as control frames go: it agrees with the rig on what is
// counted, and then says what a test wants it to say.

import { Ends, PeerChannel } from '../../src/epoch/peer-channel.js'
import { colorVid } from '../../src/frame/color-tag.js'
import { type ControlMessage, ControlType, decodeControl, encodeControl } from '../../src/frame/control.js'
import { EtherType } from '../../src/frame/ethernet.js'
import { GROUP, mac, type Rig } from './rig.js'

export class Peer {
  readonly channel: PeerChannel
  readonly rig: Rig
  readonly port: number
  readonly host: string
  readonly bootId: string

  constructor(rig: Rig, port: number, host = 'b', bootId = 'bbbbbbbbbbbbbbbb') {
    this.rig = rig
    this.port = port
    this.host = host
    this.bootId = bootId
    this.channel = new PeerChannel(new Ends(bootId, rig.now))
  }

  /** HELLOs to and fro until both count the same. `sent`: how many frames it has sent before. */
  meet(epoch = this.rig.forwarder.network.epoch, sent = 0): this {
    for (let round = 0; round < 5; round++) {
      this.say(ControlType.HELLO, epoch, sent)
      for (const message of this.heard()) this.channel.hello(message, mac(99), this.rig.now)
    }
    if (!this.channel.established) throw new Error('the rig does not agree')
    return this
  }

  say(type: ControlType, epoch: number, count = 0, changes: Partial<ControlMessage> = {}): void {
    const { bootId, host } = this
    const message = { type, bootId, host, network: 'lab0', epoch, count, ...this.channel.words, ...changes }
    const payload = encodeControl(message, GROUP, mac(99)).slice(14)
    this.rig.receive(this.port, { to: GROUP, from: mac(99), type: EtherType.CONTROL, payload })
  }

  /** The tag that a frame of its members has. */
  tag(epoch: number): [tpid: number, tci: number] {
    return [EtherType.SERVICE_VLAN, colorVid(epoch, this.channel.sends)]
  }

  /** Control frames that went out to it since the last look; what else went out stays. */
  heard(): ControlMessage[] {
    const output = this.rig.outputs[this.port]
    const found: ControlMessage[] = []
    output.sent = output.take().filter((sent) => {
      const message = sent.bytes[12] === 0x88 && sent.bytes[13] === 0xb5 ? decodeControl(sent.bytes) : null
      if (message === null || typeof message === 'string') return true
      found.push(message)
      return false
    })
    return found
  }
}
