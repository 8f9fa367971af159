// A forwarder's dealings with peer switches: HELLO for discovery and liveness, MARKER and MARKER_ACK for closing channels.

import { CONTROL_GROUP, ControlType, decodeControl, encodeControl } from '../../src/frame/control.js'
import { Frame, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { Drop } from './counters.js'
import type { Forwarder } from './forwarder.js'
import type { PortState } from './port-state.js'
import type { ForwarderEvents } from './snapshot-side.js'

const HELLO_INTERVAL = 1000
/** Three HELLOs missed, with some slack. */
const PEER_TIMEOUT = 3500
const MARKER_REPEAT = 20

export class TrunkSide {
  private readonly forwarder: Forwarder
  private readonly events: ForwarderEvents
  private readonly frame = new Frame()
  private nextHello = Number.NEGATIVE_INFINITY

  constructor(forwarder: Forwarder, events: ForwarderEvents) {
    this.forwarder = forwarder
    this.events = events
  }

  isAlive(port: PortState, now: number): boolean {
    return now - port.channel!.lastHeard < PEER_TIMEOUT
  }

  tick(now: number): void {
    const helloDue = now >= this.nextHello
    if (helloDue) this.nextHello = now + HELLO_INTERVAL
    for (const port of this.forwarder.ports) {
      const channel = port.channel
      if (channel === null) continue
      if (helloDue) this.send(port, ControlType.HELLO, this.forwarder.epoch, channel.sent.total)
      const marker = channel.dueMarker(now, MARKER_REPEAT)
      if (marker !== null) this.send(port, ControlType.MARKER, marker.epoch, marker.sentBelow)
    }
  }

  /** A control frame has come in at a trunk. Nothing in it is believed before it is decoded and its network is ours. */
  control(port: PortState, frame: Frame, now: number): void {
    const { counters, options } = this.forwarder
    const message = decodeControl(frame.bytes.subarray(frame.start, frame.start + frame.length))
    if (typeof message === 'string') {
      counters[port.row + Drop[message]]++
      return
    }
    const channel = port.channel!
    if (message.network !== options.network || message.bootId === options.bootId) {
      counters[port.row + Drop['control-unexpected']]++
      return
    }
    switch (message.type) {
      case ControlType.HELLO: {
        const mac = frame.bytes.slice(frame.start + 6, frame.start + 12)
        if (!channel.hello(message.host, message.bootId, mac, message.count, now)) return
        // New to us, so we may be new to it: answer at once instead of at the next interval.
        this.send(port, ControlType.HELLO, this.forwarder.epoch, channel.sent.total)
        this.events.peer(port.index, message.host, message.bootId, message.epoch)
        return
      }
      case ControlType.MARKER:
        if (!channel.takeMarker(message.bootId, message.epoch, message.count, now)) {
          counters[port.row + Drop['control-unexpected']]++
          return
        }
        this.send(port, ControlType.MARKER_ACK, message.epoch, 0)
        this.forwarder.snapshots.markerCame(port, message.epoch, now)
        return
      case ControlType.MARKER_ACK:
        if (message.bootId === channel.bootId) channel.acknowledged(message.epoch)
    }
  }

  private send(port: PortState, type: ControlType, epoch: number, count: number): void {
    const { network, host, bootId } = this.forwarder.options
    const destination = type === ControlType.HELLO ? CONTROL_GROUP : (port.channel!.mac ?? CONTROL_GROUP)
    const body = encodeControl({ type, network, host, bootId, epoch, count }, destination, port.spec.mac)
    const bytes = new Uint8Array(VNET_HEADER_LENGTH + body.length)
    bytes.set(body, VNET_HEADER_LENGTH)
    port.output.send(this.frame.pointAt({ bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR }), -1)
  }
}
