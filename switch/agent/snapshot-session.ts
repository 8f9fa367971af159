// Performs one host's part of a snapshot: the effects that local-snapshot.ts decides on, with real machines, the real
// datapath and real time. Every wait has the session's deadline; however it ends, gates are open and machines run.

import { join } from 'node:path'
import type { LocalEvent, LocalPart, MemberPart, Policy } from '../../src/api/schemas.js'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import { syncFile } from '../../src/files/durable.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import type {
  Capture,
  MachineControl,
  MachineDefinition,
  MachineInfo,
  SealInfo,
} from '../../src/hypervisor/hypervisor.js'
import { writeChannel } from '../../src/trace/channel.js'
import { Counter, ROW } from '../forwarding/counters.js'
import type { ChannelClosed } from '../forwarding/snapshot-side.js'
import type { PortEntry } from '../ports.js'
import { type Host, nowUs } from './host.js'
import { type LocalEffect, type LocalInput, LocalSnapshot } from './local-snapshot.js'
import { macOf } from './machines.js'
import type { MemberEffect } from './member-cut.js'

/** How long a guest may take to read what it was sent before it is paused all the same. */
const SETTLE_MS = 20
const SETTLE_STEP_MS = 1

/** A machine on its way through the cut; times in microseconds of CLOCK_REALTIME. */
interface Member {
  readonly vm: string
  readonly ports: readonly PortEntry[]
  readonly control: MachineControl
  readonly info: MachineInfo
  readonly definition: MachineDefinition
  capture: Capture | null
  seal: SealInfo | null
  paused: boolean
  readonly times: {
    gatedAtUs: number
    pausedAtUs: number
    cutAtUs: number
    resumedAtUs: number
    releasedAtUs: number
    sealedAtUs: number
  }
  residue: number
  lost: number
  /** Counters of its ports when the snapshot began: held, early, recorded. */
  readonly before: { held: number; early: number; recorded: number }
  /** The step under way: recovery waits for it, so that no two steps of one machine overlap. */
  step: Promise<void>
}

export interface SessionRequest {
  readonly network: string
  readonly snapshot: string
  readonly epoch: number
  readonly policy: Policy
  readonly deadlineMs: number
}

export class SnapshotSession {
  readonly request: SessionRequest
  /** Settles when the session has ended, either way. */
  readonly ended: Promise<void>
  error: ErrorReport | null = null
  private readonly host: Host
  private readonly machine: LocalSnapshot
  private readonly members: ReadonlyMap<string, Member>
  /** On the clock of performance.now(). */
  private readonly deadline: number
  private readonly timer: NodeJS.Timeout
  private readonly listeners = new Set<(event: LocalEvent) => void>()
  private readonly past: LocalEvent[] = []
  private closures: readonly ChannelClosed[] = []
  private resolveEnded!: () => void

  private constructor(host: Host, request: SessionRequest, members: readonly Member[], deadline: number) {
    this.host = host
    this.request = request
    this.deadline = deadline
    this.members = new Map(members.map((member) => [member.vm, member]))
    this.machine = new LocalSnapshot(members.map((member) => member.vm))
    this.ended = new Promise((resolve) => {
      this.resolveEnded = resolve
    })
    const late = new SnapswitchError(
      'DEADLINE',
      `the snapshot did not finish within ${request.deadlineMs} ms`,
      'Give it more time with --deadline, or look at the log for what was slow.',
    )
    this.timer = setTimeout(() => this.abort(late.report()), deadline - performance.now())
  }

  /** Does the slow work before the cut: connects, makes overlays, opens image files, arms the ports. On failure nothing is left. */
  static async prepare(host: Host, request: SessionRequest): Promise<SnapshotSession> {
    const deadline = performance.now() + request.deadlineMs
    const { network, snapshot } = request
    const names = host.ports.machinesOf(network)
    await host.store.create(network, snapshot, host.name, names)
    const members: Member[] = []
    try {
      await host.epochs.raise(network, request.epoch)
      host.datapath.rememberEpoch(network, request.epoch)
      const prepared = await Promise.allSettled(names.map((vm) => prepareMember(host, request, vm, deadline)))
      for (const result of prepared) if (result.status === 'fulfilled') members.push(result.value)
      const failed = prepared.find((result) => result.status === 'rejected')
      if (failed !== undefined) throw failed.reason
      await host.datapath.call('arm', {
        network,
        ports: members.flatMap((member) => member.ports.map((port) => port.index)),
      })
    } catch (thrown) {
      for (const { control } of members) {
        await control.abandon().catch(() => undefined)
        await control.close().catch(() => undefined)
      }
      await host.store.remove(network, snapshot)
      throw thrown
    }
    return new SnapshotSession(host, request, members, deadline)
  }

