// One subject between two endpoints, ready to be measured, and the measurements themselves. Every trial is bounded.

import { machineSeconds, processSeconds } from '../lab/cpu.js'
import { Lab } from '../lab/lab.js'
import { command, commandAt, sleep } from '../lab/processes.js'
import type { Gear, Received, RoundTrips, Sent } from './gear.js'
import { highestLosslessRate } from './statistics.js'
import type { Cores, RunningSwitch, Subject, Topology } from './subject.js'

export const ADDRESS = { e1: '10.99.0.1', e2: '10.99.0.2' } as const
const ECHO_PORT = 7
/** Time for queued frames to arrive after the sender ended. */
const DRAIN_MS = 60
/** Traffic before what is measured. */
export const WARM_UP_MS = 2500
/** What a sender has at most until its first frame arrives, and what is left out of it then. */
const START_MS = 3000
const WARM_MS = 120
const LOOK_MS = 5

/** Counted inside a trial: neither the gear's start nor its end is in it. */
export interface Flow {
  readonly deliveredPerSecond: number
  readonly offeredPerSecond: number
  /** CPU seconds per million frames delivered: of the subject's processes, and of the whole machine, gear included. */
  readonly processCpuPerMillion: number
  readonly machineCpuPerMillion: number
}

export interface TcpResult {
  /** Received in all, the first half second too. */
  readonly bits: number
  readonly bitsPerSecond: number
  readonly retransmits: number
  /** CPU seconds of the whole machine, gear included, for each Gbit; the first half second counts as well. */
  readonly cpuPerGbit: number
}

export interface Order {
  readonly offered: number
  readonly received: number
  readonly late: number
}

export class Session {
  readonly lab: Lab
  readonly gear: Gear
  readonly cores: Cores
  readonly #running: RunningSwitch
  readonly #receiverMac: string

  private constructor(lab: Lab, gear: Gear, cores: Cores, running: RunningSwitch, receiverMac: string) {
    this.lab = lab
    this.gear = gear
    this.cores = cores
    this.#running = running
    this.#receiverMac = receiverMac
  }

  static async open(subject: Subject, topology: Topology, gear: Gear, cores: Cores): Promise<Session> {
    const lab = new Lab()
    try {
      for (const name of topology === 'one-host' ? ['e1', 'e2', 'a'] : ['e1', 'e2', 'a', 'b'])
        await lab.addNamespace(name)
      const running = await subject.attach(lab, topology, cores)
      const mac = await configureEndpoints(lab, subject.offloads)
      const echo = await lab.start('e2', cores.receiver, [gear.pingpong, 'echo', String(ECHO_PORT)])
      await echo.until('ready', (said) => said.includes('ready'))
      const session = new Session(lab, gear, cores, running, mac)
      await session.#connected(subject.title)
      return session
    } catch (error) {
      await lab.destroy()
      throw error
    }
  }

  close(): Promise<void> {
    return this.lab.destroy()
  }

