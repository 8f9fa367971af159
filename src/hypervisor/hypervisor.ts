// What a snapshot needs of a hypervisor, and nothing more. A driver implements it (drivers.ts has the list); the agent
// drives it. All waits take a deadline: no call here may hang, whatever the hypervisor does.

import type { ErrorReport, SnapswitchError } from '../errors/errors.js'
import type { HolderProcess } from './holder.js'

/** Absolute deadline in milliseconds of `performance.now()`'s clock. */
export type Deadline = number

/** One layer of a disk's image chain, the active (writable) one first. */
export interface DiskLayer {
  readonly file: string
  readonly format: 'qcow2' | 'raw'
  /** Where a qcow2 image with an external data file has its data: that file and `file` are one image. */
  readonly dataFile?: string
}

export interface Disk {
  /** The hypervisor's own name for the drive (QEMU: block device or node name); stable over a machine's life. */
  readonly name: string
  readonly layers: readonly DiskLayer[]
  /** Virtual size in bytes. */
  readonly bytes: number
}

export interface Nic {
  /** The tap device on the host. */
  readonly device: string
  /** aa:bb:cc:dd:ee:ff, or null when the hypervisor cannot tell. */
  readonly mac: string | null
  /** Left out: one, or the driver tells otherwise (`tapNeeds`). */
  readonly queues?: number
  /** The hypervisor, or the kernel for it, has made up the device's name: it may be another's by now. */
  readonly isMadeUp?: boolean
}

/** What a read-only or removable drive holds now. No machine writes to it, so a snapshot only names it. */
export interface Medium {
  /** As a disk's name. */
  readonly name: string
  /** null: the drive is empty. */
  readonly file: string | null
  readonly format: string
  readonly removable: boolean
  /** What `file` stands on, from the top down; left out when it stands alone. */
  readonly backing?: readonly DiskLayer[]
}

/** A drive that cannot be snapshot, and why: short, without a full stop, as in "/vm/a.qcow2 is encrypted". */
export interface UnsupportedDrive {
  readonly name: string
  readonly reason: string
  /** It is a device of another kind, and `name` says so, as in "filesystem share". */
  readonly isDevice?: true
}

/**
 * How memory is saved. `background`: behind the guest, which runs again within milliseconds. `precopy`: most of it
 * ahead of the cut; the guest stands still while the rest is saved. `stopped`: it stands still for all of it.
 */
export type CaptureMode = 'background' | 'precopy' | 'stopped'

export type MachineState = 'running' | 'paused' | 'other'

export interface MachineInfo {
  readonly name: string
  readonly state: MachineState
  /** Why it does not run, in plain words; null when it does, or when there is no more to say than `state`. */
  readonly stateDetail: string | null
  /** Guest RAM in bytes. */
  readonly memoryBytes: number
  readonly disks: readonly Disk[]
  /** Read-only and removable drives as they are now. */
  readonly media: readonly Medium[]
  /** Drives that cannot be snapshot. `disks`, `media` and these are all drives that the machine has. */
  readonly unsupported: readonly UnsupportedDrive[]
  /** Every file that the hypervisor has in its block graph, at any depth, of supported drives or not. */
  readonly files: readonly string[]
  /** What a snapshot changes for the machine's user, or cannot keep: told, and no reason to refuse. */
  readonly warnings: readonly string[]
  readonly nics: readonly Nic[]
  /** NICs on taps that the hypervisor makes itself and puts into a bridge. Left out: it has none, or cannot tell. */
  readonly bridgedNics?: readonly Nic[]
  /** How memory will be saved. */
  readonly captureMode: CaptureMode
  /** Why it is not `background`; null when it is. */
  readonly captureModeReason: string | null
  readonly hypervisorVersion: string
}

/** A file that a machine needs besides its disks. */
export interface ExternalFile {
  /** In plain words: kernel, initrd, firmware, … */
  readonly role: string
  /** Absolute, on the host of the snapshot. */
  readonly path: string
}

/**
 * All that is needed to start the machine again, on this host or another: goes to definition.json as it is. Drivers add
 * to it.
 */
export interface MachineDefinition {
  /** Of which driver's it is. */
  readonly kind: string
  readonly name: string
  /** Kernel, firmware and the like. Left out: none that is known. */
  readonly files?: readonly ExternalFile[]
  readonly memoryBytes: number
  readonly nics: readonly Nic[]
  /** As `MachineInfo` has them. */
  readonly bridgedNics?: readonly Nic[]
  readonly hypervisorVersion: string
  /** Whose rights its process has. Left out: root's, or its hypervisor sees to that. */
  readonly user?: ProcessUser
}

export interface ProcessUser {
  readonly uid: number
  readonly gid: number
  readonly groups: readonly number[]
}