  get machines(): string[] {
    return [...this.members.keys()]
  }

  take(): void {
    this.input({ kind: 'take' })
  }

  early(): void {
    this.input({ kind: 'early' })
  }

  channelsClosed(closures: readonly ChannelClosed[]): void {
    this.closures = closures
    this.publish({ type: 'closed', closures: this.closureRecords() })
    this.input({ kind: 'closed' })
  }

  abort(error: ErrorReport): void {
    this.input({ kind: 'abort', error })
  }

  /** Hears every event of the session from its beginning; returns how to stop. */
  listen(listener: (event: LocalEvent) => void): () => void {
    for (const event of this.past) listener(event)
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  private publish(event: LocalEvent): void {
    this.past.push(event)
    for (const listener of this.listeners) listener(event)
  }

  private input(input: LocalInput): void {
    for (const effect of this.machine.step(input)) this.perform(effect)
  }

  private fail(thrown: unknown): void {
    const error = asSnapswitchError(thrown)
    this.host.log.error({ err: error, snapshot: this.request.snapshot }, 'snapshot step failed')
    this.abort(error.report())
  }

  private perform(effect: LocalEffect): void {
    const { network, epoch, policy } = this.request
    switch (effect.kind) {
      case 'begin': {
        const until = nowUs() / 1000 + (this.deadline - performance.now())
        this.host.datapath.call('begin', { network, epoch, policy, until }).catch((thrown) => this.fail(thrown))
        return
      }
      case 'member': {
        const member = this.members.get(effect.vm)!
        member.step = member.step
          .then(() => this.performForMember(member, effect.effect))
          .catch((thrown) => this.fail(thrown))
        return
      }
      case 'write':
        this.write().then(
          (part) => {
            this.publish({ type: 'done', part })
            this.input({ kind: 'written' })
          },
          (thrown) => this.fail(thrown),
        )
        return
      case 'advance':
        this.host.datapath
          .call('advance', { network, epoch })
          .catch((thrown) => this.host.log.error({ err: thrown }, 'cannot advance'))
        return
      case 'finish':
        this.finish(effect.error)
    }
  }

  private async performForMember(member: Member, effect: MemberEffect): Promise<void> {
    const { datapath } = this.host
    const { network, epoch } = this.request
    const { vm, control, times } = member
    const ports = member.ports.map((port) => port.index)
    const say = (event: 'gated' | 'settled' | 'paused' | 'flipped' | 'resumed' | 'released' | 'sealed' | 'recovered') =>
      this.input({ kind: 'member', vm, event })
    switch (effect) {
      case 'gate':
        await datapath.call('gate', { network, ports })
        times.gatedAtUs = nowUs()
        return say('gated')
      case 'settle':
        await this.settle(member)
        return say('settled')
      case 'pause':
        member.paused = true
        times.pausedAtUs = (await control.pause(this.deadline)).pausedAtUs
        this.publish({ type: 'paused', vm, atUs: times.pausedAtUs })
        return say('paused')
      case 'flip': {
        const residue = await this.residue(member)
        const flipped = await datapath.call('flip', { network, ports, epoch, residue })
        times.cutAtUs = flipped.atUs
        for (const port of flipped.ports) {
          member.residue += port.recorded
          member.lost += port.lost
        }
        this.publish({ type: 'cut', vm, atUs: times.cutAtUs })
        return say('flipped')
      }
      case 'capture': {
        const capture = control.capture(this.deadline)
        member.capture = capture
        capture.sealed.then(
          (seal) => {
            member.seal = seal
            times.sealedAtUs = nowUs()
            this.publish({ type: 'sealed', vm, bytes: seal.memoryBytes })
            say('sealed')
          },
          (thrown) => this.fail(thrown),
        )
        times.resumedAtUs = (await capture.resumed).resumedAtUs
        member.paused = false
        this.publish({ type: 'resumed', vm, atUs: times.resumedAtUs })
        return say('resumed')
      }
      case 'release':
        times.releasedAtUs = (await datapath.call('release', { network, ports })).atUs
        return say('released')
      case 'recover':
        await this.recover(member)
        return say('recovered')
    }
  }

  /** Waits until the guest has read what it was sent, but not long: what it has not read becomes residue. */
  private async settle(member: Member): Promise<void> {
    const end = performance.now() + SETTLE_MS
    const unread = () => member.ports.some((port) => this.host.unread.of(port.index, port.ifindex) > 0)
    while (unread() && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, SETTLE_STEP_MS))
  }

