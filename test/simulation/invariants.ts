// The five invariants of the protocol, checked on what a world has seen. A frame is tracked by its id: a machine's
// state is what it has sent and what it has read, per NIC; the channel state is a list of ids per NIC.

import { abortLimitMs } from '../../coordinator/sequence/restore/types.js'
import { discardLimitMs } from '../../coordinator/sequence/snapshot/types.js'
import type { Manifest } from '../../src/api/schemas.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { readChannel } from '../../src/trace/channel.js'
import { auditOf } from './audit.js'
import { frameId } from './frames.js'
import type { Image, Nic } from './guest.js'
import { isOfNetwork, networkNumber, shareMachine, waysOf } from './networks.js'
import { BROADCAST, isCalm, isLossless, isUndisturbed, LAN_STATION, type Order, OUTSIDE } from './scenario.js'
import { type SentFrame, Violation, type World } from './world.js'

const ADDRESSES_AT = VNET_HEADER_LENGTH
const ADDRESSES_END = ADDRESSES_AT + 12

/** From an order's deadline until it must have ended: discards and aborts have limits of their own. */
const undoingMs = ({ kind }: Order): number => (kind === 'restore' ? abortLimitMs : discardLimitMs)

/** Throws the first Violation found. */
export function checkInvariants(world: World): void {
  checkTermination(world)
  for (const manifest of world.catalogue.values()) if (manifest.state === 'complete') checkSnapshot(world, manifest)
  const alive = world.guests.every((guest) => guest.alive)
  const undisturbed = world.networks.map((network) => isUndisturbed(world.scenario, network) && alive)
  for (const nic of world.nics) {
    const isExact = undisturbed[nic.network] && !isRolledBack(nic)
    checkDelivered(world, nic, isExact)
    if (isExact) checkEverything(world, nic)
  }
  if (undisturbed[0] && !wasRestored(world)) checkOutside(world)
  if (world.scenario.recorded && alive) checkAudits(world)
}

/** Where nothing went wrong, the audit of what was recorded finds nothing wrong. */
function checkAudits(world: World): void {
  for (const manifest of world.catalogue.values()) {
    if (manifest.state !== 'complete' || !isCalm(world.scenario, networkNumber(manifest.network))) continue
    const found = auditOf(world, manifest)
    if (found === null || found.verdict === 'incomplete') continue
    world.marks.add('audited')
    if (found.verdict === 'consistent') continue
    const finding = found.checks.flatMap(({ findings }) => findings)[0]
    throw new Violation(7, `the audit of ${manifest.name} finds: ${finding?.what} (${finding?.host})`)
  }
}