/** How a running machine is reached: one property, named by its driver's key, with what that driver wants to know. */
export type MachineSpec = Readonly<Record<string, unknown>>

export interface CaptureTarget {
  /** An existing, empty directory owned by this capture: `memory.img` is written there. */
  readonly directory: string
  /** Used in the names of new overlays, which lie beside the disks they cover. */
  readonly label: string
  /** Told of every image file before it is made. */
  readonly creating?: (file: string) => Promise<void>
  /** Aborted when nobody wants the capture any more: `prepare` may reject then with the signal's reason. */
  readonly calledOff?: AbortSignal
}

export interface CollapseOptions {
  /** Calls it off; the machine goes on with the chain as it was. */
  readonly signal?: AbortSignal
  /** At most so many; no limit when left out. */
  readonly bytesPerSecond?: number
}

/** A disk as the snapshot froze it. `layers[0]` is the frozen image: never written again by the machine. */
export interface FrozenDisk {
  readonly name: string
  readonly layers: readonly DiskLayer[]
  /**
   * `layers[0]` is a copy made for the snapshot, and the overlay stands on `layers[1]`; else it stands on `layers[0]`.
   */
  readonly copied?: boolean
  /** The overlay that the running machine writes to from the cut on. */
  readonly overlay: string
}

export interface PauseInfo {
  /** Microseconds of CLOCK_REALTIME at which the vCPUs had stopped, by the hypervisor's own event. */
  readonly pausedAtUs: number
}

export interface ResumeInfo {
  readonly resumedAtUs: number
  /** When the overlays were in place; a capture's, where the driver can tell. */
  readonly disksAtUs?: number
  /** When the hypervisor was told to save memory and run the guest on; likewise. */
  readonly savingAtUs?: number
}

export interface SealInfo {
  readonly memoryFile: string
  readonly memoryBytes: number
  /** sha256 of the memory file, hex. */
  readonly memoryDigest: string
  /** How memory was saved, in the end. Left out: as `inspect` had said. */
  readonly captureMode?: CaptureMode
  readonly disks: readonly FrozenDisk[]
  /** What else was saved: from now on the machine needs these, too, when it is started from the image. */
  readonly files?: readonly ExternalFile[]
}

/**
 * A capture under way. It began with the machine paused.
 * `resumed` settles when the guest runs again, `sealed` when memory.img is complete, fsynced and digested.
 * When `sealed` rejects, the machine runs on (the driver has seen to it) and the image is removed.
 */
export interface Capture {
  readonly resumed: Promise<ResumeInfo>
  readonly sealed: Promise<SealInfo>
  /**
   * Nobody wants the image any more. A guest that stands still for as long as it is saved runs again at once, and
   * `sealed` rejects with the error. One that is saved in the background runs by itself, and its save comes to its end.
   */
  callOff(error: SnapswitchError): void
}

/** Settings of a hypervisor as they were found. */
export interface HypervisorSettings {
  readonly capabilities: Readonly<Record<string, boolean>>
  readonly parameters: Readonly<Record<string, unknown>>
}

/** One machine under a driver's control. */
export interface MachineControl {
  readonly name: string
  /** Tells this run of the machine from one before or after; null when the hypervisor's process cannot be seen. */
  readonly incarnation: string | null
  inspect(deadline: Deadline): Promise<MachineInfo>
  definition(deadline: Deadline): Promise<MachineDefinition>
  /**
   * Does all slow work that can be done before the pause (overlays made, image file opened and passed, limits lifted).
   * Undone by `abandon`.
   */
  prepare(target: CaptureTarget, deadline: Deadline): Promise<void>
  /** What `prepare` will change in the hypervisor besides disks: for the record, should the daemon be killed. */
  settings(deadline: Deadline): Promise<HypervisorSettings>
  /** Puts back what a killed daemon's capture had changed, and nothing that somebody has changed since. */
  putBack(settings: HypervisorSettings, deadline: Deadline): Promise<void>
  /** Undoes `prepare` when no capture was started; harmless otherwise. */
  abandon(): Promise<void>
  /** The cut begins: the hypervisor itself runs ahead of everything else until the guest runs again, or 0.3 s. */
  hasten(): void
  /**
   * Stops the vCPUs; on return the guest can send nothing. After `prepare` it also begins to put the overlays in place,
   * so that the disks stand at the pause when `capture` comes; `abandon` merges them again.
   */
  pause(deadline: Deadline): Promise<PauseInfo>
  /** Needs `prepare` and `pause`. Saves disks (one transaction), then memory. */
  capture(deadline: Deadline): Capture
  resume(deadline: Deadline): Promise<ResumeInfo>
  /** Ends the machine at once (kills it); returns when it is gone. */
  destroy(deadline: Deadline): Promise<void>
  /**
   * Merges all images of a disk's chain above `base`, which lies somewhere below the active one, into it, while the
   * machine runs; from then on the machine writes to `base`. Returns the files that left the chain; removing them is
   * the caller's. Throws SNAPSHOT_NEEDED, before anything is touched, when one of them holds what merging does not
   * carry.
   */
  collapse(disk: string, base: string, deadline: Deadline, options?: CollapseOptions): Promise<string[]>
  /**
   * Makes a disk's chain short: what lies between the active image and `base` is copied into the active one, and
   * nothing else is written, while the machine runs. Returns the files that left the chain. Refuses as `collapse` does.
   */
  shorten(disk: string, base: string, deadline: Deadline, options?: CollapseOptions): Promise<string[]>
  /** Throws what `collapse` would refuse with, and changes nothing. */
  checkCollapse(disk: string, base: string, deadline: Deadline): Promise<void>
  /** Removes an overlay that a `prepare` has made and no disk uses: its daemon was killed before the cut. */
  dropOverlay(file: string, deadline: Deadline): Promise<void>
  /** Lets go of the control connection; the machine runs on. */
  close(): Promise<void>
}

