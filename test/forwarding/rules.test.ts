// Rules of ports: VLANs, isolation, floods, static addresses, as the kernel's bridge has them; and that they leave the
// rest of the forwarder as it is: what passes them is held, recorded and replayed once and exactly.

import t from 'tap'
import type { PortRules } from '../../src/api/schemas.js'
import fc from '../property.js'
import { BridgeModel, type ModelFrame, macText, type Tags } from './bridge-model.js'
import { Peer } from './peer.js'
import { type FrameWords, GROUP, mac, Rig, type Sent } from './rig.js'

const KINDS = ['member', 'member', 'plain', 'host', 'trunk'] as const
const GATED = [0, 1]
const TRUNK = 4
const VLANS = [10, 20, 30]
const MULTICAST = Uint8Array.of(1, 0, 0x5e, 1, 2, 3)
const CHECKSUM_AT = 8

interface Step {
  readonly kind: 'frame' | 'rules' | 'gate' | 'release'
  readonly port: number
  readonly to: number
  readonly from: number
  readonly tags: Tags
  readonly rules: PortRules
  /** Whether its sender left the checksum to be finished, and the frame is to be cut up. */
  readonly gso: boolean
  readonly inside: boolean
}

const priority = fc.constantFrom(0, 0x6000)
const tag = fc.tuple(fc.constantFrom(0x8100, 0x8100, 0x88a8), fc.constantFrom(0, ...VLANS, 4095), priority)
const tags: fc.Arbitrary<Tags> = fc
  .array(tag, { maxLength: 2 })
  .map((list) => list.map(([tpid, vid, bits]) => [tpid, vid | bits] as const))
const vlan = fc
  .record({ pvid: fc.constantFrom(0, ...VLANS), of: fc.tuple(...VLANS.map(() => fc.constantFrom(0, 1, 2))) })
  .map(({ pvid, of }) => ({
    ...(pvid === 0 ? {} : { pvid }),
    untagged: VLANS.filter((_, at) => of[at] === 1),
    tagged: VLANS.filter((_, at) => of[at] === 2),
  }))
const often = (usual: boolean) => fc.oneof({ weight: 4, arbitrary: fc.constant(usual) }, fc.constant(!usual))
const flags = fc.record({
  isolated: often(false),
  learning: often(true),
  flood: often(true),
  mcastFlood: often(true),
  bcastFlood: often(true),
  locked: often(false),
})
const rules: fc.Arbitrary<PortRules> = fc
  .record({
    vlan: fc.option(vlan, { nil: undefined }),
    flags: fc.option(flags, { nil: {} }),
    hairpin: often(false),
    address: fc.option(fc.record({ mac: fc.nat(4).map(macText), sticky: fc.boolean() }), { nil: undefined }),
  })
  .map(({ vlan: found, flags: more, hairpin, address }) => ({
    ...(found === undefined ? {} : { vlan: found }),
    ...more,
    hairpin,
    ...(address === undefined || (found !== undefined && found.pvid === undefined) ? {} : { fdb: [address] }),
  }))
const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.oneof(
    { weight: 12, arbitrary: fc.constant('frame' as const) },
    { weight: 3, arbitrary: fc.constant('rules' as const) },
    { weight: 1, arbitrary: fc.constant('gate' as const) },
    { weight: 1, arbitrary: fc.constant('release' as const) },
  ),
  port: fc.nat(KINDS.length - 1),
  to: fc.integer({ min: -2, max: 4 }),
  from: fc.nat(4),
  tags,
  rules,
  gso: fc.boolean(),
  inside: fc.boolean(),
})

const tagBytes = (list: Tags) => list.flatMap(([tpid, tci]) => [tpid >> 8, tpid & 0xff, tci >> 8, tci & 0xff])

