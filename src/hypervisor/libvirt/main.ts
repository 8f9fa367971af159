// The libvirt process: the one place where libvirt.so is loaded. It does what the daemon asks on standard input, in lanes:
// each has its own connection to a libvirtd and works off its calls one after the other, so that an error read from the
// connection belongs to the call just made. It ends with its input. Started by process-handle.ts.

import { closeSync, constants, openSync } from 'node:fs'
import { getPriority, setPriority } from 'node:os'
import { createInterface } from 'node:readline'
import { type Connection, type DomainHandle, type Library, loadLibrary } from './library.js'
import {
  type BlockInfo,
  type BlockJob,
  blockCommitActive,
  type CallArguments,
  type CallError,
  type CallMessage,
  type DescribeResult,
  errorNumber,
  type OpenResult,
  type ProcessMessage,
  restorePaused,
} from './protocol.js'

const keepAliveSeconds = 5
const keepAliveCount = 3
const blockJobPivot = 2

class LibvirtFailure extends Error {
  readonly code: number
  readonly disconnected: boolean

  constructor({ code, message, disconnected }: CallError) {
    super(message)
    this.code = code
    this.disconnected = disconnected
  }
}

function say(message: ProcessMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

let library: Library | null = null
let lastGlobalError = { code: 0, message: 'no reason given' }

function theLibrary(): Library {
  if (library !== null) return library
  const loaded = loadLibrary()
  loaded.onError((code, message) => {
    lastGlobalError = { code, message }
  })
  loaded.onMonitorEvent((token, name, atUs, details) => lanes.get(token)?.hear(name, atUs, details))
  if (loaded.registerDefaultLoop() < 0) throw new Error('libvirt’s event loop cannot be set up')
  library = loaded
  void loop(loaded)
  return loaded
}

async function loop(loaded: Library): Promise<void> {
  for (;;) {
    if ((await loaded.runLoop()) < 0) await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

const version = (number: number): string =>
  `${Math.floor(number / 1_000_000)}.${Math.floor(number / 1000) % 1000}.${number % 1000}`

/** virConnectOpen tells its reason only to its own thread and to the global handler: one at a time, then. */
let opening: Promise<unknown> = Promise.resolve()

function openConnection(uri: string): Promise<Connection> {
  const opened = opening.then(async () => {
    lastGlobalError = { code: 0, message: 'no reason given' }
    const connection = await theLibrary().open(uri)
    // The handler's call may still be on its way here.
    if (connection === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    if (connection === 0) throw new LibvirtFailure({ ...lastGlobalError, disconnected: true })
    return connection
  })
  opening = opened.catch(() => {})
  return opened
}

class Lane {
  readonly id: number
  readonly #uri: string
  #connection: Connection = 0
  #watched: string | null = null
  #last: Promise<unknown> = Promise.resolve()

  constructor(id: number, uri: string) {
    this.id = id
    this.#uri = uri
  }

  run(message: CallMessage): void {
    this.#last = this.#last.then(async () => {
      try {
        say({ type: 'result', id: message.id, result: (await this.#perform(message)) ?? null })
      } catch (thrown) {
        say({ type: 'error', id: message.id, error: this.#explain(thrown) })
      }
    })
  }

  hear(name: string, atUs: number, details: string | null): void {
    let data: unknown = {}
    try {
      data = details === null ? {} : JSON.parse(details)
    } catch {}
    say({ type: 'event', lane: this.id, domain: this.#watched ?? '', name, atUs, data })
  }

  #explain(thrown: unknown): CallError {
    if (thrown instanceof LibvirtFailure) {
      return { code: thrown.code, message: thrown.message, disconnected: thrown.disconnected }
    }
    const message = thrown instanceof Error ? thrown.message : String(thrown)
    return { code: 0, message, disconnected: library === null }
  }

  /** A connection that lives; made anew, with its watch, when libvirtd was restarted. */
  async #connected(): Promise<Connection> {
    const lib = theLibrary()
    if (this.#connection !== 0) {
      if (lib.isAlive(this.#connection) === 1) return this.#connection
      await this.#close()
    }
    const connection = await openConnection(this.#uri)
    this.#connection = connection
    this.#watched = null
    lib.silence(connection)
    await lib.setKeepAlive(connection, keepAliveSeconds, keepAliveCount)
    return connection
  }

  async #close(): Promise<void> {
    const connection = this.#connection
    this.#connection = 0
    if (connection !== 0) await theLibrary().close(connection)
  }

  #fail(): never {
    const lib = theLibrary()
    const disconnected = lib.isAlive(this.#connection) !== 1
    throw new LibvirtFailure({ ...lib.connectionError(this.#connection), disconnected })
  }

  #ok(result: number): number {
    if (result < 0) this.#fail()
    return result
  }

  #some<T>(result: T | null): T {
    if (result === null || result === (0 as T)) this.#fail()
    return result as T
  }

  async #watch(domain: string): Promise<void> {
    await this.#with(domain, async (handle) => {
      this.#ok(await theLibrary().watch(this.#connection, handle, this.id))
    })
    this.#watched = domain
  }

  async #with<T>(name: string | undefined, use: (handle: DomainHandle) => Promise<T>): Promise<T> {
    const lib = theLibrary()
    const handle = this.#some(await lib.lookup(this.#connection, name ?? ''))
    try {
      return await use(handle)
    } finally {
      lib.free(handle)
    }
  }

  async #perform({ call, args, watch }: CallMessage): Promise<unknown> {
    if (call === 'close') {
      lanes.delete(this.id)
      return this.#close()
    }
    const connection = await this.#connected()
    if (watch !== null && watch !== this.#watched) await this.#watch(watch)
    const lib = theLibrary()
    const { domain, flags = 0, xml = '', file = '', disk = '' } = args
    const on = <T>(use: (handle: DomainHandle) => Promise<T>) => this.#with(domain, use)
    switch (call) {
      case 'open':
        return this.#versions(connection)
      case 'capabilities':
        return this.#some(await lib.capabilities(connection))
      case 'describe':
        return on((handle) => this.#describe(handle))
      case 'domainXml':
        return on(async (handle) => this.#some(await lib.domainXml(handle, flags)))
      case 'suspend':
        return on(async (handle) => this.#ok(await lib.suspend(handle)))
      case 'resume':
        return on(async (handle) => this.#ok(await lib.resume(handle)))
      case 'destroy':
        return on(async (handle) => this.#ok(await lib.destroy(handle)))
      case 'undefine':
        return on(async (handle) => this.#ok(await lib.undefine(handle, flags)))
      case 'monitor':
        return on((handle) => this.#monitor(handle, args))
      case 'snapshot':
        return on(async (handle) => {
          lib.freeSnapshot(this.#some(await lib.snapshot(handle, xml, flags)))
        })
      case 'restore':
        return this.#ok(await lib.restore(connection, file, xml === '' ? null : xml, restorePaused))
      case 'imageXml':
        return this.#some(await lib.imageXml(connection, file, flags))
      case 'define': {
        lib.free(this.#some(await lib.define(connection, xml, flags)))
        return null
      }
      case 'blockInfo':
        return on(async (handle): Promise<BlockInfo> => {
          // struct virDomainBlockInfo { unsigned long long capacity, allocation, physical }
          const out = new BigUint64Array(3)
          this.#ok(await lib.blockInfo(handle, disk, new Uint8Array(out.buffer), 0))
          return { capacity: Number(out[0]) }
        })
      case 'blockCommit':
        return on(async (handle) =>
          this.#ok(await lib.blockCommit(handle, disk, args.base ?? null, null, 0, blockCommitActive)),
        )
      case 'blockJob':
        return on((handle) => this.#blockJob(handle, disk))
      case 'blockPivot':
        return on(async (handle) => this.#ok(await lib.blockJobAbort(handle, disk, blockJobPivot)))
      case 'blockAbort':
        return on(async (handle) => this.#ok(await lib.blockJobAbort(handle, disk, 0)))
    }
  }

  async #versions(connection: Connection): Promise<OpenResult> {
    const lib = theLibrary()
    const out = new BigUint64Array(1)
    const read = async (ask: Library['version']) =>
      (await ask(connection, new Uint8Array(out.buffer))) < 0 ? null : version(Number(out[0]))
    return { libvirt: (await read(lib.libraryVersion)) ?? '', hypervisor: await read(lib.version) }
  }

  async #describe(handle: DomainHandle): Promise<DescribeResult> {
    const lib = theLibrary()
    const uuid = Buffer.alloc(37)
    const state = Buffer.alloc(4)
    this.#ok(lib.uuid(handle, uuid))
    this.#ok(await lib.state(handle, state, Buffer.alloc(4), 0))
    return {
      uuid: uuid.toString('latin1', 0, 36),
      state: state.readInt32LE(),
      active: this.#ok(await lib.isActive(handle)) === 1,
      persistent: this.#ok(await lib.isPersistent(handle)) === 1,
    }
  }

  async #monitor(handle: DomainHandle, { command = '', descriptorPath }: CallArguments): Promise<string> {
    const lib = theLibrary()
    const out = new Uint8Array(8)
    if (descriptorPath === undefined) {
      this.#ok(await lib.monitor(handle, command, out, 0))
      return lib.takeString(out)
    }
    if (lib.monitorWithFiles === null) {
      throw new LibvirtFailure({
        code: errorNumber.configUnsupported,
        message: 'libvirt older than 8.2 passes no descriptors',
        disconnected: false,
      })
    }
    const fd = openSync(descriptorPath, constants.O_WRONLY)
    try {
      const files = new Int32Array([fd])
      this.#ok(await lib.monitorWithFiles(handle, command, 1, new Uint8Array(files.buffer), null, null, out, 0))
      return lib.takeString(out)
    } finally {
      closeSync(fd)
    }
  }

  async #blockJob(handle: DomainHandle, disk: string): Promise<BlockJob> {
    // struct virDomainBlockJobInfo { int type; unsigned long bandwidth; unsigned long long cur, end }
    const out = new BigUint64Array(4)
    const found = this.#ok(await theLibrary().blockJob(handle, disk, new Uint8Array(out.buffer), 0)) === 1
    return { found, cur: Number(out[2]), end: Number(out[3]) }
  }
}

const lanes = new Map<number, Lane>()

function main(): void {
  // A process starts with its parent's priority; a switch runs ahead of the guests, but this work must not.
  if (getPriority() < 0) setPriority(0)
  // Signals to the daemon's group or terminal are the daemon's to act on: this process ends with its input.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
  const lines = createInterface({ input: process.stdin })
  lines.on('line', (line) => {
    const message = JSON.parse(line) as CallMessage
    let lane = lanes.get(message.lane)
    if (lane === undefined) {
      lane = new Lane(message.lane, message.uri)
      lanes.set(message.lane, lane)
    }
    lane.run(message)
  })
  // Not exit(): it would wait for the worker threads, one of which runs libvirt's event loop.
  lines.on('close', () => process.kill(process.pid, 'SIGKILL'))
  process.stdout.on('error', () => process.kill(process.pid, 'SIGKILL'))
}

main()