/** 1 and 2: no orphan; the channel state is exact, or what is missing is counted. */
function checkSnapshot(world: World, manifest: Manifest): void {
  const network = networkNumber(manifest.network)
  const images = new Map<number, Image>()
  const hostOfPart = new Map<number, string>()
  const recorded = new Map<number, number[]>()
  let lost = 0
  for (const part of manifest.parts) {
    for (const member of part.members) {
      const image = world.contents.get(member.memory.digest) as Image
      images.set(image.vm, image)
      hostOfPart.set(image.vm, part.host)
      lost += member.lost
    }
    for (const closure of part.closures) {
      lost += closure.lost
      if (closure.lost === 0 || !isLossless(world.scenario, network)) continue
      const what = `${part.host} counts ${closure.lost} frames from ${closure.host} as lost in ${manifest.name}`
      throw new Violation(2, `${what}, though none was`)
    }
    for (const { port: name, bytes } of readChannel(world.contents.get(part.channel.digest) as Uint8Array)) {
      const port = Number(name.slice(1))
      const id = frameId(bytes, 0)
      if (world.nics[port].network !== network)
        throw new Violation(2, `#${id} of another network is in the channel state of ${manifest.name}`)
      // The announcement of a restored machine's address: part of the channel state, but nobody's message.
      if (id < 0 || world.unsentElsewhere.has(id)) continue
      const ids = recorded.get(port) ?? []
      ids.push(id)
      recorded.set(port, ids)
    }
  }
  const startedAt = world.outcomes.find(({ name }) => name === manifest.name)?.startedAt ?? Number.NEGATIVE_INFINITY
  for (const guest of world.guests) {
    if (guest.alive && guest.isIn(network) && guest.loadedAt <= startedAt && !images.has(guest.index))
      throw new Violation(1, `${guest.name} is not in ${manifest.name}`)
  }
  const title = `snapshot ${manifest.name} (e${manifest.epoch})`
  /** Null: what is not in the snapshot has no past. */
  const sentBefore = (frame: SentFrame): boolean | null => {
    if (frame === undefined || frame.vm === OUTSIDE || world.unsentElsewhere.has(frame.id)) return null
    const image = images.get(frame.vm)
    // A machine that is gone, and was none of this snapshot.
    if (image === undefined) return null
    return frame.at < image.sent && image.log.sent[frame.at] === frame.id
  }
  // By host and frame: a frame that a switch did not record is missing once, however many ports it went to.
  const absent = new Map<string, number>()
  for (const image of images.values()) {
    const guest = world.guests[image.vm]
    for (const [nth, { delivered }] of image.log.nics.entries()) {
      if (guest.nics[nth].network !== network) continue
      const read = image.read[nth]
      for (const id of delivered.slice(0, read)) {
        if (sentBefore(world.frames[id]) !== false) continue
        // Brought back by another network's restore: see checkDelivered.
        if (isRolledBack(guest.nics[nth]) && isFormer(world, world.frames[id])) continue
        throw new Violation(
          1,
          `orphan in ${title}: #${id} was read by ${guest.name} before its cut, sent after its sender's`,
        )
      }
      const inTransit = delivered.slice(read).filter((id) => sentBefore(world.frames[id]) === true)
      const host = hostOfPart.get(image.vm)
      for (const [id, times] of compare(
        world,
        title,
        guest.nics[nth],
        inTransit,
        recorded.get(guest.nics[nth].index) ?? [],
      )) {
        const key = `${host} ${id}`
        absent.set(key, Math.max(times, absent.get(key) ?? 0))
      }
    }
  }
  let missing = 0
  for (const times of absent.values()) missing += times
  // A copy that the network made is counted like the frame that it stands for: counts cannot tell them apart.
  // A switch that passes frames on counts a late one once; behind it, the frame is missing as well.
  const counts = waysOf(world.scenario, network).chain ? world.hosts.length : 1
  if (missing > (lost + world.doubled) * counts)
    throw new Violation(2, `${missing} frames in transit are missing in ${title}, ${lost} counted as lost`)
  const counted = world.unarmed.reduce((sum, ids) => sum + ids.length, 0)
  const { faults } = world.scenario
  const isFaultless = faults.every((fault) => !isOfNetwork(fault, network)) && isCalm(world.scenario, network)
  if (isFaultless && Math.max(missing, lost) > counted)
    throw new Violation(2, `nothing went wrong, yet ${title} counts ${lost} frames as lost and misses ${missing}`)
}

/** What was recorded must be a part, in order, of what was in transit. Returns what is missing, and how often. */
function compare(
  world: World,
  title: string,
  nic: Nic,
  inTransit: readonly number[],
  recorded: readonly number[],
): Map<number, number> {
  const missing = new Map<number, number>()
  let at = 0
  for (const id of recorded) {
    const found = inTransit.indexOf(id, at)
    if (found < 0) {
      if (world.crashed.has(nic.guest.index)) continue
      const known = inTransit.includes(id)
        ? 'out of order, or more often than it was delivered'
        : 'though it was not in transit'
      throw new Violation(2, `#${id} is in the channel state of ${nic.guest.name} in ${title} ${known}`)
    }
    for (const passed of inTransit.slice(at, found)) missing.set(passed, (missing.get(passed) ?? 0) + 1)
    at = found + 1
  }
  for (const passed of inTransit.slice(at)) missing.set(passed, (missing.get(passed) ?? 0) + 1)
  return missing
}

