// `snapshot audit`: a snapshot of a real run against the invariants of the protocol, from what every switch has
// recorded of every frame. Pure: manifest, recordings and channel states in, verdict with evidence out. A generator, so
// that who runs it can let others have their turn.
//
//   no orphan          no frame delivered before its receiver's cut was sent after its sender's; colors are what they
//                      must be
//   channel state      each frame sent before its sender's cut and delivered after its receiver's is in it once,
//                      nothing else
//   undisturbed run    every frame reached whom it was for, once, in order
//   termination        all machines cut and resumed, all gates open, all channels closed
//
// What it proves it proves of the recordings. Who can rewrite every file on every host and the manifest so that all
// agree makes up a run, and no audit of files tells; digests that differ between manifest and hosts, and changes that
// break a rule, show.

import type { AuditCheck, AuditVerdict, LocalPart, Manifest } from '../api/schemas.js'
import { address, type EventTable } from '../trace/event-reader.js'
import { type Book, verdictOfAll } from './book.js'
import { type ChannelEntry, checkChannel } from './channel-run.js'
import { type Home, HostRun } from './host-run.js'
import { checkTrunk } from './trunk-run.js'

export interface AuditedHost {
  readonly part: LocalPart
  /** null: they could not be had, or are damaged; the book says why. */
  readonly events: EventTable | null
  readonly channel: readonly ChannelEntry[] | null
}

/** `book`: with what was found while the files were read. */
export function* audit(
  manifest: Manifest,
  hosts: readonly AuditedHost[],
  book: Book,
): Generator<void, { verdict: AuditVerdict; checks: AuditCheck[] }, undefined> {
  checkManifest(manifest, book)
  const homes = homesOf(hosts)
  const runs = new Map<string, HostRun>()
  for (const { part, events } of hosts) {
    if (events === null) continue
    if (!isOf(events, manifest, part)) {
      const what = `the recording of ${part.host} is of another host, snapshot or epoch`
      book.violated('events', { what, host: part.host, file: `hosts/${part.host}/events.pcapng` })
      continue
    }
    const run = new HostRun(events, manifest.epoch, homes, book)
    yield* run.walk()
    runs.set(part.host, run)
    checkDrained(run, part, book)
    for (const [what, count] of run.drops) {
      book.note('undisturbed run', `${part.host}: ${count} frames dropped ${what}`)
      if (manifest.policy !== 'buffer' || !what.endsWith(': early-dropped')) continue
      book.violated('undisturbed run', { what: `early frames dropped though the policy is buffer`, host: part.host })
    }
    for (const port of events.ports) {
      if (port.kind !== 'member' || port.lostAtDevice === 0) continue
      book.note('undisturbed run', `${part.host}: the device of ${port.name} dropped ${port.lostAtDevice} frames`)
    }
    if (events.overflow === 0) continue
    const why = `${part.host}: ${events.overflow} events found no room in the recording`
    for (const check of ['events', 'no orphan', 'channel state', 'undisturbed run', 'termination'] as const) {
      book.incomplete(check, why)
    }
  }
  for (const { part, channel } of hosts) {
    const run = runs.get(part.host)
    if (run === undefined || channel === null) book.incomplete('channel state', `${part.host}: not checked`)
    else if (run.table.overflow === 0) checkChannel(run, channel, part, book)
    yield
  }
  for (const { part } of hosts) {
    checkTrunksInto(part, hosts, runs, book)
    yield
  }
  const checks = book.checks()
  return { verdict: verdictOfAll(checks), checks }
}

function isOf(events: EventTable, manifest: Manifest, part: LocalPart): boolean {
  const { head } = events
  return (
    head.host === part.host &&
    head.network === manifest.network &&
    head.snapshot === manifest.name &&
    head.epoch === manifest.epoch
  )
}

function checkManifest(manifest: Manifest, book: Book): void {
  for (const part of manifest.parts) {
    if (part.epoch !== manifest.epoch) {
      book.violated('termination', { what: `cut at epoch ${part.epoch}, not ${manifest.epoch}`, host: part.host })
    }
    for (const member of part.members) {
      book.examined('termination')
      const { gatedAtUs, pausedAtUs, cutAtUs, resumedAtUs, releasedAtUs } = member
      if ([gatedAtUs, pausedAtUs, cutAtUs, resumedAtUs, releasedAtUs].some((time) => time <= 0)) {
        book.violated('termination', { what: `${member.vm} lacks a step of its cut`, host: part.host })
      } else if (releasedAtUs < gatedAtUs || resumedAtUs < pausedAtUs) {
        book.violated('termination', {
          what: `${member.vm} was released or resumed before it was stopped`,
          host: part.host,
        })
      }
    }
  }
}