export interface LoadRequest<Definition extends MachineDefinition = MachineDefinition> {
  readonly definition: Definition
  readonly memoryFile: string
  /** Frozen disks with layers as they lie on this host; the driver makes fresh overlays in `directory`. */
  readonly disks: readonly FrozenDisk[]
  /**
   * What its read-only and removable drives held at the cut, as it lies on this host. Left out: as the definition says.
   */
  readonly media?: readonly Medium[]
  /** The definition's other files as they lie on this host, by their paths in the definition. Left out: as it says. */
  readonly files?: ReadonlyMap<string, string>
  /** Tap devices for the definition's NICs, in order. */
  readonly taps: readonly string[]
  /**
   * Tap devices for its bridged NICs, in order: of ports, so that nothing comes to the machine before its time. null:
   * the hypervisor makes it again and puts it into its bridge. Left out: all of them.
   */
  readonly bridgedTaps?: readonly (string | null)[]
  /** Only to see whether it loads: cut off from networks, sockets and people, and ended by the caller. */
  readonly rehearsal?: boolean
  /**
   * The same, opened: descriptors of each, one a queue, which stay the caller's. Drivers that cannot take them open the
   * devices.
   */
  readonly descriptors?: readonly (readonly number[])[]
  /** Its former self runs here until `takePlace`. */
  readonly beside?: boolean
  /** Where overlays, control socket and log of the new incarnation go; exists, empty, owned by it. */
  readonly directory: string
}

/**
 * A driver at work. Each takes its own machines only: what it is given is its own by `kind`, or by the key in a spec.
 */
export interface Hypervisor<
  Spec extends MachineSpec = MachineSpec,
  Definition extends MachineDefinition = MachineDefinition,
  Load extends StartedLoad = StartedLoad,
> {
  /** Connects to a running machine. */
  attach(name: string, spec: Spec, deadline: Deadline): Promise<MachineControl>
  /**
   * How the machine of a process that was recognized is reached, where its command line does not say it all. Throws why
   * it cannot be.
   */
  locate?(holder: HolderProcess, title: string, deadline: Deadline): Promise<Spec>
  /** Whether somebody runs the machine. When in doubt, somebody does. */
  isThere(name: string, spec: Spec): Promise<boolean>
  /**
   * Starts a machine from an image, detached, and returns once it is loaded and paused. On failure nothing is left
   * running or on disk.
   */
  load(request: LoadRequest<Definition>, deadline: Deadline): Promise<LoadedMachine<Spec>>
  /**
   * What speaks against loading such a machine on this host, besides its files and its ports: told before anything is
   * ended for it. Starts and changes nothing; a former self that runs is no obstacle.
   */
  examine?(definition: Definition, deadline: Deadline): Promise<ErrorReport[]>
  /**
   * Ends what a `load` has started whose daemon was killed. False: the machine had been told to run, and does (or it
   * cannot be told), so it is left alone.
   */
  endLoad(load: Load, deadline: Deadline): Promise<boolean>
}

/** A load that began. Drivers add what tells it from others. */
export interface StartedLoad {
  /** Of its request. */
  readonly directory: string
  /** Whether it had been told to run. */
  readonly mayRun: boolean
}

export interface LoadedMachine<Spec extends MachineSpec = MachineSpec> {
  readonly control: MachineControl
  /** How to attach to it later: what `Hypervisor.attach` takes. */
  readonly spec: Spec
  /** The former self has ended: what it had to itself is this one's now. Of machines that were loaded `beside` it. */
  takePlace?(): Promise<void>
}