/** As a port's socket or a trunk gives it: the outermost tag beside the frame, or all of them in it. */
function wordsOf({ id, from, to, tags: list }: ModelFrame, one: Step, colorTag?: FrameWords['tag']): FrameWords {
  const inside = one.inside || colorTag !== undefined ? list : list.slice(1)
  const beside = colorTag ?? (inside === list ? undefined : list[0])
  const payload = new Uint8Array(60)
  const all = [...tagBytes(inside), 0x08, 0x00, 0x45, ...new Array(7).fill(0)]
  payload.set(all.slice(2))
  new DataView(payload.buffer).setUint32(all.length - 2, id)
  const type = ((all[0] ?? 0) << 8) | (all[1] ?? 0)
  const group = to === -1 ? GROUP : MULTICAST
  return {
    from: mac(from),
    to: to < 0 ? group : mac(to),
    type,
    payload,
    ...(beside === undefined ? {} : { tag: beside }),
  }
}

/** What a port was given: its tags from outside in, and the id where the checksum field is said to begin. */
function readSent({ bytes, vnet, tagTpid, tagTci }: Sent): { id: number; tags: Tags } {
  const found: [number, number][] = tagTpid === 0 ? [] : [[tagTpid, tagTci]]
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  let at = 12
  while ([0x8100, 0x88a8].includes(view.getUint16(at))) {
    found.push([view.getUint16(at), view.getUint16(at + 2)])
    at += 4
  }
  const header = new DataView(vnet.buffer)
  const checksum = vnet[0] === 1 ? header.getUint16(6, true) : at + 2 + CHECKSUM_AT
  if (vnet[1] !== 0 && header.getUint16(2, true) !== checksum + 4) throw new Error('hdr_len is not moved with the tags')
  return { id: view.getUint32(checksum), tags: found }
}

t.test('random rules, frames and gates, as a model of the bridge has them', async (t) => {
  let given = 0
  let refused = 0
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 80, size: 'max' }), (steps) => {
      const rig = new Rig(KINDS, { hold: { frames: 1e6, bytes: 1e9 } }, 1)
      const peer = new Peer(rig, TRUNK)
      peer.meet(1)
      const model = new BridgeModel(KINDS)
      const came = KINDS.map((): { id: number; tags: Tags }[] => [])
      const collect = () => {
        for (const [port, output] of rig.outputs.entries())
          for (const sent of output.take())
            if (sent.bytes[12] !== 0x88 || sent.bytes[13] !== 0xb5) came[port]!.push(readSent(sent))
      }
      collect()
      for (const [at, one] of steps.entries()) {
        const { snapshots } = rig.forwarder
        const frame = { id: at + 1, from: one.from, to: one.to, tags: one.tags }
        if (one.kind === 'rules') {
          rig.forwarder.setRules(one.port, one.rules)
          model.setRules(one.port, one.rules)
        } else if (one.kind === 'gate') snapshots.gate(GATED, rig.now)
        else if (one.kind === 'release') snapshots.release(GATED, rig.now)
        else {
          const words = wordsOf(frame, one, one.port === TRUNK ? peer.tag(1) : undefined)
          const inside = tagBytes(one.inside || one.port === TRUNK ? one.tags : one.tags.slice(1)).length
          rig.receiveWith(one.port, words, one.gso ? { checksum: 14 + inside + CHECKSUM_AT, gso: true } : {})
          model.receive(one.port, frame)
        }
        collect()
      }
      rig.forwarder.snapshots.release(GATED, rig.now)
      collect()
      for (const [port, list] of came.entries()) {
        const [wanted, found] = [model.given[port]!, list].map((deliveries) => JSON.stringify(deliveries))
        if (wanted !== found) throw new Error(`port ${port}: the model gives ${wanted}; came ${found}`)
        const drops = model.dropped[port]!
        for (const reason of ['vlan', 'locked'] as const)
          if (rig.drops(port, reason) !== drops[reason])
            throw new Error(`port ${port}: ${reason} ${rig.drops(port, reason)}, not ${drops[reason]}`)
        given += list.length
        refused += drops.vlan + drops.locked
      }
    }),
    { numRuns: 1500 },
  )
  t.ok(given > 10_000 && refused > 1000, `${given} deliveries, ${refused} refused`)
})