  /** Waits until a round trip works: a switch may need a moment after it says that it is up. */
  async #connected(title: string): Promise<void> {
    for (let attempt = 0; attempt < 20; attempt++) {
      const answer = await this.roundTrips({ samples: 1, gapUs: 0, milliseconds: 700 })
      if (answer.count > answer.lost) return
      await sleep(100)
    }
    throw new Error(`${title}: no round trip between the endpoints within 15 s`)
  }

  #received(): number {
    return this.lab.counters('e2', 'eth0').rxFrames
  }

  async #send(size: number, rate: number, milliseconds: number, pace: 'spin' | 'sleep'): Promise<Sent> {
    const argv = [
      this.gear.frames,
      'send',
      'eth0',
      this.#receiverMac,
      String(size),
      String(Math.round(rate)),
      String(milliseconds),
      pace,
    ]
    return JSON.parse(
      await commandAt(this.lab.place('e1', this.cores.sender), argv, { timeoutMs: milliseconds + 5000 }),
    )
  }

  /** While the sender offers as many frames as it can. */
  saturation(size: number, milliseconds: number): Promise<Flow> {
    return this.#flow(size, 0, milliseconds, 'spin')
  }

  /**
   * At a light rate that every subject carries. The sender sleeps between bursts, so idle time is really idle. The
   * kernel tells that in steps of 10 ms: the time is to be long against them.
   */
  cpuAt(rate: number, size: number, milliseconds: number): Promise<Flow> {
    return this.#flow(size, rate, milliseconds, 'sleep')
  }

  async #flow(size: number, rate: number, milliseconds: number, pace: 'spin' | 'sleep'): Promise<Flow> {
    const before = this.#received()
    const sending = this.#send(size, rate, milliseconds + 250, pace)
    sending.catch(() => undefined)
    // On a busy machine the sender itself takes a while to begin.
    for (let waited = 0; this.#received() === before && waited < START_MS; waited += LOOK_MS) await sleep(LOOK_MS)
    await sleep(WARM_MS)
    const from = this.look()
    await sleep(milliseconds)
    const to = this.look()
    const sent = await sending
    await sleep(DRAIN_MS)
    const seconds = (to.time - from.time) / 1e3
    const frames = to.frames - from.frames
    return {
      deliveredPerSecond: frames / seconds,
      offeredPerSecond: sent.offered / sent.seconds,
      processCpuPerMillion: ((to.process - from.process) / frames) * 1e6,
      machineCpuPerMillion: ((to.machine - from.machine) / frames) * 1e6,
    }
  }

  look(): { time: number; frames: number; process: number; machine: number } {
    return {
      frames: this.#received(),
      time: performance.now(),
      process: processSeconds(this.#running.pids),
      machine: machineSeconds(),
    }
  }

  /** Frames per second that arrive without a single loss, at most `ceiling`. */
  async lossless(size: number, ceiling: number, milliseconds: number): Promise<number> {
    let best = 0
    await highestLosslessRate(
      async (rate) => {
        const before = this.#received()
        const sent = await this.#send(size, rate, milliseconds, 'spin')
        await sleep(DRAIN_MS)
        const good = this.#received() - before >= sent.offered
        // What was really sent counts, not what was asked for: the sender itself may be the slower one.
        if (good) best = Math.max(best, sent.offered / sent.seconds)
        return good
      },
      ceiling,
      { resolution: 0.05, attempts: 2 },
    )
    return best
  }

  /**
   * Numbered frames at a light rate, read back one by one: nothing lost, doubled or overtaken on a subject that works.
   */
  async order(rate: number, milliseconds: number): Promise<Order> {
    const argv = [this.gear.frames, 'receive', 'eth0', String(milliseconds + 3000)]
    const receiver = await this.lab.start('e2', this.cores.receiver, argv)
    await receiver.until('ready', (said) => said.includes('ready'))
    const sent = await this.#send(60, rate, milliseconds, 'sleep')
    await sleep(2 * DRAIN_MS)
    await receiver.stop('SIGTERM')
    const line = receiver.said.split('\n').find((candidate) => candidate.startsWith('{'))
    if (line === undefined) throw new Error(`the frame receiver gave no result: ${receiver.said}`)
    const { received, late } = JSON.parse(line) as Received
    return { offered: sent.offered, received, late }
  }

  async roundTrips(wanted: {
    samples: number
    gapUs: number
    milliseconds: number
    /** Of the payload, bytes. */
    size?: number
  }): Promise<RoundTrips> {
    const { samples, gapUs, milliseconds, size = 8 } = wanted
    const argv = [
      this.gear.pingpong,
      'ping',
      ADDRESS.e2,
      String(ECHO_PORT),
      String(samples),
      String(gapUs),
      String(milliseconds),
      String(size),
    ]
    const place = this.lab.place('e1', this.cores.sender)
    return JSON.parse(await commandAt(place, argv, { timeoutMs: milliseconds + 5000 }))
  }

  /** What a switch learns and loads in its first seconds is not part of what a frame takes afterwards. */
  async warmUp(milliseconds = WARM_UP_MS): Promise<void> {
    await this.roundTrips({ samples: 1_000_000, gapUs: 0, milliseconds, size: 64 })
  }

  /** Round trips while frames of 512 bytes flow at a rate that every subject carries. */
  async roundTripsUnderFrames(rate: number, milliseconds: number): Promise<RoundTrips> {
    const load = this.#send(512, rate, milliseconds + 300, 'sleep')
    await sleep(150)
    const answer = await this.roundTrips({ samples: 1_000_000, gapUs: 0, milliseconds })
    await load
    await sleep(DRAIN_MS)
    return answer
  }

  /** Round trips while one bulk TCP flow takes what it can get: queues are as full as TCP makes them. */
  async roundTripsUnderTcp(milliseconds: number): Promise<RoundTrips> {
    const load = this.tcp(Math.ceil(milliseconds / 1e3 + 0.5))
    // Not unhandled if the round trips fail first.
    load.catch(() => undefined)
    await sleep(600)
    const answer = await this.roundTrips({ samples: 1_000_000, gapUs: 0, milliseconds })
    await load
    return answer
  }

  /** Share of one core that the subject's processes take without traffic. */
  async idleShare(milliseconds: number): Promise<number> {
    const from = this.look()
    await sleep(milliseconds)
    const to = this.look()
    return (to.process - from.process) / ((to.time - from.time) / 1e3)
  }

  /** Bulk TCP from e1 to e2 for `seconds`, the first half second left out. */
  async tcp(seconds: number): Promise<TcpResult> {
    const server = await this.lab.start('e2', this.cores.receiver, ['iperf3', '-s', '-1', '--forceflush'])
    await server.until('listening', (said) => said.includes('listening'))
    const argv = ['iperf3', '-J', '-c', ADDRESS.e2, '-t', String(seconds), '-i', '0.5', '--connect-timeout', '3000']
    const place = this.lab.place('e1', this.cores.sender)
    const from = this.look()
    const report = JSON.parse(await commandAt(place, argv, { timeoutMs: (seconds + 8) * 1000 })) as IperfReport
    const to = this.look()
    await server.stop()
    const result = tcpResult(report)
    return { ...result, cpuPerGbit: (to.machine - from.machine) / (result.bits / 1e9) }
  }
}

