// One host's part of a restore: machines are loaded paused behind closed gates, with the recorded channel state at the
// head of their hold queues; then, told that all hosts have come this far, they run. Until then everything can be undone.

import type { MemberPart, RestoreLoaded, RestoreRequest, RestoreResumed } from '../../src/api/schemas.js'
import { parseMac } from '../../src/frame/ethernet.js'
import { nowUs } from '../../src/hypervisor/clock.js'
import type { LoadedMachine, MachineDefinition } from '../../src/hypervisor/hypervisor.js'
import type { PortEntry } from '../port-table.js'
import { advance, gateOthers, release, releaseOthers } from './gates.js'
import type { Host } from './host.js'
import type { RestoreRecord } from './journal.js'
import { locateFiles } from './located-files.js'
import { restoreCalledOff, staleEpoch } from './refusals.js'
import { queueChannelState, readChannelState } from './restore-channel.js'
import { RestorePorts } from './restore-ports.js'
import { resumeMachine } from './resume.js'

const RESUME_MS = 10_000
/** How long ending what was loaded may take; a restart of libvirtd fits in. */
const END_MS = 20_000
const END_AGAIN_MS = 3000

interface LoadedMember {
  readonly part: MemberPart
  readonly ports: readonly PortEntry[]
  readonly machine: LoadedMachine
  /** When it was seen to run; null: not yet. */
  resumedAtUs: number | null
}

type Resumed = RestoreResumed['resumed']

/** What tells a machine that this restore loads from any other. */
function startedLoad(host: Host, part: MemberPart, epoch: number) {
  const definition = part.definition as MachineDefinition
  const domain = definition.kind === 'libvirt' ? definition.domain : null
  return { vm: part.vm, kind: definition.kind, domain, directory: host.store.machineDirectory(part.vm, epoch) }
}

export class RestoreSession {
  readonly network: string
  readonly snapshot: string
  private readonly host: Host
  private readonly request: RestoreRequest
  private readonly ports: RestorePorts
  private readonly members: LoadedMember[] = []
  /** What is made durable before it is made. */
  private toUndo: Pick<RestoreRecord, 'ports' | 'taps'> | null = null
  /** Of the machines that are placed here, in other networks: gated until the machines run. */
  private otherPorts: readonly PortEntry[] = []
  private timer: NodeJS.Timeout | null = null
  private loading: Promise<RestoreLoaded> | null = null
  private registering: Promise<void> | null = null
  private resuming: Promise<Resumed> | null = null
  private calledOff = false
  /** Called when the session has ended by itself, with the machines that run all the same. */
  onAbandoned: (resumed: Resumed) => void = () => undefined

  constructor(host: Host, network: string, snapshot: string, request: RestoreRequest) {
    this.host = host
    this.network = network
    this.snapshot = snapshot
    this.request = request
    this.ports = new RestorePorts(host, network)
  }

  /** That are placed here. */
  get machines(): readonly string[] {
    return this.request.members.map(({ vm }) => vm)
  }

  /** Loads all members, or none: on failure everything is undone before it throws. */
  async load(): Promise<RestoreLoaded> {
    this.loading = this.loadAll()
    try {
      return await this.loading
    } catch (thrown) {
      this.loading = null
      await this.abort()
      throw thrown
    } finally {
      this.loading = null
    }
  }

