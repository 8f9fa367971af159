// Performs one host's part of a snapshot: the effects that local-snapshot.ts decides on, with real machines, the real
// datapath and real time. Every wait has the session's deadline; however it ends, gates are open and machines run.

import type { LocalEvent, LocalPart } from '../../../src/api/schemas.js'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../../src/errors/errors.js'
import type { ChannelClosed } from '../../forwarding/snapshot/open-snapshot.js'
import { advance, gateOthers, release, releaseAll, releaseOthers } from '../gates.js'
import type { Host } from '../host.js'
import { PriorityBoost } from '../priority-boost.js'
import { captureCalledOff } from '../refusals.js'
import { Semaphore } from '../semaphore.js'
import { SessionEvents } from '../session-events.js'
import { type LocalEffect, type LocalInput, LocalSnapshot, type LocalState } from './local-snapshot.js'
import { type Member, prepareMember, residueOf, type SessionRequest, settle } from './member.js'
import type { MemberEffect } from './member-cut.js'
import { recover } from './member-recovery.js'
import { closureRecords, writePart } from './part.js'
import { Recording } from './recording.js'

export class SnapshotSession {
  readonly request: SessionRequest
  /** Settles when the session has ended, either way. */
  readonly ended: Promise<void>
  error: ErrorReport | null = null
  readonly #host: Host
  readonly #machine: LocalSnapshot
  readonly #recording: Recording | null
  readonly #members: ReadonlyMap<string, Member>
  /** On the host's clock. */
  readonly #deadline: number
  readonly #stopTimer: () => void
  readonly #events = new SessionEvents()
  readonly #boost: PriorityBoost
  #closures: readonly ChannelClosed[] = []
  #writing: Promise<unknown> = Promise.resolve()
  /** Ends the writing of a part that nobody wants: large disks take minutes to be digested. */
  readonly #calledOff = new AbortController()
  #resolveEnded!: () => void
  /** From gate to flip, which keep two cores busy, the daemon's and the hypervisor's; the rest QEMU does by itself. */
  readonly #slots: Semaphore

