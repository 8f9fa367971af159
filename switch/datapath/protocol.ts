// What the control thread may ask of the datapath thread, and what it hears back. One row per command; the handler
// table in the worker is complete by type.

import type { Policy } from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import type { FrameCopy } from '../../src/frame/frame.js'
import type { SocketPrograms } from '../../src/linux/handover.js'
import type { PortDevice, PortSockets } from '../../src/linux/port-sockets.js'
import type { TapOptions } from '../capture/tap.js'
import type { DropReason } from '../forwarding/counters.js'
import type { NetworkOptions, NetworkSettings } from '../forwarding/network.js'
import type { DeviceState, PortSpec } from '../forwarding/port-state.js'
import type { HeldFrame } from '../forwarding/snapshot/held-frames.js'
import type { ChannelClosed, ChannelState } from '../forwarding/snapshot/open-snapshot.js'
import type { Checkpoint } from '../recording/format.js'
import type { HookState, WantedHook } from './kernel/hooks.js'
import type { Programs } from './kernel/layout.js'
import type { PortTrouble } from './port/port.js'

export type FastPathMode = 'auto' | 'off'

/** Of a port: its frames are fast, or why not. */
export interface PortPath {
  readonly index: number
  readonly why: string | null
}

export interface VerdictRow {
  readonly from: number
  readonly to: number
  readonly source: string
  readonly destination: string
  readonly vlan: number
  readonly idleSeconds: number
}

/** How the loop waits for frames: `sleep` in poll at once, `busy` never, `adaptive` after a bounded spin. */
export type PollMode = 'adaptive' | 'busy' | 'sleep'

export interface FdbRow {
  readonly mac: string
  readonly vlan: number
  readonly port: number
  readonly ageSeconds: number
  readonly state: 'learned' | 'static' | 'sticky'
}

export interface PeerRow {
  readonly port: number
  readonly host: string | null
  readonly bootId: string | null
  readonly alive: boolean
  readonly lastHeardMs: number | null
}

/** A way to a peer switch, as events name it (`index`), and the port that it goes through. */
export interface PeerPort {
  readonly index: number
  readonly port: number
  readonly host: string | null
}

type Ports = readonly number[]

export interface Opening {
  readonly opening: Ports
  readonly atUs: number
}

export interface Commands {
  addNetwork: { args: { options: NetworkOptions; epoch: number; fence: number }; result: null }
  /**
   * The sockets stay the control thread's, which closes them when the port is removed or the worker has ended. So does
   * one that the worker has opened besides: the result; -1, none.
   */
  addPort: { args: { network: string; spec: PortSpec; device: PortDevice; sockets: PortSockets }; result: number }
  removePort: { args: { network: string; index: number }; result: null }
  /** Its ports are gone already. */
  removeNetwork: { args: { network: string }; result: null }
  configure: { args: { network: string; settings: NetworkSettings }; result: null }
  /** Another kind of port, or another machine's, on the same device: frames that wait in its sockets stay there. */
  changePort: { args: { network: string; spec: PortSpec }; result: null }
  /**
   * From now on the ports send, and their sockets take frames when `programs` say so; null: always. `drain`: what they
   * have taken is forwarded when this answers.
   */
  handOver: {
    args: { network: string; ports: Ports; programs: SocketPrograms | null; drain?: boolean }
    result: null
  }
  /** The device under a port is not what it was when the port was added. */
  portChanged: { args: { network: string; index: number; device: DeviceState }; result: null }
  polling: { args: Polling; result: null }
  /** Frames come from `fd`, of a connection that stays the control thread's, as if the ports' machines sent them. */
  play: { args: { play: number; fd: number; ports: readonly { network: string; index: number }[] }; result: null }
  /** It is over, whatever waits. Frames that came in, messages that were refused. */
  endPlay: { args: { play: number }; result: { frames: number; refused: number } }
  /** What is decided is repeated in the kernel by these programs, which stay the control thread's; null: it is not. */
  fastPath: { args: { programs: Programs | null }; result: null }
  /** How it is at a port's ingress hook, at first and whenever it has changed. */
  hooked: { args: HookState; result: null }
  /** Which ports are on the fast path, and why others are not. */
  paths: { args: { network: string }; result: readonly PortPath[] }
  /** What is repeated in the kernel. */
  verdicts: { args: { network: string }; result: readonly VerdictRow[] }
  /** It answers: that is all. */
  ping: { args: null; result: null }
  begin: { args: { network: string; epoch: number; policy: Policy; until: number }; result: null }
  arm: { args: { network: string; ports: Ports }; result: null }
  /**
   * Writes all that enters the forwarder to a ring (switch/recording), from the state on that is the result, until
   * `endRecording`. Throws RECORDING_BUSY, RECORDING_KEY.
   */
  startRecording: {
    args: { network: string; memory: SharedArrayBuffer; withKey: boolean }
    result: { options: NetworkOptions; checkpoint: Checkpoint }
  }
  /**
   * After something found no room in `memory`, which is read by now: the same once more, with the frames that came
   * meanwhile. Null: not now.
   */
  continueRecording: {
    args: { network: string; memory: SharedArrayBuffer }
    result: { options: NetworkOptions; checkpoint: Checkpoint; missed: number } | null
  }
  /** `isFull`: something found no room, and what came after it is not there. */
  endRecording: { args: { network: string }; result: { frames: number; isFull: boolean } }
  /** Writes down what happens to members' frames, until it is called with null. */
  record: { args: { network: string; memory: SharedArrayBuffer | null }; result: readonly PeerPort[] }
  /** Shows frames of the network to a capture from now on; `tap` null: no more. `id`: unique in the daemon. */
  capture: { args: { network: string; id: number; tap: TapOptions | null }; result: null }
  /**
   * Closes the gates; what was sent before has left for the devices when this answers. `forOther`: see Snapshots.gate.
   */
  gate: { args: { network: string; ports: Ports; forOther?: boolean }; result: { held: number[] } }
  /** Drains the ports, then flips them: one step, nothing in between. */
  flip: {
    args: { network: string; ports: Ports; epoch: number; residue: readonly number[] }
    result: { atUs: number; ports: readonly { recorded: number; lost: number }[] }
  }
  /**
   * Opens gates, `most[i]` frames of ports[i] at once. `opening`: those of the network with more behind them, for
   * `drain`.
   */
  release: { args: { network: string; ports: Ports; most: readonly number[] }; result: Opening }
  /** The next portions behind gates that are opening. */
  drain: { args: { network: string; ports: Ports; most: readonly number[] }; result: Opening }
  end: {
    args: { network: string }
    result: ChannelState & { readonly held: readonly HeldFrame[] }
  }
  /** Opens gates, too: `most` frames of each port at once. */
  advance: { args: { network: string; epoch: number; most: number }; result: Opening }
  fence: { args: { network: string; ports: Ports; epoch: number }; result: null }
  preload: { args: { network: string; port: number; frames: readonly Omit<FrameCopy, 'color'>[] }; result: null }
  announce: { args: { network: string; port: number; mac: Uint8Array }; result: null }
  /** As if they had just been seen there. */
  learn: { args: { network: string; addresses: readonly Pick<FdbRow, 'mac' | 'vlan' | 'port'>[] }; result: null }
  fdb: { args: { network: string }; result: FdbRow[] }
  network: {
    args: { network: string }
    result: { epoch: number; fdbEntries: number; peers: PeerRow[] }
  }
  stop: { args: null; result: null }
}

