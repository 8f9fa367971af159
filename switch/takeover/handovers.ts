// How ports move between a bridge and the switch in its place: all that move at one instant, each frame forwarded by
// one of the two. The kernel's programs (handover.ts) say which one, and rules (bypass.ts) keep the bridge from ports
// that are the switch's.

import { bridgeAddresses, isNoPort, learnAddress, setMulticastRouter, setPortFlags } from '../../src/linux/bridge.js'
import { Handover } from '../../src/linux/handover.js'
import type { PortEntry, PortRequest } from '../ports/table.js'
import { Bypass, type BypassedPort } from './bypass.js'
import type { TakeoverHost } from './host.js'
import type { BridgeRecord } from './record.js'

type HandoversHost = Pick<TakeoverHost, 'links' | 'datapath' | 'ports' | 'epochOf' | 'log'>
type HandedBridge = Pick<BridgeRecord, 'bridge' | 'index' | 'network' | 'hostEnd' | 'switchEnd'>

export class PortHandovers {
  readonly #host: HandoversHost
  readonly #bridge: HandedBridge
  readonly #filtersVlans: boolean
  /** Is told of each device that is no port of the switch any more. */
  readonly #left: (ifindex: number) => void
  #bypass: Bypass | null = null
  /**
   * No port is the switch's yet, or any more. The first ones come all at one instant, with the bridge's own frames:
   * with the takeover, or later where the bridge had none then.
   */
  #first = true

  constructor(host: HandoversHost, bridge: HandedBridge, filtersVlans: boolean, left: (ifindex: number) => void) {
    this.#host = host
    this.#bridge = bridge
    this.#filtersVlans = filtersVlans
    this.#left = left
  }

  /** Rules that do nothing yet. They end with this process at the latest. */
  open(): void {
    this.#bypass = new Bypass(this.#bridge.index, this.#host.links.get(this.#bridge.hostEnd).index)
  }

  close(): void {
    this.#bypass?.close()
    this.#bypass = null
  }

  /** The ports of the switch that are ports of the bridge. */
  ports(): PortEntry[] {
    return this.#host.ports.all().filter(({ bridge }) => bridge === this.#bridge.index)
  }

  /** A port that the bridge is to give nothing from now on, and to get nothing from. */
  keepOut(port: BypassedPort): void {
    this.#bypass?.take([port])
  }

