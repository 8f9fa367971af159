// Hosts on a LAN with an outside host, as the tests of uplinks have them.

import { EtherType } from '../../src/frame/ethernet.js'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { idOf, Lan, MEMBERS, type OnLan } from './lan.js'
import { mac } from './rig.js'

export const LATER = 1e15
export const O = mac(0x7777)
export const ARP = { type: EtherType.ARP }

export const typeOf = ({ bytes }: FrameCopy) => (bytes[VNET_HEADER_LENGTH + 12] << 8) | bytes[VNET_HEADER_LENGTH + 13]
export const isSwitches = (copy: FrameCopy) => typeOf(copy) === EtherType.CONTROL
export const given = (frames: readonly FrameCopy[]) =>
  frames.filter((copy) => !isSwitches(copy)).map(({ bytes }) => idOf(bytes.subarray(VNET_HEADER_LENGTH)))
export const isCarrier = (copy: OnLan) => isSwitches(copy) && copy.bytes[VNET_HEADER_LENGTH + 19] === 5

/** Hosts a, b (two members each) and c (one), an outside host; peers have met, and nobody has spoken. */
export function world(options: Parameters<Lan['host']>[2] = {}, epoch = 4) {
  const lan = new Lan()
  const a = lan.host('a', 2, options, epoch)
  const b = lan.host('b', 2, options, epoch)
  const c = lan.host('c', 1, options, epoch)
  lan.outsider('o')
  lan.pass(300)
  return { lan, a, b, c, o: lan.outside.get('o')! }
}

/** Every host begins, and cuts its first two members. */
export function cutAll({ hosts, now }: Lan, epoch: number): void {
  for (const { forwarder } of hosts.values()) {
    forwarder.snapshots.begin(epoch, 'buffer', LATER, now)
    forwarder.snapshots.flip([1, 2], epoch, [0, 0], now)
  }
}

/** As `world`, and every member and the outside host have spoken, so that all is agreed. */
export function settled(options: Parameters<Lan['host']>[2] = {}, epoch = 4) {
  const made = world(options, epoch)
  for (const host of [made.a, made.b, made.c]) {
    for (let member = MEMBERS; host.forwarder.byIndex[member] !== undefined; member++) {
      if (host.forwarder.byIndex[member]!.isMember) host.send(member, { ...ARP, id: 1 })
    }
  }
  made.lan.send('o', { ...ARP, from: O, id: 2 })
  made.lan.run()
  made.lan.pass(3000)
  made.lan.forget()
  return made
}
