// Every failure a person may meet: one class with a stable code, a sentence that says what happened, and one that says
// what to do about it. Rooms add codes to the table here, so that `npm run reference` lists them and a test can check
// it.

/** Stable error codes. A code never changes its meaning; the text beside it may get better. */
export const errorCodes = {
  CONFIG_INVALID: 'the configuration file does not fit its schema',
  CONFIG_UNREADABLE: 'the configuration file cannot be read or is no YAML',
  CONFIG_FIXED: 'a change of the configuration that needs a restart of the daemon',
  WANTED_TWICE: 'the configuration and a bridge that was taken over say different things of one network or machine',
  DEVICE_MISSING: 'a network device that a port names does not exist',
  DEVICE_UNSUPPORTED: 'a device that a port names is no Ethernet device, or cannot be a port',
  DEVICE_MTU: 'a trunk has no room for the color tag: its MTU must be 4 above the members’',
  DEVICE_BUSY: 'a device is taken already, by another port or another daemon',
  DEVICE_LOOP: 'two ports are the ends of one cable or of a longer way round: frames would circle',
  DEVICE_SHARED: 'the host itself uses a device that is a port, and hears nothing through it',
  DEVICE_RENAMED: 'a port’s device is not called as the configuration says',
  DEVICE_DOWN: 'a port’s device is down, or nothing is at its other end',
  BRIDGE_INVALID: 'a device that is to be taken over is no bridge',
  BRIDGE_UNSUPPORTED: 'a bridge does what the switch cannot do in its place',
  BRIDGE_FILTERED: 'packet filters see frames between the ports of a bridge, and would not any more',
  BRIDGE_TAKEN: 'a bridge is taken over already, by this daemon or another one',
  BRIDGE_NOT_TAKEN: 'a bridge is to be given back that was not taken over',
  BRIDGE_LOST: 'a bridge that was taken over is gone, or not what it was',
  PORT_EXISTS: 'a port of that name or on that device exists already',
  PORT_UNKNOWN: 'no port of that name',
  FILES_SHORT: 'a daemon may not have as many open files as its ports need',
  NETWORK_UNKNOWN: 'no network of that name on this host',
  INSTALL_FAILED: 'a step of `snapswitch install` or `uninstall` failed; those before it are done',
  SYSCALL: 'a system call failed',
  PERMISSION: 'the process lacks a capability that it needs',
  SOCKET_UNREACHABLE: 'a daemon’s API socket does not answer',
  ENDPOINT_INVALID: 'the address of a daemon’s API is none that can be used',
  REQUEST_INVALID: 'an API request does not fit its schema',
  REQUEST_TIMEOUT: 'a daemon did not answer within the deadline',
  NAME_INVALID: 'a name has characters that names may not have',
  MACHINE_UNKNOWN: 'no machine of that name on this host',
  MACHINE_NOT_RUNNING: 'a machine is not running',
  MACHINE_RUNNING: 'a machine runs already',
  MACHINE_PAUSED: 'a machine that a snapshot has paused could not be resumed',
  MACHINE_UNSUPPORTED: 'a machine has a device or disk that cannot be captured',
  DISK_FROZEN: 'a machine runs on a disk image that a snapshot has frozen',
  HYPERVISOR_UNREACHABLE: 'the hypervisor’s control socket or command does not answer, or may not be run',
  HYPERVISOR_REFUSED: 'the hypervisor answered a command with an error',
  HYPERVISOR_PROTOCOL: 'the hypervisor answered with something that does not fit its protocol',
  CAPTURE_BUSY: 'as many captures of live traffic run as may, on this host',
  CAPTURE_FAILED: 'the machine’s memory or disk could not be saved',
  MEMORY_SHORT: 'a host has no room for a machine beside its former self',
  STORE_FULL: 'the disk that holds the snapshots is full',
  STORE_DAMAGED: 'a file of the snapshot is missing or does not match its digest',
  STORE_IO: 'a file of the store cannot be read or written',
  SNAPSHOT_UNKNOWN: 'no snapshot of that name',
  SNAPSHOT_EXISTS: 'a snapshot of that name exists already',
  SNAPSHOT_NOT_COMPLETE: 'the snapshot is pending or failed, so it cannot be restored',
  SNAPSHOT_UNVERIFIED: 'the snapshot was taken, but an image of it did not load',
  SNAPSHOT_NOT_RECORDED: 'the snapshot was made without --record, so it cannot be audited',
  SNAPSHOT_BUSY: 'a snapshot or restore of this network is under way',
  SNAPSHOT_NEEDED: 'another snapshot or a running machine needs what would be deleted',
  SNAPSHOT_FAILED: 'the snapshot was not taken; all machines run on',
  SNAPSHOT_DISCARDED: 'the snapshot was called off',
  RESTORE_FAILED: 'the restore was undone; the snapshot is untouched',
  PLACEMENT_INVALID: 'the placement names a machine or host that does not exist, or leaves one out',
  EPOCH_STALE: 'the epoch asked for is not above the ones already used',
  PEER_DOWN: 'a peer switch on a trunk or uplink does not answer',
  PEER_VERSION: 'a peer switch speaks another version',
  DEADLINE: 'a step did not finish by its deadline',
  TRACE_INVALID: 'a trace file is damaged or no capture',
  TRACE_UNSUPPORTED: 'a capture is of a format, a version or a link type that is not read',
  TRACE_UNREADABLE: 'a capture cannot be opened or read',
  OUTPUT_FAILED: 'a file or pipe that frames, or what a command prints, go to cannot be written',
  RECORDING_VERSION: 'a recording of a run is of another version',
  RECORDING_BUSY: 'a run cannot be recorded now',
  RECORDING_KEY: 'a recording would have the network’s key in it, and nobody has allowed that',
  INTERNAL: 'a defect in snapswitch itself',
} as const