/** 3 and 5, for any network: nothing from a former incarnation; nothing more often than the network made of it. */
function checkDelivered(world: World, nic: Nic, undisturbed: boolean): void {
  const seen = new Set<number>()
  const lastOf = new Map<string, number>()
  for (const id of nic.log.delivered) {
    if (id < 0) continue
    const frame = world.frames[id]
    // What another network's restore has brought back had been read there before this one's undid the sending of it.
    if (isFormer(world, frame) && !isRolledBack(nic))
      throw new Violation(5, `#${id} reached ${nic.guest.name} from a former incarnation of vm${frame.vm}`)
    // While nobody has told a peer that an address is a member's, the plain copy of what is flooded from it counts as
    // an outsider's there if it comes alone, or first: on a LAN that loses what tells, or where a switch has just
    // started anew, that reorders.
    const { loss, reorder } = world.scenario.trunk
    const errs = loss > 0 || (reorder && world.restarts)
    const unclaimed = world.lan !== null && errs
    if (seen.has(id) && world.doubled === 0 && !unclaimed && !isRolledBack(nic))
      throw new Violation(3, `#${id} was delivered to ${nic.guest.name} twice`)
    seen.add(id)
    // A sender that a restore of another network has moved: its frames come from two hosts.
    if (!undisturbed || (frame.vm !== OUTSIDE && isRolledBack(world.nics[frame.nic]))) continue
    const sender = orderedWith(world, frame)
    const last = lastOf.get(sender)
    if (last !== undefined && world.frames[last].at >= frame.at && last >= id)
      throw new Violation(3, `#${id} was delivered to ${nic.guest.name} after #${last}, which was sent later`)
    lastOf.set(sender, id)
  }
}

/** Whether a restore of its network has undone the sending of it. */
function isFormer(world: World, { id, vm, at }: SentFrame): boolean {
  if (vm === OUTSIDE || world.unsentElsewhere.has(id)) return false
  return world.guests[vm].alive && world.guests[vm].log.sent[at] !== id
}

/** Whose frames come in the order in which they were sent: a sender's; on the fast path, a pair of addresses'. */
function orderedWith({ scenario }: World, { vm, nic, bytes }: SentFrame): string {
  const sender = vm === OUTSIDE ? `station ${nic}` : `p${nic}`
  return scenario.fastPath ? `${sender} ${bytes.toString('latin1', ADDRESSES_AT, ADDRESSES_END)}` : sender
}

/** 3 and 5, when the network loses nothing: all that was sent to a NIC has reached it. */
function checkEverything(world: World, nic: Nic): void {
  const seen = new Set(nic.log.delivered)
  const require = (frame: SentFrame) => {
    const fromOther = frame.nic !== nic.index || frame.vm === OUTSIDE
    const isHere = world.networkOf(frame) === nic.network
    const mine = frame.toVm === BROADCAST ? fromOther && isHere : isTo(world, frame, nic)
    if (mine && !seen.has(frame.id) && !world.unarmed[nic.index].includes(frame.id)) {
      const restored = nic.guest.origin !== null
      throw new Violation(restored ? 5 : 3, `#${frame.id} was sent to ${nic.guest.name} and never delivered`)
    }
  }
  for (const guest of world.guests) {
    for (const id of guest.log.sent) {
      const frame = world.frames[id]
      // One that another network's restore has brought forward again has sent what its receiver, restored before, has
      // not got.
      if (!isRolledBack(world.nics[frame.nic])) require(frame)
    }
  }
  if (wasRestored(world)) return
  for (const frame of world.frames) if (frame.vm === OUTSIDE) require(frame)
}

function isTo(world: World, frame: SentFrame, nic: Nic): boolean {
  return frame.toVm >= 0 && world.guests[frame.toVm].nics[frame.toNic] === nic
}

/**
 * The outside world, too, hears everything that is for it, once; what is for others only where nobody knew who they
 * are.
 */
function checkOutside(world: World): void {
  for (const station of world.scenario.outside) {
    const heard = new Map<number, number>()
    for (const id of world.outside[station]) heard.set(id, (heard.get(id) ?? 0) + 1)
    for (const frame of world.frames) {
      const isMine =
        frame.toVm === BROADCAST
          ? !isFrom(frame, station) && world.networkOf(frame) === 0
          : frame.toVm === OUTSIDE && frame.toNic === station
      const times = heard.get(frame.id) ?? 0
      const where = station === LAN_STATION ? 'on the LAN' : `outside of h${station}`
      if (isMine && times !== 1) throw new Violation(3, `#${frame.id} was heard ${times} times ${where}`)
      if (!isMine && times > 0 && station === LAN_STATION && world.scenario.announced && frame.vm !== OUTSIDE)
        throw new Violation(6, `#${frame.id} was heard ${where}, though it was not for the outside world`)
    }
  }
}

