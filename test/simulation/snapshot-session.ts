// One host's part of a snapshot: performs in virtual time what the production LocalSnapshot decides, step for step as
// switch/agent/snapshot-session.ts does it with real machines.

import type { LocalEvent, LocalPart, MemberPart, Policy } from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import { type LocalEffect, type LocalInput, LocalSnapshot } from '../../switch/agent/local-snapshot.js'
import type { MemberEffect, MemberEvent } from '../../switch/agent/member-cut.js'
import type { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { RecordedFrame } from '../../switch/forwarding/snapshot/channel-recorder.js'
import type { ChannelClosed } from '../../switch/forwarding/snapshot/open-snapshot.js'
import { type Agent, type Answer, ignore } from './agent.js'
import { Recording } from './audit.js'
import type { Daemon } from './daemon.js'
import { advanceNetwork, gateOthers, releaseGates, releaseOthers } from './gates.js'
import type { Guest, Image, Nic } from './guest.js'
import { networkName } from './networks.js'
import type { Entry } from './timeline.js'
import { EPOCH_MS } from './worker.js'
import { problem } from './world.js'

const SETTLE_MS = 20
const SETTLE_STEP_MS = 1
const MERGE = 51
const PREPARE = 52
const TURN = 53

export interface SessionRequest {
  readonly snapshot: string
  readonly epoch: number
  readonly policy: Policy
  readonly deadlineMs: number
}

interface Member {
  readonly guest: Guest
  readonly nics: readonly Nic[]
  /** In other networks. */
  readonly others: readonly Nic[]
  readonly ports: readonly number[]
  paused: boolean
  captured: boolean
  /** The capture has come to its end, either way. */
  settled: boolean
  whenSettled: (() => void) | null
  image: Image | null
  times: { gated: number; paused: number; cut: number; resumed: number; released: number; sealed: number }
  residue: number
  lost: number
  /** Steps of one machine never overlap. */
  readonly waiting: MemberEffect[]
  working: boolean
}

export class SnapshotSession {
  readonly daemon: Daemon
  readonly network: number
  private readonly agent: Agent
  readonly request: SessionRequest
  readonly machine: LocalSnapshot
  readonly members: ReadonlyMap<string, Member>
  private readonly deadline: number
  private readonly timer: Entry
  private readonly past: LocalEvent[] = []
  private readonly listeners: ((event: LocalEvent) => void)[] = []
  private readonly waitingForEnd: (() => void)[] = []
  private readonly recording: Recording | null
  private closures: readonly ChannelClosed[] = []
  private part: LocalPart | null = null
  private ended = false

  constructor(
    agent: Agent,
    request: SessionRequest,
    guests: readonly Guest[],
    deadline: number,
    recording: Recording | null,
  ) {
    const { daemon, network } = agent
    this.agent = agent
    this.daemon = daemon
    this.network = network
    this.recording = recording
    this.request = request
    this.deadline = deadline
    this.members = new Map(guests.map((guest) => [guest.name, newMember(guest, network)]))
    this.machine = new LocalSnapshot(guests.map((guest) => guest.name))
    this.timer = daemon.after(deadline - daemon.world.time.now, () =>
      this.abort(problem('DEADLINE', 'the snapshot did not finish in time')),
    )
  }

  static prepare(agent: Agent, request: SessionRequest, answer: Answer<SnapshotSession>): void {
    const { daemon, network } = agent
    const { world, host } = daemon
    const { disk } = host
    const deadline = world.time.now + request.deadlineMs
    // A new worker begins at the epoch that is being prepared: its ports would seem to have been cut.
    const { worker } = daemon
    if (disk.parts.has(request.snapshot)) {
      answer.refused(problem('SNAPSHOT_EXISTS', request.snapshot))
      return
    }
    const guests = agent.members
    const remove = (error: ErrorReport) => agent.remove(request.snapshot, () => answer.refused(error))
    const begin = () => {
      agent.raise(request.epoch, () => {
        const slow = world.wait(PREPARE, host.index, request.epoch, world.scenario.pace.hypervisor * 2)
        daemon.after(slow, () => {
          const idle = guests.find((guest) => !guest.alive || !guest.running)
          if (idle !== undefined) return remove(problem('MACHINE_NOT_RUNNING', idle.name))
          if (daemon.worker !== worker) {
            remove(problem('INTERNAL', 'the datapath failed and was restarted'))
            return
          }
          const nics = guests.flatMap((guest) => guest.nics).filter((nic) => nic.network === network)
          let recording: Recording | null = null
          const arm = () => {
            if (world.scenario.recorded) recording = new Recording(worker, network, request)
            for (const nic of nics) nic.armedAt = nic.log.delivered.length
            worker.forwarders[network].snapshots.arm(nics.map((nic) => nic.index))
          }
          worker.call(
            'arm',
            arm,
            () => {
              if (daemon.worker === worker)
                answer.done(new SnapshotSession(agent, request, guests, deadline, recording))
              else remove(problem('INTERNAL', 'the datapath failed and was restarted'))
            },
            (reason) => remove(problem('INTERNAL', reason)),
          )
        })
      })
    }
    agent.durably(
      () => disk.unfinished.set(request.snapshot, { network, machines: guests.map((guest) => guest.index) }),
      begin,
    )
  }

  private get forwarder(): Forwarder {
    return this.daemon.worker.forwarders[this.network]
  }

  take(): void {
    const { worker, world, host } = this.daemon
    const since = this.machine.state === 'prepared' ? worker.earlySince[this.network] : null
    if (since !== null && world.time.now - since > 1 + 2 * world.scenario.pace.poll)
      world.violation(4, `early frames have waited on ${host.name} for a TAKE instead of asking for the cut`)
    this.input({ kind: 'take' })
  }

  early(): void {
    if (this.machine.state === 'prepared') this.daemon.world.marks.add('cut begun by a frame or marker')
    this.input({ kind: 'early' })
  }

  channelsClosed(closures: readonly ChannelClosed[]): void {
    this.closures = closures
    if (closures.some(({ byCount }) => !byCount)) this.daemon.world.marks.add('channel closed by deadline')
    this.publish({ type: 'closed', closures: this.closureRecords() })
    this.recording?.endSoon()
    this.input({ kind: 'closed' })
  }

  abort(error: ErrorReport): void {
    this.markUndone()
    this.input({ kind: 'abort', error })
  }

  private markUndone(): void {
    const { state, members, ended } = this.machine
    const { marks } = this.daemon.world
    if (ended || state === 'undoing') return
    if (state === 'prepared' || state === 'writing') marks.add(`undone: ${state}`)
    for (const member of members.values()) {
      if (member.state !== 'recovering' && member.state !== 'failed') marks.add(`undone: ${member.state}`)
    }
  }

  listen(listener: (event: LocalEvent) => void): void {
    for (const event of this.past) listener(event)
    this.listeners.push(listener)
  }

  whenEnded(act: () => void): void {
    if (this.ended) act()
    else this.waitingForEnd.push(act)
  }

  publish(event: LocalEvent): void {
    this.past.push(event)
    for (const listener of this.listeners) listener(event)
  }

  input(input: LocalInput): void {
    for (const effect of this.machine.step(input)) this.perform(effect)
  }

  perform(effect: LocalEffect): void {
    const { worker, world, host } = this.daemon
    const { epoch, policy } = this.request
    world.step(host)
    switch (effect.kind) {
      case 'begin': {
        const until = EPOCH_MS + this.deadline
        world.note(host.name, `begin e${epoch}`)
        worker.call(
          'begin',
          () => this.forwarder.snapshots.begin(epoch, policy, until, worker.now),
          ignore,
          (reason) => this.fail(reason),
        )
        return
      }
      case 'member': {
        const member = this.member(effect.vm)
        member.waiting.push(effect.effect)
        this.nextStep(member)
        return
      }
      case 'write':
        this.write()
        return
      case 'advance':
        advanceNetwork(this.daemon, this.network, epoch, ignore, ignore)
        return
      case 'finish':
        this.finish(effect.error)
    }
  }

  fail(reason: string): void {
    this.abort(problem('CAPTURE_FAILED', reason))
  }

  private nextStep(member: Member): void {
    if (member.working) return
    const effect = member.waiting.shift()
    if (effect === undefined) return
    member.working = true
    let over = false
    const end = () => {
      if (over) return
      over = true
      member.working = false
      this.nextStep(member)
    }
    this.step(
      member,
      effect,
      (event) => {
        if (over || !this.daemon.alive) return
        this.input({ kind: 'member', vm: member.guest.name, event })
        end()
      },
      (reason) => {
        if (over || !this.daemon.alive) return
        this.fail(reason)
        end()
      },
    )
  }

  step(member: Member, effect: MemberEffect, say: (event: MemberEvent) => void, fail: (reason: string) => void): void {
    const { daemon } = this
    const { worker, world, host } = daemon
    const { guest, nics, others, ports, times } = member
    const { forwarder } = this
    const { snapshots } = forwarder
    const us = (ms: number) => Math.round((EPOCH_MS + ms) * 1000)
    const now = () => us(world.time.now)
    let cutAt = 0
    world.step(host)
    switch (effect) {
      case 'gate': {
        const gate = () => {
          snapshots.gate(ports, worker.now)
          world.note(host.name, `gate of ${guest.name} closes`)
        }
        const gated = () => {
          times.gated = now()
          say('gated')
        }
        // Its turn comes after some others' flips.
        daemon.after(world.wait(TURN, host.index, guest.index, world.scenario.pace.hypervisor), () => {
          if (this.machine.members.get(guest.name)?.state !== 'gating') say('gated')
          else worker.call('gate', gate, () => gateOthers(daemon, others, gated, fail), fail)
        })
        return
      }
      case 'settle':
        this.settle(member, world.time.now + SETTLE_MS, () => say('settled'))
        return
      case 'pause':
        member.paused = true
        guest.pause(() => {
          times.paused = us(guest.stoppedAt)
          this.publish({ type: 'paused', vm: guest.name, atUs: times.paused })
          say('paused')
        }, fail)
        return
      case 'flip': {
        const residue = nics.map((nic) => nic.unread)
        worker.call(
          'flip',
          () => {
            cutAt = world.time.now
            const results = worker.flip(ports, this.request.epoch, residue, this.network)
            world.note(host.name, `CUT of ${guest.name} e${this.request.epoch}`)
            return results
          },
          (results) => {
            times.cut = us(cutAt)
            for (const { recorded, lost } of results) {
              member.residue += recorded
              member.lost += lost
            }
            if (member.residue > 0) world.marks.add('residue')
            if (member.lost > 0) world.marks.add('residue lost')
            if (ports.length > 1) world.marks.add('several NICs cut')
            if (others.length > 0) world.marks.add('cut with NICs in other networks')
            this.publish({ type: 'cut', vm: guest.name, atUs: times.cut })
            say('flipped')
          },
          fail,
        )
        return
      }
      case 'capture':
        member.captured = true
        guest.capture(() => daemon.alive, {
          resumed: () => {
            if (!daemon.alive) return
            times.resumed = us(guest.runsSince)
            member.paused = false
            this.publish({ type: 'resumed', vm: guest.name, atUs: times.resumed })
            say('resumed')
          },
          sealed: (image) => {
            if (!daemon.alive) return
            member.image = image
            times.sealed = now()
            this.publish({ type: 'sealed', vm: guest.name, bytes: 1 })
            this.input({ kind: 'member', vm: guest.name, event: 'sealed' })
            this.settled(member)
          },
          failed: (reason) => {
            if (!daemon.alive) return
            this.fail(reason)
            fail(reason)
            this.settled(member)
          },
        })
        return
      case 'release':
        releaseGates(
          daemon,
          this.network,
          ports,
          () => {
            times.released = now()
            releaseOthers(daemon, others, () => say('released'), fail)
          },
          fail,
        )
        return
      case 'recover':
        this.recover(member, () => say('recovered'))
    }
  }

  private settle(member: Member, end: number, done: () => void): void {
    if (member.nics.every((nic) => nic.unread === 0) || this.daemon.world.time.now >= end) {
      done()
      return
    }
    this.daemon.after(SETTLE_STEP_MS, () => this.settle(member, end, done))
  }

  /** Never fails: the guest runs, its gates are open, nothing of the capture is left. */
  private recover(member: Member, done: () => void): void {
    const { world, host } = this.daemon
    const { guest, others, ports } = member
    const merge = () =>
      this.daemon.after(world.wait(MERGE, host.index, guest.index, world.scenario.pace.hypervisor), done)
    const release = () => {
      const next = () => {
        if (!member.captured || member.settled) merge()
        else member.whenSettled = merge
      }
      const releaseRest = () => releaseOthers(this.daemon, others, next, next)
      releaseGates(this.daemon, this.network, ports, releaseRest, releaseRest)
    }
    const alive = () => {
      if (this.daemon.alive) release()
    }
    if (member.paused && !member.captured) guest.resume(alive, alive)
    else release()
  }

  private settled(member: Member): void {
    member.settled = true
    member.whenSettled?.()
  }

  private write(): void {
    const { daemon, agent } = this
    const { worker, world, host } = daemon
    worker.call(
      'end',
      () => this.forwarder.snapshots.end(),
      ({ frames, overflow, closures }) => {
        this.closures = closures
        const part = this.makePart(frames, overflow)
        agent.durably(ignore, () => {
          agent.durably(
            () => {
              host.disk.parts.set(this.request.snapshot, part)
              host.disk.unfinished.delete(this.request.snapshot)
              host.disk.files.add(part.channel.digest)
              for (const member of part.members) host.disk.files.add(member.memory.digest)
              world.note(host.name, `part e${this.request.epoch} written, ${frames.length} in channel`)
            },
            () => {
              this.part = part
              this.input({ kind: 'written' })
            },
          )
        })
      },
      (reason) => this.fail(reason),
    )
  }

  private makePart(frames: readonly RecordedFrame[], overflow: ReadonlyMap<number, number>): LocalPart {
    const { world, host } = this.daemon
    const { snapshot, epoch } = this.request
    for (const member of this.members.values()) {
      for (const port of member.ports) member.lost += overflow.get(port) ?? 0
    }
    const file = (name: string, content: unknown) => {
      const digest = `${name} ${snapshot} e${epoch}`
      world.contents.set(digest, content)
      return { path: digest, bytes: 1, digest }
    }
    return {
      host: host.name,
      bootId: this.forwarder.network.options.bootId,
      network: networkName(this.network),
      snapshot,
      epoch,
      members: [...this.members.values()].map((member): MemberPart => {
        const { guest, times } = member
        return {
          vm: guest.name,
          ports: guest.nics.map((nic) => ({
            name: `p${nic.index}`,
            device: `tap${nic.index}`,
            mac: nic.mac.map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
            ...(nic.network === this.network ? {} : { network: networkName(nic.network) }),
          })),
          definition: null,
          memory: file(`memory ${guest.name}`, member.image),
          disks: [],
          captureMode: guest.stopped ? 'stopped' : 'background',
          gatedAtUs: times.gated,
          pausedAtUs: times.paused,
          cutAtUs: times.cut,
          resumedAtUs: times.resumed,
          releasedAtUs: times.released,
          sealedAtUs: times.sealed,
          held: 0,
          early: 0,
          recorded: frames.filter((frame) => member.ports.includes(frame.port)).length,
          residue: member.residue,
          lost: member.lost,
        }
      }),
      channel: file(`channel ${host.name}`, frames),
      ...(this.recording === null ? {} : { events: file(`events ${host.name}`, this.recording.write()) }),
      closures: this.closureRecords(),
    }
  }

  private closureRecords() {
    return this.closures.map(({ port, host, expected, received, lost, byCount }) => ({
      port: `p${port}`,
      host,
      expected,
      received,
      lost,
      byCount,
    }))
  }

  private finish(error: ErrorReport | null): void {
    this.timer.act = null
    this.recording?.stop()
    const end = () => {
      if (error !== null) this.publish({ type: 'failed', error })
      else if (this.part !== null) this.publish({ type: 'done', part: this.part })
      this.daemon.world.note(this.daemon.host.name, error === null ? 'part done' : `part undone: ${error.message}`)
      this.ended = true
      for (const act of this.waitingForEnd.splice(0)) act()
    }
    if (error !== null) this.agent.remove(this.request.snapshot, end)
    else this.daemon.after(0, end)
  }

  private member(vm: string): Member {
    return this.members.get(vm) as Member
  }
}

function newMember(guest: Guest, network: number): Member {
  const nics = guest.nics.filter((nic) => nic.network === network)
  return {
    guest,
    nics,
    others: guest.nics.filter((nic) => nic.network !== network),
    ports: nics.map((nic) => nic.index),
    paused: false,
    captured: false,
    settled: false,
    whenSettled: null,
    image: null,
    times: { gated: 0, paused: 0, cut: 0, resumed: 0, released: 0, sealed: 0 },
    residue: 0,
    lost: 0,
    waiting: [],
    working: false,
  }
}
