// libvirt.so and libvirt-qemu.so through FFI, for the libvirt process alone: a fault in them ends the process that has
// loaded them. Every call that may wait runs on a worker thread. Addresses are plain numbers (user space ends below
// 2^47).

import koffi from 'koffi'

/** Opaque pointers; 0 is NULL. */
export type Connection = number
export type DomainHandle = number

type Async<A extends unknown[], R> = (...args: A) => Promise<R>

export interface Library {
  open: Async<[uri: string], Connection>
  close: Async<[Connection], number>
  isAlive(connection: Connection): number
  setKeepAlive: Async<[Connection, intervalSeconds: number, count: number], number>
  version: Async<[Connection, out: Uint8Array], number>
  libraryVersion: Async<[Connection, out: Uint8Array], number>
  capabilities: Async<[Connection], string | null>
  lookup: Async<[Connection, name: string], DomainHandle>
  free(domain: DomainHandle): number
  uuid(domain: DomainHandle, out: Uint8Array): number
  state: Async<[DomainHandle, state: Uint8Array, reason: Uint8Array, flags: number], number>
  isActive: Async<[DomainHandle], number>
  isPersistent: Async<[DomainHandle], number>
  domainXml: Async<[DomainHandle, flags: number], string | null>
  suspend: Async<[DomainHandle], number>
  resume: Async<[DomainHandle], number>
  destroy: Async<[DomainHandle], number>
  abortJob: Async<[DomainHandle], number>
  undefine: Async<[DomainHandle, flags: number], number>
  define: Async<[Connection, xml: string, flags: number], DomainHandle>
  snapshot: Async<[DomainHandle, xml: string, flags: number], number>
  /** Writes the addresses of at most `room` names to `out`; returns how many. */
  snapshotNames: Async<[DomainHandle, out: Uint8Array, room: number, flags: number], number>
  /** Only counts when `out` is null. */
  checkpoints: Async<[DomainHandle, out: null, flags: number], number>
  hasManagedSave: Async<[DomainHandle, flags: number], number>
  lookupByUuid: Async<[Connection, uuid: string], DomainHandle>
  nameOf(domain: DomainHandle): string | null
  /** The command line that QEMU would be started with; libvirt checks the definition on the way. */
  toNative: Async<[Connection, format: string, xml: string, flags: number], string | null>
  freeSnapshot(snapshot: number): number
  restore: Async<[Connection, file: string, xml: string | null, flags: number], number>
  imageXml: Async<[Connection, file: string, flags: number], string | null>
  blockInfo: Async<[DomainHandle, disk: string, out: Uint8Array, flags: number], number>
  blockCommit: Async<
    [DomainHandle, disk: string, base: string | null, top: string | null, bandwidth: number, flags: number],
    number
  >
  blockJob: Async<[DomainHandle, disk: string, out: Uint8Array, flags: number], number>
  blockRebase: Async<[DomainHandle, disk: string, base: string | null, bandwidth: number, flags: number], number>
  blockJobAbort: Async<[DomainHandle, disk: string, flags: number], number>
  monitor: Async<[DomainHandle, command: string, out: Uint8Array, flags: number], number>
  /** Null before libvirt 8.2. */
  monitorWithFiles: Async<
    [
      DomainHandle,
      command: string,
      count: number,
      files: Uint8Array,
      outCount: null,
      outFiles: null,
      out: Uint8Array,
      flags: number,
    ],
    number
  > | null
  registerDefaultLoop(): number
  runLoop: Async<[], number>
  connectionError(connection: Connection): { code: number; message: string }
  /** Called, one at a time, with every error that no connection's handler has taken. */
  onError(listener: (code: number, message: string) => void): void
  silence(connection: Connection): void
  /** QMP events of a domain, told to the listener of `onMonitorEvent` with `token`. */
  watch: Async<[Connection, DomainHandle, token: number], number>
  /** Takes what `watch` has returned. A connection that is watched on stays open, whoever closes it. */
  unwatch: Async<[Connection, watch: number], number>
  onMonitorEvent(listener: MonitorListener): void
  /** Reads and frees the string whose address a call has written to `out`. */
  takeString(out: Uint8Array): string
}