  /** A device that was renamed has lost its rules on kernels that go by names. */
  keepOutStill(port: BypassedPort): void {
    if (this.#bypass === null || !this.ports().some(({ ifindex }) => ifindex === port.index)) return
    if (this.#bypass.has(port)) return
    this.#bypass.forget(port)
    this.#bypass.take([port])
  }

  /**
   * The bridge forwards until `open`, and the switch from then on. What the host and its switch say to one another in
   * the moments between goes by the bridge or by the pair, whichever the bridge's addresses say; to all, by both rather
   * than by none.
   */
  async moveIn(requests: readonly PortRequest[]): Promise<void> {
    const { links, ports, datapath } = this.#host
    const { network } = this.#bridge
    const first = this.#first
    const bypass = this.#bypass!
    const hostEnd = links.get(this.#bridge.hostEnd).index
    const handover = new Handover(false)
    const entries: PortEntry[] = []
    try {
      const sockets = { ...handover.sockets, mute: !first }
      const epoch = this.#host.epochOf(network)
      const added = await Promise.allSettled(requests.map((port) => ports.addHandedOver(port, epoch, sockets)))
      for (const outcome of added) if (outcome.status === 'fulfilled') entries.push(outcome.value)
      const failed = added.find((outcome) => outcome.status === 'rejected')
      if (failed !== undefined) throw failed.reason
      const indexes = entries.map(({ index }) => index)
      const taken = entries.map(({ ifindex, ifname }) => ({ index: ifindex, name: ifname }))
      for (const { index } of taken) handover.hook(index)
      if (first) bypass.deafen(taken)
      const known = bridgeAddresses(links, this.#bridge.index).filter(({ fixed, local }) => !fixed && !local)
      handover.open()
      if (first) {
        setPortFlags(links, hostEnd, { floods: true, learns: true })
        setMulticastRouter(links, hostEnd, true)
      }
      await datapath.call('handOver', { network, ports: indexes, programs: handover.sockets })
      await datapath.call('learn', { network, addresses: addressesOf(known, entries) })
      for (const { mac, vlan, index } of known)
        if (taken.some((port) => port.index === index)) learnAddress(links, { mac, vlan, index: hostEnd })
      bypass.take(taken)
      await datapath.call('handOver', { network, ports: indexes, programs: null })
      this.#first = false
    } catch (thrown) {
      handover.shut()
      for (const entry of entries) {
        await ports.remove(entry.name, true)
        bypass.forget({ index: entry.ifindex, name: entry.ifname })
      }
      throw thrown
    } finally {
      // Sockets that wait for it are gone, or have programs of their own.
      handover.close()
    }
  }

  /** At one instant; each port is forgotten by the switch when it has forwarded what it had taken. */
  async moveOut(names: readonly string[]): Promise<void> {
    const { links, ports, datapath, log } = this.#host
    const { network, bridge } = this.#bridge
    const going = this.ports().filter(({ name }) => names.includes(name))
    if (going.length === 0) return
    const here = going.filter(({ ifindex }) => links.findByIndex(ifindex)?.master === this.#bridge.index)
    const all = here.length === this.ports().length
    const indexes = here.map(({ index }) => index)
    const own = here.map(({ ifindex, ifname }) => ({ index: ifindex, name: ifname }))
    let handover: Handover | null = null
    try {
      if (here.length > 0) {
        handover = new Handover(true)
        await datapath.call('handOver', { network, ports: indexes, programs: handover.sockets })
        for (const { index } of own) handover.hook(index)
        handover.open()
        this.#bypass?.leave(own)
        const hostEnd = links.find(this.#bridge.hostEnd)
        // What the host is sent in between would have the bridge look for its sender at the pair again.
        if (all && hostEnd !== null) setPortFlags(links, hostEnd.index, { learns: false })
        await this.#returnAddresses(here)
        if (all && hostEnd !== null) {
          setPortFlags(links, hostEnd.index, { floods: false })
          setMulticastRouter(links, hostEnd.index, false)
        }
        handover.shut()
        const pair = ports.all().filter(({ name }) => name === this.#bridge.switchEnd)
        await datapath.call('handOver', { network, ports: indexes, programs: handover.sockets, drain: true })
        const hostPorts = pair.map(({ index }) => index)
        await datapath.call('handOver', { network, ports: hostPorts, programs: null, drain: true })
      }
    } catch (thrown) {
      // The bridge gets them all the same, if not without a gap.
      log.warn({ err: thrown, bridge }, 'the ports of a bridge could not be handed back without a gap')
      handover?.shut()
    }
    for (const { name, ifindex, ifname } of going) {
      await ports.remove(name, true)
      this.#bypass?.forget({ index: ifindex, name: ifname })
      this.#left(ifindex)
    }
    handover?.close()
    if (all) this.#first = true
  }

  async #returnAddresses(entries: readonly PortEntry[]): Promise<void> {
    const { links, datapath } = this.#host
    const deviceOf = new Map(entries.map(({ index, ifindex }) => [index, ifindex]))
    for (const { mac, vlan, port } of await datapath.call('fdb', { network: this.#bridge.network })) {
      const index = deviceOf.get(port)
      if (index === undefined) continue
      try {
        learnAddress(links, { mac, vlan: this.#filtersVlans ? vlan : 0, index })
      } catch (thrown) {
        if (!isNoPort(thrown)) throw thrown
      }
    }
  }
}

function addressesOf(
  known: readonly { readonly mac: string; readonly vlan: number; readonly index: number }[],
  entries: readonly PortEntry[],
) {
  const portOf = new Map(entries.map(({ ifindex, index }) => [ifindex, index]))
  return known.flatMap(({ mac, vlan, index }) => {
    const port = portOf.get(index)
    return port === undefined ? [] : [{ mac, vlan, port }]
  })
}
