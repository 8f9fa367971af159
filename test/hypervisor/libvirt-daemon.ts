// A libvirtd of our own, no systemd needed: its configuration, state and sockets lie in a scratch directory, mounted
// over the usual places in a mount namespace that only it sees. Domains boot the guest of boot-guest.s under TCG
// (qemu-system-x86_64). Whatever is left ends and goes with this process.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { identify, isAlive, killProcess, type ProcessIdentity } from '../../src/hypervisor/shared/process.js'
import { patience } from '../patience.js'
import { makeDisk, readCounts, soon, until } from './boot-guest.js'
import { scratch } from './machines.js'

// As a distribution gives QEMU's user the use of KVM: libvirt would go on probing QEMU for as long as it lacks that.
const openKvm = `if [ -e /dev/kvm ]; then
  mount -t tmpfs tmpfs "$D/dev"
  mknod -m 666 "$D/dev/kvm" c 10 232
  mount --bind "$D/dev/kvm" /dev/kvm
fi`

// libvirtd looks up Debian's user for QEMU before it reads which one its configuration names. The package that makes
// that user is not installed for a test (it would start a libvirtd of the system's): only our libvirtd sees this one.
const qemuUser = `for file in passwd group; do
  getent $file libvirt-qemu >/dev/null && continue
  cp /etc/$file "$D/etc/$file"
  mount --bind "$D/etc/$file" /etc/$file
done
getent passwd libvirt-qemu >/dev/null || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
getent group libvirt-qemu >/dev/null || echo 'libvirt-qemu:x:64055:' >>/etc/group`

const places = {
  run: '/run/libvirt',
  etc: '/etc/libvirt',
  lib: '/var/lib/libvirt',
  cache: '/var/cache/libvirt',
  log: '/var/log/libvirt',
  // Descriptions of firmware, which libvirt chooses from.
  firmware: '/etc/qemu/firmware',
}

/** Places that were not there, a line each: whoever ends last removes them, whoever has made them. */
const madePlaces = '/run/snapswitch-test-places'

function makePlaces(): void {
  for (const place of Object.values(places)) {
    if (existsSync(place)) continue
    const first = mkdirSync(place, { recursive: true }) ?? place
    for (let made = place; made.length >= first.length; made = path.dirname(made))
      appendFileSync(madePlaces, `${made}\n`)
  }
}

/** A directory that goes takes the mounts on it along, in whatever namespace they are. */
function removePlaces(): void {
  if (!existsSync(madePlaces)) return
  const made = [...new Set(readFileSync(madePlaces, 'utf8').split('\n'))].filter((place) => place !== '')
  const used = mountPoints()
  for (const place of made.sort((one, other) => other.length - one.length)) {
    try {
      if (!used.has(place)) rmdirSync(place)
    } catch {
      // It is not empty, or gone.
    }
  }
  if (!made.some((place) => existsSync(place))) rmSync(madePlaces, { force: true })
}

/** Of all mount namespaces. */
function mountPoints(): Set<string> {
  const namespaces = new Map<string, string>()
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const namespace = readlinkSync(`/proc/${pid}/ns/mnt`)
      if (!namespaces.has(namespace)) namespaces.set(namespace, readFileSync(`/proc/${pid}/mountinfo`, 'utf8'))
    } catch {
      // It has ended.
    }
  }
  const lines = [...namespaces.values()].flatMap((text) => text.split('\n'))
  return new Set(lines.map((line) => line.split(' ')[4] ?? ''))
}

/** QEMU as root with its capabilities may use userfaultfd; another user, as Debian has it, may not by default. */
export type QemuUser = 'root' | 'nobody'

export interface DomainOptions {
  readonly memoryMiB?: number
  readonly format?: 'qcow2' | 'raw'
  readonly taps?: readonly string[]
  /** Makes its NICs' addresses differ from those of other domains: one digit. */
  readonly number?: number
  /** More elements of `<devices>`. */
  readonly devices?: string
  /** More elements of `<os>`. */
  readonly os?: string
  /** libvirt chooses a UEFI firmware, of those that are described in `firmware` of the daemon's directory. */
  readonly efi?: boolean
  readonly persistent?: boolean
  readonly start?: boolean
}