export type CommandName = keyof Commands

export interface Request<K extends CommandName = CommandName> {
  readonly id: number
  readonly name: K
  readonly args: Commands[K]['args']
}

export type Reply =
  | { readonly kind: 'reply'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'refusal'; readonly id: number; readonly error: ErrorReport }

/** There is something to look at (src/linux/news.ts). */
interface News {
  readonly kind: 'news'
}

export type DatapathEvent =
  | { readonly kind: 'early'; readonly network: string; readonly port: number; readonly epoch: number }
  | {
      readonly kind: 'peer'
      readonly network: string
      readonly port: number
      readonly host: string
      readonly bootId: string
      readonly epoch: number
    }
  | {
      readonly kind: 'closed'
      readonly network: string
      readonly epoch: number
      readonly closures: readonly ChannelClosed[]
    }
  | {
      readonly kind: 'broken'
      readonly network: string
      readonly epoch: number
      readonly port: number
      readonly host: string | null
    }
  | { readonly kind: 'refused'; readonly network: string; readonly port: number; readonly reason: DropReason }
  /**
   * The socket of a port is bound to nothing any more: its device is gone, or has been in another network namespace.
   */
  | { readonly kind: 'unbound'; readonly network: string; readonly port: number; readonly ifindex: number }
  /**
   * The fast path needs its program at a port's ingress hook (`hooked` is the answer), or one more as many frames pass.
   */
  | ({ readonly kind: 'hook' | 'busy' } & WantedHook)
  /** The other end has closed it. */
  | { readonly kind: 'played'; readonly play: number }
  | { readonly kind: 'trouble'; readonly network: string; readonly port: number; readonly trouble: PortTrouble }

/** Before anything else: it runs, or why it cannot. An error that is thrown there would arrive without its code. */
export type Start =
  | { readonly kind: 'ready'; readonly thread: number }
  | { readonly kind: 'unable'; readonly error: ErrorReport }

export type FromWorker = Reply | DatapathEvent | News | Start

export interface Polling {
  readonly poll: PollMode
  /** Microseconds that `adaptive` spins after the last frame. */
  readonly spinUs: number
}

export interface WorkerInput extends Polling {
  readonly counters: SharedArrayBuffer
  /** eventfd that wakes the loop out of poll. */
  readonly wakeFd: number
  /** Readable when there is something that the control thread is to look at. */
  readonly newsFd: number
  /** Sockets for frames that are longer than messages may be. */
  readonly oversize: readonly number[]
}
