// Calls on one connection to libvirt, in the libvirt process.

import { closeSync, constants, openSync } from 'node:fs'
import { isLoaded, LibvirtFailure, openConnection, theLibrary, version } from './connection.js'
import type { Connection, DomainHandle, Library } from './library.js'
import {
  type BlockInfo,
  type BlockJob,
  blockCommitActive,
  blockCommitBandwidthBytes,
  blockRebaseBandwidthBytes,
  type CallArguments,
  type CallError,
  type CallMessage,
  type DescribeResult,
  errorNumber,
  type Keepsakes,
  type OpenResult,
  type ProcessMessage,
  restorePaused,
  snapshotListFlags,
} from './protocol.js'

const keepAliveSeconds = 5
const keepAliveCount = 3
const blockJobPivot = 2
/** Names of snapshots that are read at most: only some are told. */
const mostNames = 64

/**
 * One connection to a libvirtd, made again when it is lost. Its calls go one after the other, so that an error read
 * from the connection belongs to the call just made.
 */
export class Lane {
  readonly id: number
  readonly #uri: string
  readonly #say: (message: ProcessMessage) => void
  #connection: Connection = 0
  #daemon: number | null = null
  #watched: string | null = null
  /** Negative: none. */
  #watch = -1
  /** The watched domain's, as long as the connection lasts: every look-up is a round trip. */
  #handle: DomainHandle = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(id: number, uri: string, say: (message: ProcessMessage) => void) {
    this.id = id
    this.#uri = uri
    this.#say = say
  }

  run(message: CallMessage): void {
    this.#last = this.#last.then(async () => {
      try {
        this.#say({ kind: 'result', id: message.id, result: (await this.#perform(message)) ?? null })
      } catch (thrown) {
        this.#say({ kind: 'error', id: message.id, error: this.#explain(thrown) })
      }
    })
  }

  hear(name: string, atUs: number, details: string | null): void {
    let data: unknown = {}
    try {
      data = details === null ? {} : JSON.parse(details)
    } catch {}
    this.#say({ kind: 'event', lane: this.id, domain: this.#watched ?? '', name, atUs, data })
  }

  #explain(thrown: unknown): CallError {
    if (thrown instanceof LibvirtFailure) {
      return { code: thrown.code, message: thrown.message, disconnected: thrown.disconnected }
    }
    const message = thrown instanceof Error ? thrown.message : String(thrown)
    return { code: 0, message, disconnected: !isLoaded() }
  }

  /** A connection that lives; made anew, with its watch, when libvirtd was restarted. */
  async #connected(): Promise<Connection> {
    const lib = theLibrary()
    if (this.#connection !== 0) {
      if (lib.isAlive(this.#connection) === 1) return this.#connection
      await this.#close()
    }
    const { connection, daemon } = await openConnection(this.#uri)
    this.#connection = connection
    this.#daemon = daemon
    lib.silence(connection)
    await lib.setKeepAlive(connection, keepAliveSeconds, keepAliveCount)
    return connection
  }

  async #close(): Promise<void> {
    const connection = this.#connection
    const watch = this.#watch
    this.#forget()
    this.#watched = null
    this.#watch = -1
    this.#connection = 0
    if (watch >= 0) await theLibrary().unwatch(connection, watch)
    if (connection !== 0) await theLibrary().close(connection)
  }

  #fail(): never {
    const lib = theLibrary()
    const disconnected = lib.isAlive(this.#connection) !== 1
    const error = lib.connectionError(this.#connection)
    // Another domain may have that name by now.
    if (error.code === errorNumber.noDomain) this.#forget()
    throw new LibvirtFailure({ ...error, disconnected })
  }

  #forget(): void {
    if (this.#handle !== 0) theLibrary().free(this.#handle)
    this.#handle = 0
  }

  #ok(result: number): number {
    if (result < 0) this.#fail()
    return result
  }

  #some<T>(result: T | null): T {
    if (result === null || result === (0 as T)) this.#fail()
    return result as T
  }

  async #hearOf(domain: string): Promise<void> {
    this.#watch = await this.#with(domain, async (handle) =>
      this.#ok(await theLibrary().watch(this.#connection, handle, this.id)),
    )
    this.#watched = domain
  }

  async #with<T>(name: string | undefined, use: (handle: DomainHandle) => Promise<T>): Promise<T> {
    const lib = theLibrary()
    if (name !== undefined && name === this.#watched) {
      if (this.#handle === 0) this.#handle = this.#some(await lib.lookup(this.#connection, name))
      return use(this.#handle)
    }
    const handle = this.#some(await lib.lookup(this.#connection, name ?? ''))
    try {
      return await use(handle)
    } finally {
      lib.free(handle)
    }
  }

  async #perform({ call, args, watch }: CallMessage): Promise<unknown> {
    if (call === 'close') return this.#close()
    const connection = await this.#connected()
    if (watch !== null && watch !== this.#watched) await this.#hearOf(watch)
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
      case 'abortJob':
        return on(async (handle) => this.#ok(await lib.abortJob(handle)))
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
      case 'keepsakes':
        return on((handle) => this.#keepsakes(handle))
      case 'nameOf':
        return this.#nameOf(args.uuid ?? '')
      case 'toNative':
        return this.#some(await lib.toNative(connection, 'qemu-argv', xml, flags))
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
        return on(async (handle) => {
          const flags = blockCommitActive | blockCommitBandwidthBytes
          return this.#ok(await lib.blockCommit(handle, disk, args.base ?? null, null, args.bytesPerSecond ?? 0, flags))
        })
      case 'blockRebase':
        return on(async (handle) =>
          this.#ok(
            await lib.blockRebase(handle, disk, args.base ?? null, args.bytesPerSecond ?? 0, blockRebaseBandwidthBytes),
          ),
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
    const libvirt = (await read(lib.libraryVersion)) ?? ''
    return { libvirt, hypervisor: await read(lib.version), daemon: this.#daemon }
  }

  async #describe(handle: DomainHandle): Promise<DescribeResult> {
    const lib = theLibrary()
    const uuid = Buffer.alloc(37)
    const state = Buffer.alloc(4)
    const reason = Buffer.alloc(4)
    this.#ok(lib.uuid(handle, uuid))
    this.#ok(await lib.state(handle, state, reason, 0))
    return {
      uuid: uuid.toString('latin1', 0, 36),
      state: state.readInt32LE(),
      reason: reason.readInt32LE(),
      active: this.#ok(await lib.isActive(handle)) === 1,
      persistent: this.#ok(await lib.isPersistent(handle)) === 1,
    }
  }

  async #keepsakes(handle: DomainHandle): Promise<Keepsakes> {
    const lib = theLibrary()
    return {
      internal: await this.#snapshotNames(handle, snapshotListFlags.internal),
      external: await this.#snapshotNames(handle, snapshotListFlags.external),
      checkpoints: this.#ok(await lib.checkpoints(handle, null, 0)),
      managedSave: this.#ok(await lib.hasManagedSave(handle, 0)) === 1,
    }
  }

  async #snapshotNames(handle: DomainHandle, flags: number): Promise<string[]> {
    const lib = theLibrary()
    const out = new Uint8Array(8 * mostNames)
    const count = this.#ok(await lib.snapshotNames(handle, out, mostNames, flags))
    return Array.from({ length: count }, (_, i) => lib.takeString(out.subarray(8 * i, 8 * i + 8)))
  }

  /** What libvirt calls the domain of this UUID; null when it has none. */
  async #nameOf(uuid: string): Promise<string | null> {
    const lib = theLibrary()
    const handle = await lib.lookupByUuid(this.#connection, uuid)
    if (handle === 0) {
      if (lib.connectionError(this.#connection).code === errorNumber.noDomain) return null
      this.#fail()
    }
    try {
      return lib.nameOf(handle)
    } finally {
      lib.free(handle)
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
