// Plays that clients have under way: each has a socket of its own into the datapath, and is over when its client is.

import { chownSync, statSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import type { Logger } from 'pino'
import { choices } from '../../src/api/names.js'
import type { PlayEvent } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { libc } from '../../src/linux/libc.js'
import { acceptPackets, listenForPackets, unlinkSilently } from '../../src/linux/unix-packets.js'
import type { Datapath } from '../datapath/datapath.js'
import { MOST_PLAYS } from '../datapath/poll-set.js'
import type { DatapathEvent } from '../datapath/protocol.js'
import type { PortEntry } from '../ports/table.js'

const CONNECT_MS = 5000
const CONNECT_LOOK_MS = 2
/** They lead to other switches, whose words are not for a play to say. */
const BETWEEN_SWITCHES = ['trunk', 'uplink']

export interface PlayHost {
  readonly datapath: Pick<Datapath, 'call' | 'on' | 'off'>
  readonly ports: { all(): PortEntry[]; get(name: string): PortEntry | undefined }
  /** Of the API; sockets of plays lie beside it. */
  readonly socket: string
  readonly log: Logger
}

export class Plays {
  readonly #host: PlayHost
  #last = 0
  readonly #running = new Set<(failure: Error) => void>()

  constructor(host: PlayHost) {
    this.#host = host
  }

  /** Its ports are named now: what is wrong with them is thrown before anything is there. */
  begin(names: readonly string[]): AsyncGenerator<PlayEvent, void, undefined> {
    const ports = names.map((name) => this.#port(name))
    if (this.#running.size >= MOST_PLAYS) {
      throw new SnapswitchError(
        'DEVICE_BUSY',
        `${MOST_PLAYS} plays into ports are under way`,
        'Wait until one is over.',
      )
    }
    return this.#run(ports)
  }

  async *#run(ports: readonly PortEntry[]): AsyncGenerator<PlayEvent, void, undefined> {
    const play = ++this.#last
    const { datapath, socket, log } = this.#host
    const path = `${socket}.play${play}`
    const over = this.#isOver(play)
    let fd: number | null = null
    try {
      const listener = listenForPackets(path)
      try {
        // Whoever may call the API may connect.
        chownSync(path, statSync(socket).uid, statSync(socket).gid)
        yield { type: 'ready', socket: path, ports: ports.map(({ name, network, mtu }) => ({ name, network, mtu })) }
        fd = await accepted(listener)
      } finally {
        libc().close(listener)
        unlinkSilently(path)
      }
      const places = ports.map(({ network, index }) => ({ network, index }))
      await datapath.call('play', { play, fd, ports: places })
      log.info({ play, ports: ports.map(({ name }) => name) }, 'a capture is played into ports')
      const failure = await over.promise
      if (failure !== null) throw failure
      const counts = await datapath.call('endPlay', { play })
      log.info({ play, ...counts }, 'the play is over')
      yield { type: 'over', ...counts }
    } finally {
      over.forget()
      // Its client may have gone in the middle.
      if (fd !== null) {
        await datapath.call('endPlay', { play }).catch(() => undefined)
        libc().close(fd)
      }
    }
  }

  #isOver(play: number): { promise: Promise<Error | null>; forget: () => void } {
    const { datapath } = this.#host
    let forget = () => {}
    const promise = new Promise<Error | null>((resolve) => {
      const onEvent = (event: DatapathEvent) => {
        if (event.kind === 'played' && event.play === play) resolve(null)
      }
      const onRestart = () =>
        resolve(new SnapswitchError('INTERNAL', 'the datapath was restarted, and the play is over', 'Play it again.'))
      datapath.on('event', onEvent)
      datapath.on('restarted', onRestart)
      datapath.on('dead', onRestart)
      const stop = resolve
      this.#running.add(stop)
      forget = () => {
        this.#running.delete(stop)
        datapath.off('event', onEvent)
        datapath.off('restarted', onRestart)
        datapath.off('dead', onRestart)
        resolve(null)
      }
    })
    return { promise, forget }
  }

  /** Those that are under way end: the daemon stops. */
  close(): void {
    for (const stop of this.#running)
      stop(new SnapswitchError('SOCKET_UNREACHABLE', 'the switch was stopped', 'Play it again.'))
  }

  #port(name: string): PortEntry {
    const { ports } = this.#host
    const port = ports.get(name)
    if (port === undefined) {
      const known = ports.all().map((one) => one.name)
      throw new SnapswitchError('PORT_UNKNOWN', `there is no port ${name}`, choices('There are', name, known))
    }
    if (!BETWEEN_SWITCHES.includes(port.kind)) return port
    throw new SnapswitchError(
      'REQUEST_INVALID',
      `port ${name} leads to another switch`,
      'Play into a port of a machine, a plain one or the host’s, or into the device at the other end.',
    )
  }
}

async function accepted(listener: number): Promise<number> {
  for (const began = performance.now(); ; ) {
    const fd = acceptPackets(listener)
    if (fd !== null) return fd
    if (performance.now() - began > CONNECT_MS) {
      throw new SnapswitchError('DEADLINE', 'nobody connected to the play’s socket', 'Play it again.')
    }
    await pause(CONNECT_LOOK_MS)
  }
}