export type MonitorListener = (token: number, event: string, atUs: number, details: string | null) => void

// biome-ignore lint/suspicious/noExplicitAny: the FFI edge
type Native = any

function optional<T>(bind: () => T): T | null {
  try {
    return bind()
  } catch {
    return null
  }
}

/** Throws when libvirt is not installed. */
export function loadLibrary(): Library {
  const core = koffi.load('libvirt.so.0')
  const qemu = koffi.load('libvirt-qemu.so.0')
  const libc = koffi.load('libc.so.6')
  const free = libc.func('void free(uintptr_t)') as Native
  const owned = koffi.disposable('str', libc.func('void free(void *)') as Native)

  const address = 'uintptr_t'
  const bind = (library: Native, name: string, result: Native, args: Native[]): Native => {
    const native = library.func(name, result, args)
    return (...values: unknown[]) =>
      new Promise((resolve, reject) => {
        native.async(...values, (error: Error | null, value: unknown) =>
          error === null ? resolve(value) : reject(error),
        )
      })
  }
  const [text, buffer, number, word] = ['const char *', 'void *', 'uint32_t', 'int']

  const readError = (pointer: bigint | number | null): { code: number; message: string } => {
    if (pointer === null || Number(pointer) === 0) return { code: 0, message: 'no reason given' }
    // struct virError { int code; int domain; char *message; ... }
    const view = new DataView(koffi.view(BigInt(pointer), 16))
    const message = view.getBigUint64(8, true)
    return {
      code: view.getInt32(0, true),
      message: message === 0n ? 'no reason given' : (koffi.decode(message, 'char', -1) as string),
    }
  }
  const errorCallback = koffi.proto('void SnapswitchErrorCallback(void *userData, void *error)')
  const silent = koffi.register(() => {}, koffi.pointer(errorCallback))
  const setErrorFunc = core.func('virSetErrorFunc', 'void', [buffer, koffi.pointer(errorCallback)]) as Native
  const setConnectionErrorFunc = core.func('virConnSetErrorFunc', 'void', [
    address,
    buffer,
    koffi.pointer(errorCallback),
  ]) as Native
  const lastError = core.func('virConnGetLastError', address, [address]) as Native

  const monitorCallback = koffi.proto(
    'void SnapswitchMonitorCallback(void *connection, void *domain, const char *event, int64_t seconds, uint32_t micros, void *details, uintptr_t opaque)',
  )
  const registerMonitor = bind(qemu, 'virConnectDomainQemuMonitorEventRegister', word, [
    address,
    address,
    text,
    koffi.pointer(monitorCallback),
    address,
    buffer,
    number,
  ])
  let onMonitorEvent: MonitorListener = () => {}
  const monitorEvent = koffi.register(
    (
      _connection: unknown,
      _domain: unknown,
      event: string,
      seconds: number | bigint,
      micros: number,
      details: bigint | null,
      token: number,
    ) => {
      const words = details === null || details === 0n ? null : (koffi.decode(details, 'char', -1) as string)
      onMonitorEvent(Number(token), event, Number(seconds) * 1_000_000 + micros, words)
    },
    koffi.pointer(monitorCallback),
  )

  return {
    open: bind(core, 'virConnectOpen', address, [text]),
    close: bind(core, 'virConnectClose', word, [address]),
    isAlive: core.func('virConnectIsAlive', word, [address]) as Native,
    setKeepAlive: bind(core, 'virConnectSetKeepAlive', word, [address, word, number]),
    version: bind(core, 'virConnectGetVersion', word, [address, buffer]),
    libraryVersion: bind(core, 'virConnectGetLibVersion', word, [address, buffer]),
    capabilities: bind(core, 'virConnectGetCapabilities', owned, [address]),
    lookup: bind(core, 'virDomainLookupByName', address, [address, text]),
    free: core.func('virDomainFree', word, [address]) as Native,
    uuid: core.func('virDomainGetUUIDString', word, [address, buffer]) as Native,
    state: bind(core, 'virDomainGetState', word, [address, buffer, buffer, number]),
    isActive: bind(core, 'virDomainIsActive', word, [address]),
    isPersistent: bind(core, 'virDomainIsPersistent', word, [address]),
    domainXml: bind(core, 'virDomainGetXMLDesc', owned, [address, number]),
    suspend: bind(core, 'virDomainSuspend', word, [address]),
    resume: bind(core, 'virDomainResume', word, [address]),
    destroy: bind(core, 'virDomainDestroy', word, [address]),
    abortJob: bind(core, 'virDomainAbortJob', word, [address]),
    undefine: bind(core, 'virDomainUndefineFlags', word, [address, number]),
    define: bind(core, 'virDomainDefineXMLFlags', address, [address, text, number]),
    snapshot: bind(core, 'virDomainSnapshotCreateXML', address, [address, text, number]),
    snapshotNames: bind(core, 'virDomainSnapshotListNames', word, [address, buffer, word, number]),
    checkpoints: bind(core, 'virDomainListAllCheckpoints', word, [address, buffer, number]),
    hasManagedSave: bind(core, 'virDomainHasManagedSaveImage', word, [address, number]),
    lookupByUuid: bind(core, 'virDomainLookupByUUIDString', address, [address, text]),
    nameOf: core.func('virDomainGetName', 'const char *', [address]) as Native,
    toNative: bind(core, 'virConnectDomainXMLToNative', owned, [address, text, text, number]),
    freeSnapshot: core.func('virDomainSnapshotFree', word, [address]) as Native,
    restore: bind(core, 'virDomainRestoreFlags', word, [address, text, text, number]),
    imageXml: bind(core, 'virDomainSaveImageGetXMLDesc', owned, [address, text, number]),
    blockInfo: bind(core, 'virDomainGetBlockInfo', word, [address, text, buffer, number]),
    blockCommit: bind(core, 'virDomainBlockCommit', word, [address, text, text, text, 'ulong', number]),
    blockJob: bind(core, 'virDomainGetBlockJobInfo', word, [address, text, buffer, number]),
    blockRebase: bind(core, 'virDomainBlockRebase', word, [address, text, text, 'ulong', number]),
    blockJobAbort: bind(core, 'virDomainBlockJobAbort', word, [address, text, number]),
    monitor: bind(qemu, 'virDomainQemuMonitorCommand', word, [address, text, buffer, number]),
    monitorWithFiles: optional(() =>
      bind(qemu, 'virDomainQemuMonitorCommandWithFiles', word, [
        address,
        text,
        number,
        buffer,
        buffer,
        buffer,
        buffer,
        number,
      ]),
    ),
    registerDefaultLoop: core.func('virEventRegisterDefaultImpl', word, []) as Native,
    runLoop: bind(core, 'virEventRunDefaultImpl', word, []),
    connectionError: (connection) => readError(lastError(connection)),
    onError(listener) {
      const callback = koffi.register((_: unknown, error: bigint | null) => {
        const { code, message } = readError(error)
        listener(code, message)
      }, koffi.pointer(errorCallback))
      setErrorFunc(null, callback)
    },
    silence(connection) {
      setConnectionErrorFunc(connection, null, silent)
    },
    watch: (connection, domain, token) => registerMonitor(connection, domain, null, monitorEvent, token, null, 0),
    unwatch: bind(qemu, 'virConnectDomainQemuMonitorEventDeregister', word, [address, word]),
    onMonitorEvent(listener) {
      onMonitorEvent = listener
    },
    takeString(out) {
      const at = Buffer.from(out.buffer, out.byteOffset, 8).readBigUint64LE()
      if (at === 0n) return ''
      try {
        return koffi.decode(at, 'char', -1) as string
      } finally {
        free(Number(at))
      }
    },
  }
}