  /**
   * Frames that the paused guest has been sent and has not got, per port. A paused QEMU still takes one frame out of the
   * TAP, into a queue of its own that no image holds (test/linux/tap-qemu.test.ts): give it the time, then add that one.
   */
  private async residue(member: Member): Promise<number[]> {
    const unread = () => member.ports.map((port) => this.host.unread.of(port.index, port.ifindex))
    if (unread().every((count) => count === 0)) return member.ports.map(() => 0)
    await new Promise((resolve) => setTimeout(resolve, SETTLE_STEP_MS))
    return unread().map((count) => (count === 0 ? 0 : count + 1))
  }

  /** Whatever happened: the guest runs, its gates are open, nothing of the capture is left. Never throws. */
  private async recover(member: Member): Promise<void> {
    const { log, datapath } = this.host
    const quietly = async (what: string, work: Promise<unknown>) => {
      await work.catch((thrown) => log.warn({ err: thrown, vm: member.vm }, what))
    }
    // Past the session's deadline these steps still get a few seconds: a guest must not stay paused.
    const soon = performance.now() + 5000
    if (member.paused && member.capture === null) await quietly('cannot resume', member.control.resume(soon))
    await quietly(
      'cannot release',
      datapath.call('release', { network: this.request.network, ports: member.ports.map((port) => port.index) }),
    )
    if (member.capture === null) await quietly('cannot abandon', member.control.abandon())
    else {
      await quietly('capture failed', member.capture.sealed)
      for (const disk of member.seal?.disks ?? [])
        await quietly('cannot merge', member.control.mergeFrozen(disk, performance.now() + 30_000))
    }
  }

  private async write(): Promise<LocalPart> {
    const { host, request } = this
    const { network, snapshot, epoch } = request
    const { frames, overflow } = await host.datapath.call('end', { network })
    const channelFrames = frames.map((frame) => {
      const port = host.ports.byIndex(frame.port)
      return {
        port: port?.name ?? `port-${frame.port}`,
        vm: port?.vm ?? 'unknown',
        color: frame.copy.color,
        verdict: frame.verdict,
        timeNs: BigInt(Math.round(frame.at * 1000)) * 1000n,
        vnetHeader: frame.copy.bytes.subarray(0, VNET_HEADER_LENGTH),
        vlanTag: frame.copy.tagTpid === 0 ? null : { tpid: frame.copy.tagTpid, tci: frame.copy.tagTci },
        bytes: frame.copy.bytes.subarray(VNET_HEADER_LENGTH),
      }
    })
    const channel = await host.store.writeFile(
      network,
      snapshot,
      join('hosts', host.name, 'channel.pcapng'),
      writeChannel(channelFrames),
    )
    const members: MemberPart[] = []
    for (const member of this.members.values()) {
      for (const port of member.ports) member.lost += overflow.get(port.index) ?? 0
      const recorded = channelFrames.filter((frame) => frame.vm === member.vm).length
      members.push(await this.memberPart(member, recorded))
    }
    const part: LocalPart = {
      host: host.name,
      bootId: host.bootId,
      network,
      snapshot,
      epoch,
      members,
      channel,
      closures: this.closureRecords(),
    }
    await host.store.writePart(part)
    return part
  }