const isFrom = (frame: SentFrame, station: number) => frame.vm === OUTSIDE && frame.nic === station

/** 4: everything ends, in time; gates open, machines running. */
function checkTermination(world: World): void {
  if (!world.isQuiet()) throw new Violation(4, `not at rest after ${Math.round(world.time.now)} ms: ${unrest(world)}`)
  for (const { order, name, startedAt, endedAt, error } of world.outcomes) {
    if (endedAt - startedAt > order.deadline + undoingMs(order))
      throw new Violation(
        4,
        `${order.kind} ${name} took ${Math.round(endedAt - startedAt)} ms, deadline ${order.deadline} ms`,
      )
    // HELLOs that come late by the scenario's will may make a peer seem down; then there may be nothing to restore.
    const mustSucceed =
      isCalm(world.scenario, order.network) &&
      world.guests.some((guest) => guest.isIn(order.network ?? 0)) &&
      !isHindered(world, order) &&
      order.deadline >= 10_000 &&
      !['PEER_DOWN', 'SNAPSHOT_UNKNOWN'].includes(error?.code ?? '')
    if (error !== null && mustSucceed)
      throw new Violation(4, `nothing went wrong, yet ${order.kind} ${name} failed: ${error.message}`)
  }
  for (const guest of world.guests) {
    const host = world.hosts[guest.host]
    const isKnown = guest.nics.every((nic) => host.remembers(nic) && host.daemon?.ports.nics().includes(nic))
    if (guest.alive && !isKnown) throw new Violation(4, `${guest.name} runs, but ${host.name} has no ports for it`)
  }
  for (const manifest of world.catalogue.values()) {
    if (manifest.state === 'pending') throw new Violation(4, `snapshot ${manifest.name} is still pending`)
    if (manifest.state !== 'complete') continue
    for (const part of manifest.parts) {
      const kept = world.hostOf(part.host).disk.parts.get(manifest.name)
      if (kept?.epoch !== manifest.epoch)
        throw new Violation(4, `snapshot ${manifest.name} is complete, but ${part.host} has no part of it`)
    }
  }
}

function unrest(world: World): string {
  const found: string[] = []
  if (world.coordinator.busy !== null) found.push(`the coordinator is at ${world.coordinator.busy}`)
  for (const host of world.hosts) {
    const { daemon } = host
    if (daemon === null) {
      found.push(`${host.name} is down`)
      continue
    }
    for (const network of world.networks) {
      const busy = daemon.busy(network)
      if (busy !== null) found.push(`${host.name} is at ${busy}`)
    }
    for (const { snapshots, ports, network } of daemon.worker?.forwarders ?? []) {
      const where = `${host.name}, ${network.options.network}`
      if (snapshots.openEpoch !== null) found.push(`${where} has e${snapshots.openEpoch} open`)
      for (const port of ports) {
        if (port.closed) found.push(`the gate of ${port.spec.vm} on ${where} is closed`)
        if (port.hold.length > 0)
          found.push(`${port.hold.length} frames are held for ${port.spec.vm} at e${port.epoch} on ${where}`)
      }
    }
  }
  for (const guest of world.guests) if (guest.alive && !guest.running) found.push(`${guest.name} is paused`)
  return found.join('; ') || 'frames are under way'
}

/** Whether a network that shares a machine with it may have been busy meanwhile. */
function isHindered(world: World, order: Order): boolean {
  const { network = 0 } = order
  const mine = world.outcomes.find((outcome) => outcome.order === order)
  return world.outcomes.some(
    (other) =>
      (other.order.network ?? 0) !== network &&
      shareMachine(world.scenario, other.order.network ?? 0, network) &&
      mine !== undefined &&
      other.startedAt <= mine.endedAt &&
      mine.startedAt <= other.endedAt + undoingMs(other.order),
  )
}

/**
 * By the restore of another network: what was under way to it there went to nobody, or comes to it again where it is
 * now.
 */
function isRolledBack({ guest, network }: Nic): boolean {
  return [...guest.restoredBy].some((one) => one !== network)
}

function wasRestored(world: World): boolean {
  return world.guests.some((guest) => guest.origin !== null)
}