/**
 * A machine that stands still sends nothing: a frame that its port gives between the cut and the resume was sent
 * before, and should have been read before the cut, in the old color. What was left in a socket would be read at once,
 * and frames have the time at which their batch began: so the first half of that while counts. Hypervisor and switch
 * each tell their times; a cut outside of its pause says that their clocks differ. Only QEMU's word for the resume is
 * exact enough (`background`, `precopy`), and only network cards (ports with an address in the manifest) pause with
 * their machine.
 */
function checkDrained(run: HostRun, part: LocalPart, book: Book): void {
  const { table } = run
  for (const { vm, ports, captureMode, pausedAtUs, resumedAtUs } of part.members) {
    for (const { name, mac } of ports) {
      const port = table.ports.findIndex((one) => one.name === name && one.vm === vm)
      if (captureMode === 'stopped' || mac === null || port < 0) continue
      const { flip, firstSent } = run.ports[port]
      if (flip < 0 || firstSent < 0) continue
      const cutAtUs = table.timeUs[flip]
      if (cutAtUs < pausedAtUs || cutAtUs > resumedAtUs) {
        book.note('no orphan', `${part.host}: the clocks of ${vm}’s hypervisor and of the switch differ`)
      } else if (table.timeUs[firstSent] < (cutAtUs + resumedAtUs) / 2) {
        book.violatedBy('no orphan', table, firstSent, `sent by ${vm} before its cut, and read after it`)
      }
    }
  }
}

/** Whose address is whose, as the manifest says. One that is said of two ports is nobody's. */
function homesOf(hosts: readonly AuditedHost[]): Map<number, Home> {
  const homes = new Map<number, Home | null>()
  const add = (mac: number, host: string, port: string) => {
    const known = homes.get(mac)
    if (known === undefined) homes.set(mac, { host, port })
    else if (known !== null && (known.host !== host || known.port !== port)) homes.set(mac, null)
  }
  for (const { part } of hosts) {
    for (const member of part.members) {
      for (const { name, mac, network } of member.ports) {
        if (mac !== null && network === undefined)
          add(
            address(
              Uint8Array.from(mac.split(':'), (byte) => Number.parseInt(byte, 16)),
              0,
            ),
            part.host,
            name,
          )
      }
    }
  }
  return new Map([...homes].filter((entry): entry is [number, Home] => entry[1] !== null))
}

function checkTrunksInto(
  part: LocalPart,
  hosts: readonly AuditedHost[],
  runs: ReadonlyMap<string, HostRun>,
  book: Book,
): void {
  const to = runs.get(part.host)
  for (const { name, peer } of to?.table.ports ?? []) {
    if (peer === null || part.closures.some((closure) => closure.host === peer)) continue
    book.violated('termination', { what: `the channel from ${peer} never closed`, host: part.host, port: name })
  }
  for (const closure of part.closures) {
    const peer = hosts.find((other) => other.part.host === closure.host)?.part
    const from = peer === undefined ? undefined : runs.get(peer.host)
    const back = peer?.closures.filter((one) => one.host === part.host) ?? []
    const here = part.closures.filter((one) => one.host === closure.host)
    const why = `trunk ${closure.host ?? '?'} -> ${part.host} was not checked`
    if (to === undefined || from === undefined || back.length !== 1 || here.length !== 1) {
      for (const check of ['no orphan', 'channel state', 'undisturbed run'] as const) book.incomplete(check, why)
      continue
    }
    // Said already.
    if (to.table.overflow > 0 || from.table.overflow > 0) continue
    const portTo = (run: HostRun, peer: string) => run.table.ports.findIndex((port) => port.peer === peer)
    const fromPort = portTo(from, part.host)
    const toPort = portTo(to, from.table.head.host)
    if (fromPort < 0 || toPort < 0) book.violated('events', { what: `no such port: ${why}`, host: part.host })
    else checkTrunk({ from, fromPort, to, toPort, countedLost: closure.lost }, book)
  }
}
