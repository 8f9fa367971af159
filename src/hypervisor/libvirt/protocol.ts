// What the daemon and its libvirt process say to each other: one JSON object a line. The daemon writes calls to the
// process's standard input; results and events come back on its standard output.

/** A call on a lane: one connection to one libvirtd, on which calls go one after the other. */
export interface CallMessage {
  readonly id: number
  readonly lane: number
  readonly uri: string
  /** The domain whose QMP events are told, on this connection and on every one that replaces it. */
  readonly watch: string | null
  readonly call: CallName
  readonly args: CallArguments
}

/** The arguments that each call reads; see library.ts for libvirt's own names. */
export interface CallArguments {
  readonly domain?: string
  readonly flags?: number
  readonly xml?: string
  /** A saved image. */
  readonly file?: string
  readonly uuid?: string
  /** A QMP command as JSON. */
  readonly command?: string
  /** Opened for writing by the process and passed along with the command. */
  readonly descriptorPath?: string
  readonly disk?: string
  readonly base?: string
  /** Of a block job; 0: no limit. */
  readonly bytesPerSecond?: number
}

export const callNames = [
  'open',
  'close',
  'describe',
  'capabilities',
  'domainXml',
  'suspend',
  'resume',
  'destroy',
  'monitor',
  'snapshot',
  'restore',
  'imageXml',
  'define',
  'undefine',
  'blockInfo',
  'blockCommit',
  'blockRebase',
  'blockJob',
  'blockPivot',
  'blockAbort',
  'keepsakes',
  'nameOf',
  'toNative',
  'abortJob',
] as const

export type CallName = (typeof callNames)[number]

/** An error as libvirt tells it: virErrorNumber and its words. Code 0: none of libvirt's. */
export interface CallError {
  readonly code: number
  readonly message: string
  /** The connection could not be made, or is lost. */
  readonly disconnected: boolean
}

export type ProcessMessage =
  | { readonly kind: 'result'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: CallError }
  /** A QMP event of a watched domain. */
  | {
      readonly kind: 'event'
      readonly lane: number
      readonly domain: string
      readonly name: string
      readonly atUs: number
      readonly data: unknown
    }

/** Null when the line is none. */
export function parseProcessMessage(line: string): ProcessMessage | null {
  try {
    return JSON.parse(line) as ProcessMessage
  } catch {
    return null
  }
}

export interface OpenResult {
  /** As in "9.0.0". */
  readonly libvirt: string
  /** QEMU's, as libvirt found it; null when it found none. */
  readonly hypervisor: string | null
  /** The pid of the libvirtd, where it can be told. */
  readonly daemon: number | null
}

export interface DescribeResult {
  readonly uuid: string
  /** virDomainState. */
  readonly state: number
  /** Why it is in that state: virDomainPausedReason and others. */
  readonly reason: number
  readonly active: boolean
  readonly persistent: boolean
}

/** What libvirt keeps of a domain besides its configuration, and loses the way to when disks are changed under it. */
export interface Keepsakes {
  /** Names of its snapshots that lie in the disk images, and of those that lie in overlays. */
  readonly internal: readonly string[]
  readonly external: readonly string[]
  /** How many checkpoints it has: what incremental backups go on from. */
  readonly checkpoints: number
  /** Whether it was saved with `virsh managedsave`: then it starts from that image, on the disks that this names. */
  readonly managedSave: boolean
}

export interface BlockInfo {
  /** Virtual size in bytes. */
  readonly capacity: number
}

export interface BlockJob {
  /** False: there is none. */
  readonly found: boolean
  readonly cur: number
  readonly end: number
}

/** Numbers of libvirt's headers (libvirt-domain.h, libvirt-domain-snapshot.h, virterror.h): part of its stable ABI. */
export const xmlFlags = { secure: 1, inactive: 2, migratable: 8 } as const
export const snapshotFlags = { noMetadata: 1 << 2, diskOnly: 1 << 4, reuseExternal: 1 << 5, atomic: 1 << 7 } as const
export const snapshotListFlags = { internal: 1 << 8, external: 1 << 9 } as const
/** virDomainUndefineFlags. */
export const undefineKeepNvram = 1 << 3
export const restorePaused = 1 << 2
export const blockCommitActive = 1 << 2
export const blockCommitBandwidthBytes = 1 << 4
export const blockRebaseBandwidthBytes = 1 << 6
export const domainState = { running: 1, blocked: 2, paused: 3, shutoff: 5, crashed: 6, pmsuspended: 7 } as const
export const errorNumber = {
  noConnect: 5,
  invalidArgument: 8,
  operationFailed: 9,
  systemError: 38,
  rpc: 39,
  noDomain: 42,
  authentication: 45,
  operationInvalid: 55,
  operationTimeout: 68,
  configUnsupported: 67,
  operationDenied: 29,
  accessDenied: 88,
} as const