/** A host with files of its own that a libvirtd lives on (test/lab/host.ts). */
export interface LibvirtHost {
  /** Arguments of nsenter. */
  readonly entry: readonly string[]
  /** A path as we have it, of one that the host has. */
  outside(path: string): string
}

export interface TestDomain {
  readonly name: string
  /** As libvirt has it. */
  readonly disk: string
  /** As we have it. */
  readonly serial: string
  readonly xmlFile: string
}

export class LibvirtDaemon {
  /** As we have it. */
  readonly directory: string
  /** The same as it has it. */
  readonly inside: string
  readonly uri: string
  #child: ChildProcess | null = null
  readonly #entry: readonly string[]
  readonly #killAtExit = () => this.#killAll()

  private constructor(inside: string, host: LibvirtHost) {
    this.directory = host.outside(inside)
    this.inside = inside
    this.#entry = host.entry
    this.uri = `qemu+unix:///system?socket=${this.directory}/run/libvirt-sock`
  }

  /**
   * `where`: the network namespace, or the host, that it and its domains live in. `inside`: its own, empty, as it has
   * it.
   */
  static async start(
    user: QemuUser = 'root',
    where?: string | LibvirtHost,
    inside = scratch('libvirt'),
  ): Promise<LibvirtDaemon> {
    // Newer ones of nsenter want a namespace, be it their own.
    const entry = [typeof where === 'string' ? `--net=/run/netns/${where}` : '--net=/proc/self/ns/net']
    const host = typeof where === 'object' ? where : { entry, outside: (path: string) => path }
    const directory = host.outside(inside)
    // QEMU's user has to get through to the disks.
    chmodSync(directory, 0o755)
    for (const place of [...Object.keys(places), 'dev']) {
      // As on any system /run is memory: libvirtd writes there, and waits for it, whenever a domain stops or runs on.
      if (place === 'run') symlinkSync(mkdtempSync('/dev/shm/snapswitch-libvirt-'), path.join(directory, place))
      else mkdirSync(path.join(directory, place))
    }
    chmodSync(path.join(directory, 'run'), 0o755)
    mkdirSync(path.join(directory, 'etc', 'qemu'))
    const settings = ['stdio_handler = "file"', 'cgroup_controllers = [ ]']
    if (user === 'root') settings.push('user = "root"', 'group = "root"', 'clear_emulator_capabilities = 0')
    else settings.push('user = "nobody"', 'group = "nogroup"')
    writeFileSync(path.join(directory, 'etc', 'qemu.conf'), `${settings.join('\n')}\n`)
    writeFileSync(path.join(directory, 'etc', 'libvirtd.conf'), 'log_level = 3\nauth_unix_rw = "none"\n')
    const daemon = new LibvirtDaemon(inside, host)
    process.on('exit', daemon.#killAtExit)
    // A test that takes too long is ended by signal: leave by the same door. Whoever listens already has one.
    if (process.listenerCount('SIGTERM') === 0) process.once('SIGTERM', () => process.exit(143))
    await daemon.launch()
    return daemon
  }

  get pid(): number {
    return this.#child!.pid!
  }

  /** Starts it, for the first time or again. */
  async launch(): Promise<void> {
    // Once more, for another libvirtd's end may have just removed them.
    const mounts = Object.entries(places).map(
      ([name, place]) => `mkdir -p ${place}; mount --bind "$D/${name}" ${place}`,
    )
    makePlaces()
    const script = [
      qemuUser,
      ...mounts,
      openKvm,
      'exec setpriv --pdeathsig KILL libvirtd --pid-file "$D/run/libvirtd.pid"',
    ].join('\n')
    // A socket file that the last one left refuses connections; a new one tells that it is up.
    rmSync(path.join(this.directory, 'run', 'libvirt-sock'), { force: true })
    const env = { ...process.env, D: this.inside, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
    const child = spawn(
      'nsenter',
      [...this.#entry, 'unshare', '--mount', '--propagation', 'private', 'sh', '-ec', script],
      {
        env,
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    )
    let said = ''
    child.stderr!.on('data', (chunk) => {
      said = (said + String(chunk)).slice(-2000)
    })
    this.#child = child
    await until(
      'libvirtd',
      () => {
        if (child.exitCode !== null) throw new Error(`libvirtd ended: ${said}`)
        return existsSync(path.join(this.directory, 'run', 'libvirt-sock')) && this.#answers()
      },
      60_000,
    )
  }

  #answers(): boolean {
    try {
      // Has it look at all QEMUs there are, which takes seconds the first time.
      this.virsh('capabilities')
      return true
    } catch {
      return false
    }
  }

  /** Ends libvirtd; its domains run on. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#child
    this.#child = null
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000)
    await gone
    clearTimeout(timer)
  }

  /** Ends everything and removes the directory. */
  async end(): Promise<void> {
    await this.stop()
    for (const machine of this.machines()) await killProcess(machine, soon(5000))
    process.off('exit', this.#killAtExit)
    this.#removeAll()
  }

  #removeAll(): void {
    const run = path.join(this.directory, 'run')
    if (existsSync(run)) rmSync(realpathSync(run), { recursive: true, force: true })
    rmSync(this.directory, { recursive: true, force: true })
    removePlaces()
  }

  #killAll(): void {
    this.#child?.kill('SIGKILL')
    for (const { pid } of this.machines()) process.kill(pid, 'SIGKILL')
    this.#removeAll()
  }

  /** The address at which a program on the same host finds it. */
  get uriOnHost(): string {
    return this.uri.replace(this.directory, this.inside)
  }

  /** The QEMU processes of this libvirtd's domains. */
  machines(): ProcessIdentity[] {
    const directory = path.join(this.directory, 'run', 'qemu')
    const files = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith('.pid')) : []
    return files.flatMap((name) => {
      const identity = identify(Number(readFileSync(path.join(directory, name), 'utf8')))
      return identity !== null && isAlive(identity) ? [identity] : []
    })
  }

  virsh(...args: string[]): string {
    // What it says in an error is part of the exception.
    return execFileSync('virsh', ['-q', '-c', this.uri, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: patience(60_000),
    }).trim()
  }

  /** `virsh domblklist` as target and file, sorted. */
  disks(domain: string, inactive = false): Record<string, string> {
    const rows = this.virsh('domblklist', domain, ...(inactive ? ['--inactive'] : [])).split('\n')
    return Object.fromEntries(rows.map((row) => row.trim().split(/\s+/) as [string, string]))
  }

  /** Makes a domain and waits for its first words. */
  async domain(name: string, options: DomainOptions = {}): Promise<TestDomain> {
    const { memoryMiB = 64, format = 'qcow2', taps = [], number = 0, devices = '', os = '', efi = false } = options
    const at = (file: string) => path.join(this.directory, `${name}${file}`)
    const inside = (file: string) => path.join(this.inside, `${name}${file}`)
    const diskSuffix = format === 'qcow2' ? '.qcow2' : '.img'
    const disk = inside(diskSuffix)
    const domain = { name, disk, serial: at('.serial'), xmlFile: at('.xml') }
    makeDisk(at(diskSuffix), format)
    const nics = taps.map(
      (tap, i) =>
        `<interface type='ethernet'><mac address='52:54:00:0a:0${number}:0${i + 1}'/><target dev='${tap}' managed='no'/>` +
        `<model type='virtio'/></interface>`,
    )
    writeFileSync(
      domain.xmlFile,
      `<domain type='qemu'><name>${name}</name><memory unit='MiB'>${memoryMiB}</memory><vcpu current='1'>2</vcpu>
<os${efi ? " firmware='efi'" : ''}><type arch='x86_64' machine='pc'>hvm</type>${os}</os>
${os === '' && !efi ? '' : '<features><acpi/></features>'}
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='${format}'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
${devices}${nics.join('\n')}
<serial type='file'><source path='${inside('.serial')}' append='on'/></serial>
<memballoon model='none'/></devices></domain>\n`,
    )
    if (options.persistent === false) this.virsh('create', domain.xmlFile)
    else {
      this.virsh('define', domain.xmlFile)
      if (options.start === false) return domain
      this.virsh('start', name)
    }
    await this.runs(domain)
    return domain
  }

  /** Waits until the guest says more than it has said so far, and libvirt has heard that it runs: it is told later. */
  async runs({ name, serial }: TestDomain): Promise<void> {
    const counts = () => (existsSync(serial) ? readCounts(serial).length : 0)
    const before = counts()
    await until('the guest to say more', () => counts() > before + 3, 20_000)
    await until('libvirt to hear of it', () => this.virsh('domstate', name) === 'running', 20_000)
  }
}