  private async memberPart(member: Member, recorded: number): Promise<MemberPart> {
    const { store, ports } = this.host
    const { network, snapshot } = this.request
    const seal = member.seal!
    const after = countersOf(this.host, member.ports)
    const definition = JSON.parse(JSON.stringify(member.definition)) as MachineDefinition
    await store.writeFile(
      network,
      snapshot,
      join('vms', member.vm, 'definition.json'),
      JSON.stringify(definition, null, 2),
    )
    const disks = await Promise.all(
      seal.disks.map(async (disk) => ({
        name: disk.name,
        overlay: disk.overlay,
        layers: await Promise.all(
          disk.layers.map(async ({ file, format }) => ({ file: await store.reference(file), format })),
        ),
      })),
    )
    return {
      vm: member.vm,
      ports: member.ports.map((port) => ports.record(port, macOf(member.info.nics, port.device))),
      definition,
      memory: { path: seal.memoryFile, bytes: seal.memoryBytes, digest: seal.memoryDigest },
      disks,
      captureMode: member.info.captureMode,
      ...member.times,
      held: after.held - member.before.held,
      early: after.early - member.before.early,
      recorded,
      residue: member.residue,
      lost: member.lost,
    }
  }

  private closureRecords() {
    return this.closures.map(({ port, host, expected, received, lost, byCount }) => ({
      port: this.host.ports.byIndex(port)?.name ?? `port-${port}`,
      host,
      expected,
      received,
      lost,
      byCount,
    }))
  }

  private finish(error: ErrorReport | null): void {
    clearTimeout(this.timer)
    this.error = error
    const { network, snapshot } = this.request
    const cleanUp = async () => {
      for (const { control } of this.members.values()) await control.close().catch(() => undefined)
      if (error !== null) await this.host.store.remove(network, snapshot)
    }
    cleanUp()
      .catch((thrown) => this.host.log.error({ err: thrown }, 'cannot clean up after the snapshot'))
      .finally(() => {
        if (error !== null) this.publish({ type: 'failed', error })
        this.host.log.info(
          { network, snapshot, error: error?.code ?? null },
          error === null ? 'snapshot part complete' : 'snapshot part undone',
        )
        this.resolveEnded()
      })
  }
}

async function prepareMember(host: Host, request: SessionRequest, vm: string, deadline: number): Promise<Member> {
  const control = await host.machines.attach(vm, deadline)
  try {
    const info = await control.inspect(deadline)
    if (info.state !== 'running') {
      throw new SnapswitchError(
        'MACHINE_NOT_RUNNING',
        `machine ${vm} is ${info.state}`,
        'Resume it, or take its port out of the network.',
      )
    }
    const definition = await control.definition(deadline)
    await control.prepare(
      {
        directory: host.store.machineImages(request.network, request.snapshot, vm),
        label: `${request.snapshot}-e${request.epoch}`,
      },
      deadline,
    )
    // Stopping a guest flushes its disks; what is written back now does not prolong the pause.
    for (const { layers } of info.disks) if (layers[0] !== undefined) await syncFile(layers[0].file)
    const ports = host.ports.ofMachine(vm)
    const times = { gatedAtUs: 0, pausedAtUs: 0, cutAtUs: 0, resumedAtUs: 0, releasedAtUs: 0, sealedAtUs: 0 }
    return {
      vm,
      ports,
      control,
      info,
      definition,
      capture: null,
      seal: null,
      paused: false,
      times,
      residue: 0,
      lost: 0,
      before: countersOf(host, ports),
      step: Promise.resolve(),
    }
  } catch (thrown) {
    await control.abandon().catch(() => undefined)
    await control.close().catch(() => undefined)
    throw thrown
  }
}

function countersOf(host: Host, ports: readonly PortEntry[]): { held: number; early: number; recorded: number } {
  const sum = (counter: number) =>
    ports.reduce((total, port) => total + host.datapath.counters[port.index * ROW + counter], 0)
  return { held: sum(Counter.held), early: sum(Counter.early), recorded: sum(Counter.recorded) }
}