export interface IperfReport {
  readonly intervals: readonly { readonly sum: { readonly bytes: number; readonly seconds: number } }[]
  readonly end: {
    readonly sum_sent: { readonly retransmits: number }
    readonly sum_received: { readonly bytes: number }
  }
}

/** Rate over all intervals but the first, in which TCP is still finding its window. */
export function tcpResult(report: IperfReport): Omit<TcpResult, 'cpuPerGbit'> {
  const counted = report.intervals.slice(1).map((interval) => interval.sum)
  const seconds = counted.reduce((sum, { seconds }) => sum + seconds, 0)
  const bytes = counted.reduce((sum, { bytes }) => sum + bytes, 0)
  return {
    bits: report.end.sum_received.bytes * 8,
    bitsPerSecond: (bytes * 8) / seconds,
    retransmits: report.end.sum_sent.retransmits,
  }
}

async function configureEndpoints(lab: Lab, offloads: boolean): Promise<string> {
  const macs = new Map<string, string>()
  for (const name of ['e1', 'e2'] as const) {
    await lab.ip(name, [`addr add ${ADDRESS[name]}/24 dev eth0`, 'link set eth0 up'])
    if (!offloads) await commandAt(lab.place(name, '0'), ['ethtool', '-K', 'eth0', 'tx', 'off'])
    const [link] = JSON.parse(await command(['ip', '-j', '-n', lab.namespace(name), 'link', 'show', 'eth0']))
    macs.set(name, link.address)
  }
  // Fixed neighbours: no ARP in the middle of a trial.
  await lab.ip('e1', [`neigh replace ${ADDRESS.e2} lladdr ${macs.get('e2')} dev eth0 nud permanent`])
  await lab.ip('e2', [`neigh replace ${ADDRESS.e1} lladdr ${macs.get('e1')} dev eth0 nud permanent`])
  return macs.get('e2')!
}