  private async loadAll(): Promise<RestoreLoaded> {
    const { host, network, request } = this
    const { epoch } = request
    const deadline = performance.now() + request.deadlineMs
    const highest = host.epochs.get(network)
    if (epoch <= highest) throw staleEpoch(epoch, highest)
    await host.epochs.raiseFence(network, epoch)
    host.datapath.rememberEpoch(network, epoch)
    host.datapath.rememberFence(network, epoch)
    const frames = await readChannelState(host, request)
    if (request.members.length > 0) await this.record(false)
    const ports = new Map<string, PortEntry[]>()
    for (const part of request.members) ports.set(part.vm, await this.ports.take(part))
    const everywhere = [...ports.values()].flat()
    const all = everywhere.filter((port) => port.network === network)
    this.otherPorts = everywhere.filter((port) => port.network !== network)
    await gateOthers(host, this.otherPorts)
    await host.datapath.call('fence', { network, ports: all.map((port) => port.index), epoch })
    const results = await Promise.allSettled(
      request.members.map((part) => this.loadMember(part, ports.get(part.vm)!, deadline)),
    )
    for (const result of results) if (result.status === 'fulfilled') this.members.push(result.value)
    const failed = results.find((result) => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    // A former guest may have left its queues full; the new one has opened empty ones.
    for (const port of everywhere) host.unread.emptied(port.index, port.ifindex)
    await queueChannelState(host, network, frames, all)
    if (this.calledOff) throw restoreCalledOff
    if (this.members.length > 0) this.timer = setTimeout(() => void this.expire(), request.deadlineMs)
    return { loaded: this.members.map((member) => member.part.vm), channelFrames: frames.length }
  }

  /** Makes durable what is to be undone should the daemon be killed (leftovers.ts). Gone when the session is over. */
  private async record(resuming: boolean): Promise<void> {
    const { host, network, snapshot, request } = this
    this.toUndo ??= this.ports.planned(request)
    const machines = request.members.map((part) => startedLoad(host, part, request.epoch))
    await host.journal.writeRestore({ network, snapshot, resuming, machines, ...this.toUndo })
  }

  /** From here on the machines are this host's: a daemon that is started again must find them. */
  async registerMachines(): Promise<void> {
    if (this.calledOff) throw restoreCalledOff
    this.registering = this.record(true).then(() => {
      for (const { part, machine } of this.members) this.host.machines.set(part.vm, machine.spec)
    })
    await this.registering
  }

  /** All hosts have loaded: addresses are announced, guests run, gates open. After a failure it may be called again. */
  async resume(): Promise<RestoreResumed> {
    if (this.calledOff) throw restoreCalledOff
    if (this.timer !== null) clearTimeout(this.timer)
    this.resuming = this.resumeAll()
    try {
      return { resumed: await this.resuming }
    } catch (thrown) {
      if (!this.calledOff) this.timer = setTimeout(() => void this.expire(), this.request.deadlineMs)
      throw thrown
    }
  }

  private async resumeAll(): Promise<Resumed> {
    const { host, network } = this
    const deadline = performance.now() + RESUME_MS
    for (const { part, ports } of this.members) {
      for (const port of ports) {
        const mac = part.ports.find((record) => record.name === port.name)?.mac ?? null
        if (mac === null) continue
        await host.datapath.call('announce', { network: port.network, port: port.index, mac: parseMac(mac) })
      }
    }
    const results = await Promise.allSettled(
      this.members.map(async (member) => {
        member.resumedAtUs = (await resumeMachine(host, member.part.vm, member.machine.control, deadline)).resumedAtUs
        await this.release(member)
      }),
    )
    const failed = results.find((result) => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    await this.learnDisks()
    await host.journal
      .removeRestore(network)
      .catch((thrown) => host.log.error({ err: thrown, network }, 'cannot remove the record of a restore'))
    for (const { machine } of this.members) await machine.control.close()
    host.log.info({ network, snapshot: this.snapshot, machines: this.running() }, 'restored')
    return this.running()
  }

  /** What runs now is on the disks that were loaded; what it was on before is left behind. */
  private async learnDisks(): Promise<void> {
    for (const { part, machine, resumedAtUs } of this.members) {
      if (resumedAtUs === null) continue
      try {
        const { disks } = await machine.control.inspect(performance.now() + RESUME_MS)
        await this.host.disks.replace(part.vm, Object.fromEntries(disks.map((one) => [one.name, one.layers])))
      } catch (thrown) {
        this.host.log.error({ err: thrown, vm: part.vm }, 'cannot tell which disks it is on')
      }
    }
  }

  private async release({ ports }: LoadedMember): Promise<void> {
    const own = ports.filter((port) => port.network === this.network)
    const indexes = own.map((port) => port.index)
    await release(this.host, this.network, indexes)
    await releaseOthers(
      this.host,
      ports.filter((port) => !own.includes(port)),
    )
  }

  private running(): Resumed {
    return this.members.flatMap(({ part, resumedAtUs }) =>
      resumedAtUs === null ? [] : [{ vm: part.vm, atUs: resumedAtUs }],
    )
  }

  /**
   * Undoes a load: machines ended, ports and TAPs that were made gone, gates of the others open. But a machine that runs
   * already, for all hosts had loaded, runs on with its ports; those are returned.
   */
  async abort(): Promise<Resumed> {
    const { host, network, request } = this
    if (this.timer !== null) clearTimeout(this.timer)
    const quietly = async (work: Promise<unknown>) => {
      await work.catch((thrown) => host.log.warn({ err: thrown }, 'while undoing a restore'))
    }
    // A load or resume under way comes to its end first: what it has made by then is undone with the rest.
    this.calledOff = true
    await this.loading?.catch(() => undefined)
    await this.registering?.catch(() => undefined)
    await this.resuming?.catch(() => undefined)
    const deadline = performance.now() + END_MS
    let ended = this.toUndo === null || (await this.endUnfinished())
    for (const member of this.members) {
      const { part, machine } = member
      if (this.resuming !== null && (await this.runs(member, deadline))) {
        await quietly(this.learnDisks())
        await quietly(this.release(member))
      } else {
        if (host.machines.spec(part.vm) === machine.spec) host.machines.delete(part.vm)
        await quietly(
          machine.control.destroy(deadline).catch((thrown) => {
            ended = false
            throw thrown
          }),
        )
      }
      await quietly(machine.control.close())
    }
    await quietly(releaseOthers(host, this.otherPorts))
    const resumed = this.running()
    await this.ports.giveBack(new Set(resumed.map(({ vm }) => vm)))
    await quietly(advance(host, network, request.epoch))
    // What could not be ended stays on record: the next daemon does it.
    if (this.toUndo !== null && ended) await quietly(host.journal.removeRestore(network))
    return resumed
  }

  /** Machines whose load has failed; false when one may still be there. Their drivers have tried to end them already. */
  private async endUnfinished(): Promise<boolean> {
    const { host, request } = this
    const deadline = performance.now() + END_AGAIN_MS
    const failed = request.members.filter(({ vm }) => !this.members.some(({ part }) => part.vm === vm))
    const loads = failed.map((part) => startedLoad(host, part, request.epoch))
    const results = await Promise.allSettled(
      loads.map((load) => host.machines.endLoad(load.kind, { ...load, mayRun: false }, deadline)),
    )
    return results.every(({ status }) => status === 'fulfilled')
  }

  /** An answer that did not come in time does not mean that the guest stands still. */
  private async runs(member: LoadedMember, deadline: number): Promise<boolean> {
    if (member.resumedAtUs !== null) return true
    const info = await member.machine.control.inspect(deadline).catch(() => null)
    if (info?.state !== 'running') return false
    member.resumedAtUs = nowUs()
    return true
  }

  private async expire(): Promise<void> {
    this.host.log.warn(
      { network: this.network, snapshot: this.snapshot },
      'the coordinator has not resumed the restore in time; undoing it',
    )
    this.onAbandoned(await this.abort())
  }

  private async loadMember(part: MemberPart, ports: readonly PortEntry[], deadline: number): Promise<LoadedMember> {
    const { host, request } = this
    const definition = part.definition as MachineDefinition
    const located = await locateFiles(host, part)
    const directory = await host.store.createMachineDirectory(part.vm, request.epoch)
    // A port takes its device's name along to the host that it is restored on.
    const taps = definition.nics.map((nic) => nic.device)
    const machine = await host.machines.load({ definition, ...located, taps, directory }, deadline)
    return { part, ports, machine, resumedAtUs: null }
  }
}