  private constructor(
    host: Host,
    request: SessionRequest,
    members: readonly Member[],
    recording: Recording | null,
    deadline: number,
  ) {
    this.#host = host
    this.#boost = new PriorityBoost(host)
    this.#slots = new Semaphore(Math.max(1, Math.floor(host.processor.cores / 2)))
    this.#recording = recording
    this.request = request
    this.#deadline = deadline
    this.#members = new Map(members.map((member) => [member.vm, member]))
    this.#machine = new LocalSnapshot(members.map((member) => member.vm))
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve
    })
    const late = new SnapswitchError(
      'DEADLINE',
      `the snapshot did not finish within ${request.deadlineMs} ms`,
      'Give it more time with --deadline, or look at the log for what was slow.',
    )
    this.#stopTimer = host.clock.after(deadline - host.clock.now().ms, () => this.abort(late.report()))
    this.#boost.expectTake()
  }

  /**
   * Does the slow work before the cut: connects, makes overlays, opens image files, arms the ports. On failure nothing
   * is left. It fails soon after `calledOff` is aborted.
   */
  static async prepare(host: Host, request: SessionRequest, calledOff: AbortSignal): Promise<SnapshotSession> {
    const deadline = host.clock.now().ms + request.deadlineMs
    const { network, snapshot } = request
    const names = host.ports.machinesOf(network)
    await host.store.create(network, snapshot, host.name, names)
    const members: Member[] = []
    let recording: Recording | null = null
    try {
      await host.epochs.raise(network, request.epoch)
      host.datapath.rememberEpoch(network, request.epoch)
      // The first that fails calls the others off: what they do may take long.
      const failed = new AbortController()
      const signal = AbortSignal.any([calledOff, failed.signal])
      const prepare = async (vm: string) => {
        try {
          return [await prepareMember(host, request, vm, deadline, signal)]
        } catch (thrown) {
          failed.abort(thrown)
          return []
        }
      }
      members.push(...(await Promise.all(names.map(prepare))).flat())
      if (failed.signal.aborted) throw failed.signal.reason
      if (request.record === true) recording = await Recording.start(host, request)
      // What preparing has left behind; in the cut there is no time for it.
      host.processor.collectGarbage()
      await host.datapath.call('arm', {
        network,
        ports: members.flatMap((member) => member.ports.map((port) => port.index)),
      })
    } catch (thrown) {
      await recording?.stop().catch(() => undefined)
      for (const { control } of members) {
        await control.abandon().catch(() => undefined)
        await control.close().catch(() => undefined)
      }
      await host.store.remove(network, snapshot)
      throw thrown
    }
    return new SnapshotSession(host, request, members, recording, deadline)
  }

  get state(): LocalState {
    return this.#machine.state
  }

  get machines(): string[] {
    return [...this.#members.keys()]
  }

  take(): void {
    this.#input({ kind: 'take' })
  }

  early(): void {
    this.#input({ kind: 'early' })
  }

  channelsClosed(closures: readonly ChannelClosed[]): void {
    this.#closures = closures
    this.#recording?.endSoon()
    this.#publish({ type: 'closed', closures: closureRecords(this.#host, this.#closures) })
    this.#input({ kind: 'closed' })
  }

  abort(error: ErrorReport): void {
    this.#input({ kind: 'abort', error })
    if (!['writing', 'done'].includes(this.#machine.state)) this.#calledOff.abort(captureCalledOff)
  }

  portMoved(vm: string, error: ErrorReport): void {
    this.#input({ kind: 'moved', vm, error })
  }

  /** Hears every event of the session from its beginning; returns how to stop. */
  listen(listener: (event: LocalEvent) => void): () => void {
    return this.#events.listen(listener)
  }

  #publish(event: LocalEvent): void {
    this.#events.add(event)
    this.#boost.afterwards(() => this.#events.tell())
  }

  #input(input: LocalInput): void {
    for (const effect of this.#machine.step(input)) this.#perform(effect)
  }

  #fail(thrown: unknown): void {
    const error = asSnapswitchError(thrown)
    this.#host.log.error({ err: error, snapshot: this.request.snapshot }, 'snapshot step failed')
    this.abort(error.report())
  }

  #perform(effect: LocalEffect): void {
    const { network, epoch, policy } = this.request
    switch (effect.kind) {
      case 'begin': {
        this.#boost.begin(this.#host.datapath.thread)
        const { ms, wallUs } = this.#host.clock.now()
        const until = wallUs / 1000 + (this.#deadline - ms)
        this.#host.datapath.call('begin', { network, epoch, policy, until }).catch((thrown) => this.#fail(thrown))
        return
      }
      case 'member': {
        const member = this.#members.get(effect.vm)!
        // The step under way waits for its guest to run, which may stand still for as long as it is saved.
        if (effect.effect === 'recover') member.capture?.callOff(captureCalledOff)
        member.step = member.step
          .then(() => this.#performForMember(member, effect.effect))
          .catch((thrown) => this.#fail(thrown))
        return
      }
      case 'write':
        this.#writePart().then(
          (part) => {
            this.#input({ kind: 'written' })
            // Called off while it was written: then it is not done.
            if (this.#machine.state === 'done') this.#publish({ type: 'done', part })
          },
          (thrown) => this.#fail(thrown),
        )
        return
      case 'advance':
        advance(this.#host, network, epoch).catch((thrown) => this.#host.log.error({ err: thrown }, 'cannot advance'))
        return
      case 'finish':
        this.#finish(effect.error)
    }
  }

  async #performForMember(member: Member, effect: MemberEffect): Promise<void> {
    const { datapath } = this.#host
    const { network, epoch } = this.request
    const { vm, control, times } = member
    const ports = member.ports.map((port) => port.index)
    const say = (event: 'gated' | 'settled' | 'paused' | 'flipped' | 'resumed' | 'released' | 'sealed' | 'recovered') =>
      this.#input({ kind: 'member', vm, event })
    switch (effect) {
      case 'gate':
        // One that stands still for as long as its memory is saved must not keep the others waiting.
        if (member.info.captureMode !== 'stopped') {
          await this.#slots.acquire()
          member.hasSlot = true
        }
        // Called off meanwhile: it stays as it is.
        if (this.#machine.members.get(vm)?.state !== 'gating') return
        control.hasten()
        await datapath.call('gate', { network, ports })
        await gateOthers(this.#host, member.otherPorts)
        times.gatedAtUs = this.#host.clock.now().wallUs
        return say('gated')
      case 'settle':
        await settle(this.#host, member.ports)
        times.settledAtUs = this.#host.clock.now().wallUs
        return say('settled')
      case 'pause':
        member.paused = true
        times.pausedAtUs = (await control.pause(this.#deadline)).pausedAtUs
        this.#publish({ type: 'paused', vm, atUs: times.pausedAtUs })
        return say('paused')
      case 'flip': {
        const residue = await residueOf(this.#host, member.ports)
        const flipped = await datapath.call('flip', { network, ports, epoch, residue })
        times.cutAtUs = flipped.atUs
        for (const port of flipped.ports) {
          member.residue += port.recorded
          member.lost += port.lost
        }
        this.#publish({ type: 'cut', vm, atUs: times.cutAtUs })
        return say('flipped')
      }
      case 'capture': {
        const capture = control.capture(this.#deadline)
        member.capture = capture
        this.#releaseSlot(member)
        capture.sealed.then(
          (seal) => {
            member.seal = seal
            times.sealedAtUs = this.#host.clock.now().wallUs
            this.#publish({ type: 'sealed', vm, bytes: seal.memoryBytes })
            say('sealed')
          },
          (thrown) => this.#fail(thrown),
        )
        Object.assign(times, await capture.resumed)
        member.paused = false
        this.#publish({ type: 'resumed', vm, atUs: times.resumedAtUs })
        this.#boost.afterwards(() => this.#noteResumed(vm))
        return say('resumed')
      }
      case 'release':
        times.releasedAtUs = await release(this.#host, network, ports)
        await releaseOthers(this.#host, member.otherPorts)
        if ([...this.#members.values()].every(({ times: { releasedAtUs } }) => releasedAtUs > 0)) this.#boost.end()
        return say('released')
      case 'recover':
        await recover(this.#host, this.request, member, () => releaseAll(this.#host, network, ports, member.otherPorts))
        this.#releaseSlot(member)
        return say('recovered')
    }
  }

  #writePart(): Promise<LocalPart> {
    const { signal } = this.#calledOff
    const written = writePart(this.#host, this.request, [...this.#members.values()], this.#recording, signal)
    this.#writing = written
    return written
  }

  #noteResumed(vm: string): void {
    const { journal, log } = this.#host
    journal
      .noteResumed(this.request.network, this.request.snapshot, vm)
      .catch((thrown) => log.warn({ err: thrown, vm }, 'cannot note that it runs'))
  }

  #releaseSlot(member: Member): void {
    if (member.hasSlot) this.#slots.release()
    member.hasSlot = false
  }

  #finish(failure: ErrorReport | null): void {
    this.#stopTimer()
    this.#boost.end()
    const stuck = [...this.#members.values()].find((member) => member.stuck !== null)?.stuck?.report() ?? null
    const error = stuck === null ? failure : { ...stuck, message: `${stuck.message} (${failure?.message})` }
    this.error = error
    const { network, snapshot } = this.request
    const cleanUp = async () => {
      await this.#recording?.stop().catch(() => undefined)
      for (const { control } of this.#members.values()) await control.close().catch(() => undefined)
      if (error === null) return
      await this.#writing.catch(() => undefined)
      const left = [...this.#members.values()].some((member) => member.left)
      if (stuck === null && !left) await this.#host.store.remove(network, snapshot)
    }
    cleanUp()
      .catch((thrown) => this.#host.log.error({ err: thrown }, 'cannot clean up after the snapshot'))
      .finally(() => {
        if (error !== null) this.#publish({ type: 'failed', error })
        this.#host.log.info(
          { network, snapshot, error: error?.code ?? null },
          error === null ? 'snapshot part complete' : 'snapshot part undone',
        )
        this.#resolveEnded()
      })
  }
}