export type ErrorCode = keyof typeof errorCodes

/** How an error travels over the API and in manifests. */
export interface ErrorReport {
  readonly code: ErrorCode
  readonly message: string
  /** What the reader can do about it; a full sentence. */
  readonly action: string
}

export class SnapswitchError extends Error {
  override readonly name = 'SnapswitchError'
  readonly code: ErrorCode
  readonly action: string

  constructor(code: ErrorCode, message: string, action: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    this.action = action
  }

  report(): ErrorReport {
    return { code: this.code, message: this.message, action: this.action }
  }

  static fromReport(report: ErrorReport, cause?: unknown): SnapswitchError {
    return errorOf(report, cause)
  }
}

/** A bundler renames a class that names itself in its body, and logs tell the class. */
function errorOf({ code, message, action }: ErrorReport, cause: unknown): SnapswitchError {
  return new SnapswitchError(code, message, action, cause)
}

/** What to do about EMFILE and ENFILE. */
export const MORE_FILES = 'Allow more open files: ulimit -n, or LimitNOFILE of the unit.'

/** `error CODE: message`, then what to do about it, as a person reads it on a terminal. */
export function errorText({ code, message, action }: ErrorReport): string {
  return `error ${code}: ${message}\nwhat to do: ${action}\n`
}

/** Wraps whatever was thrown: a SnapswitchError passes through, all else becomes INTERNAL with its cause kept. */
export function asSnapswitchError(thrown: unknown): SnapswitchError {
  if (thrown instanceof SnapswitchError) return thrown
  const message = thrown instanceof Error ? thrown.message : String(thrown)
  const { code } = Object(thrown) as { readonly code?: unknown }
  if (code === 'EMFILE' || code === 'ENFILE') return new SnapswitchError('SYSCALL', message, MORE_FILES, thrown)
  return new SnapswitchError('INTERNAL', message, 'Please report this with the daemon’s log.', thrown)
}
